"""pytest-isolate: each marked test in its own Linux sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_isolate.plugin.recipe import isolate_layer as isolate_layer
    from pytest_isolate.plugin.snapshot import isolate_snapshot as isolate_snapshot

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What suites import from here; the sandbox library alone has no need of it."""
    if name == "isolate_layer":
        from pytest_isolate.plugin.recipe import isolate_layer

        return isolate_layer
    if name == "isolate_snapshot":
        from pytest_isolate.plugin.snapshot import isolate_snapshot

        return isolate_snapshot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
