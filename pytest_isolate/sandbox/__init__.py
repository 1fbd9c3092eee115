"""Sandboxes as a small library, without pytest: `with Sandbox(spec) as box: box.run(["id"])`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytest_isolate.sandbox.builder_process import Facts
    from pytest_isolate.sandbox.pool import Pool
    from pytest_isolate.sandbox.process import Process
    from pytest_isolate.sandbox.sandbox import Events, Sandbox

__all__ = ["Events", "Facts", "Pool", "Process", "Sandbox"]

_HOMES: Final = {"Events": "sandbox", "Facts": "builder_process", "Pool": "pool", "Process": "process", "Sandbox": "sandbox"}


def __getattr__(name: str) -> Any:
    """Each on first use: the builder uses none of them, and pytest starts the builder before it loads the rest."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
