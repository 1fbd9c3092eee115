"""Modules imported before the first fork, and the hint that names the ones that should be.

A module that a test's body imports is imported again in every test process: 50 tests that import trio pay for
it 50 times. `isolate_preload` imports such modules once, in the pytest process, for all forks to inherit.

Who should be on that list is measured in the child. A finder at the head of `sys.meta_path` sees the start of
every import that isn't cached. Its end shows when importlib drops the module's lock: a weak reference to the
lock calls back. No import is wrapped or delayed and no traceback changes. Times go out with the test's last
report and are added up where reports are (under xdist: the controller).
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pytest

from pytest_isolate.model.units import format_duration

__all__ = ["ATTRIBUTE", "ImportTimer", "Imports", "preload"]

ATTRIBUTE: Final = "isolate_imports"
"""Of a test's last report: a list of [module, seconds]. Plain, since xdist sends it with the report."""

_LEAST_SECONDS: Final = 0.001
_MOST_MODULES: Final = 20
_HINT_TESTS: Final = 3
_HINT_SECONDS: Final = 0.1
_HINT_MODULES: Final = 5


def preload(names: Iterable[str]) -> None:
    """Import `names`, in order: in `pytest_configure`, because a `UsageError` is lost later under xdist. The controller
    of xdist therefore imports them too.

    Raises:
        pytest.UsageError: naming each one that can't be imported, and why.
    """
    problems = []
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            problems.append(f"isolate_preload: {name!r} is not a module's name; accepted: dotted names, package.module")
            continue
        try:
            importlib.import_module(name)
        except (KeyboardInterrupt, pytest.exit.Exception):
            raise
        except BaseException as error:  # noqa: BLE001 - a module may raise SystemExit or pytest's Skipped, neither of them an Exception
            problems.append(
                f"isolate_preload: {name} can't be imported: {type(error).__name__}: {error}; "
                "remedy: install it, or take it off the list"
            )
    if problems:
        raise pytest.UsageError(*problems)


class ImportTimer:
    """In the child: times each import that isn't nested in another one of the same thread."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._running: dict[int, str] = {}
        self._locks: dict[int, object] = {}

    def install(self) -> None:
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - importlib's signature
        """importlib's question to a finder; always answered with “not mine”."""
        thread = threading.get_ident()
        if thread in self._running:
            return
        # The only private name here: `_module_locks`, name -> weak reference, is how importlib itself shares a
        # lock between threads. Without it (another implementation) nothing is measured and no hint is given.
        locks: dict[str, Any] = getattr(sys.modules["_frozen_importlib"], "_module_locks", {})
        reference = locks.get(name)
        lock = reference() if reference is not None else None
        if lock is None:
            return
        start = time.perf_counter()

        def finished(_reference: object) -> None:
            self._running.pop(thread, None)
            self._locks.pop(thread, None)
            if name in sys.modules:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

        self._running[thread] = name
        self._locks[thread] = weakref.ref(lock, finished)

    def measured(self) -> list[tuple[str, float]]:
        """The imports worth a mention, slowest first."""
        heavy = [(name, seconds) for name, seconds in list(self._seconds.items()) if seconds >= _LEAST_SECONDS]
        return sorted(heavy, key=lambda pair: -pair[1])[:_MOST_MODULES]


class Imports:
    """Where reports are collected: adds up what tests imported and words the hint."""

    def __init__(self, preloaded: Sequence[str] = ()) -> None:
        self._preloaded = preloaded
        self._tests: dict[str, int] = {}
        self._seconds: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        self._tests[name] = self._tests.get(name, 0) + 1
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def hint(self) -> str | None:
        """One line for the summary; None if preloading would save little.

        A module counts when at least 3 tests imported it and all but the first import together took 0.1 s.
        """
        saved = {
            name: self._seconds[name] * (tests - 1) / tests
            for name, tests in self._tests.items()
            if tests >= _HINT_TESTS and name not in self._preloaded
        }
        names = sorted((name for name, seconds in saved.items() if seconds >= _HINT_SECONDS), key=lambda name: -saved[name])
        if not names:
            return None
        first = names[0]
        each = format_duration(self._seconds[first] / self._tests[first])
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        listed = " ".join([*self._preloaded, *names[:_HINT_MODULES]])
        return f"{self._tests[first]} tests each imported {first} ({each}){others}: set isolate_preload = {listed}"
