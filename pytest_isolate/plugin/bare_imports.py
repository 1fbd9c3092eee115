"""Loads what every run needs past pytest's import hook, which looks in each module of a plugin for asserts to rewrite.

That takes a quarter of a millisecond per module, more than the import itself, and there is no assert in these. The order
is that of their imports of one another; one that is missing here is only slower.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Final

import pytest_isolate

__all__ = ["MODULES"]

MODULES: Final = (
    "model", "model.keys", "plugin.conflict", "plugin.options", "plugin.settings", "plugin.marks", "plugin.collected", "plugin.terminal", "plugin.watch",
    "plugin.fixtures", "plugin.hookspecs",
)  # fmt: skip


def _load(name: str) -> None:
    parent_name, _, own = name.rpartition(".")
    parent = sys.modules[parent_name]
    spec = PathFinder.find_spec(name, parent.__path__)
    if spec is None or spec.loader is None:
        return
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    setattr(parent, own, module)


for _name in MODULES:
    if (_full := f"{pytest_isolate.__name__}.{_name}") not in sys.modules:
        _load(_full)
