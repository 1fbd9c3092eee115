"""Refuse to run beside the PyPI project ``pytest-isolate``.

It ships the same import package (its ``pytest_isolate/__init__.py`` overwrites ours, or ours its) and the same
marker, and its entry point imports the same module, `pytest_isolate.plugin`, so that pluggy would fail with
“plugin already registered” after loading us. Hence the check runs when our plugin is imported.
"""

from __future__ import annotations

from importlib.metadata import Distribution
from typing import Final

import pytest

import pytest_isolate

__all__ = ["refuse"]

_OTHER: Final = "pytest-isolate"
_OURS: Final = "pytest-isolate-sandbox"


def refuse() -> None:
    """Return if the other project isn't installed, and hasn't taken our files along when it left.

    Costs little: the finder compares directory names, and pytest's own search for plugins has listed the directories.

    Raises:
        pytest.UsageError: it is installed, or was.
    """
    other = next(iter(Distribution.discover(name=_OTHER)), None)
    if other is None:
        if not hasattr(pytest_isolate, "__version__"):
            raise pytest.UsageError(
                f"the installation of {_OURS} is damaged: pytest_isolate/__init__.py is missing or not ours, as after uninstalling "
                f"{_OTHER}, which has a file of that name. Remedy: pip install --force-reinstall {_OURS}"
            )
        return
    raise pytest.UsageError(
        f"{_OURS} can't run beside the project {_OTHER} {_version(other)} in {other.locate_file('')}: both install the package "
        f"pytest_isolate and the marker `isolate`, so either one may have overwritten files of the other. "
        f"Remedy: uninstall both, then install the one you want: "
        f"pip uninstall -y {_OTHER} {_OURS} && pip install {_OURS}"
    )


def _version(distribution: Distribution) -> str:
    try:
        return distribution.version or ""
    except (KeyError, OSError):  # metadata half removed
        return ""
