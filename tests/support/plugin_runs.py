"""pytest in a process of its own, with the plugin and no other one, on what `pytester` holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["Pytest", "plugin"]

Pytest = Callable[..., pytest.RunResult]

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Pytest:
    """Takes pytest's arguments."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    return lambda *args: pytester.runpytest_subprocess("-p", "pytest_isolate.plugin", *args, timeout=120)
