"""Relays for plugins that keep what tests did in the memory of the session, to use it at its end.

syrupy writes changed snapshots then, and with ``--snapshot-update`` *deletes* those that nobody asserted: tests
that ran in a process of their own must not look as if they hadn't. pytest-benchmark prints and saves its
timings then. Neither has a hook for results from elsewhere, so both relays touch private names, here only;
a plugin that isn't loaded costs one attribute look-up.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_isolate.plugin.relay import Relay

__all__ = ["companions", "refuse"]


def companions(item: pytest.Item) -> list[Relay]:
    """Those for the plugins that are loaded."""
    found: list[Relay] = []
    if snapshots := getattr(item.config, "_syrupy", None):
        found.append(Snapshots(item, snapshots))
    if benchmarks := getattr(item.config, "_benchmarksession", None):
        found.append(Benchmarks(item, benchmarks))
    return found


def refuse(config: pytest.Config) -> None:
    """Options of such plugins that can't work for isolated tests.

    Raises:
        pytest.UsageError: naming the option and the remedy.
    """
    if getattr(config.option, "benchmark_cprofile", None):
        raise pytest.UsageError(
            "--benchmark-cprofile: a profile made in a sandbox can't be brought to the report; remedy: profile with --no-isolate"
        )


class Snapshots(Relay):
    """Assertions of syrupy (4.9 to 7), and the snapshots that they want written."""

    name = "syrupy"

    def __init__(self, item: pytest.Item, session: Any) -> None:
        self._item = item
        self._session = session
        self._first = len(session._assertions)
        self._sent: dict[int, int] = {}
        if not isinstance(session.queue_snapshot_write, _Writes):
            session.queue_snapshot_write = _Writes(session.queue_snapshot_write)
        self._writes: _Writes = session.queue_snapshot_write
        self._written = len(self._writes.done)

    def changes(self) -> Any:
        """Per assertion fixture: its extension's class and what was asserted since the last time; then the writes."""
        asserted = []
        for number, assertion in enumerate(self._session._assertions[self._first :]):
            done = self._sent.get(number, -1)
            results = [_result(assertion.executions[at]) for at in range(max(done, 0), assertion.num_executions)]
            if results or done < 0:
                asserted.append([_class_name(type(assertion.extension)), results])
                self._sent[number] = assertion.num_executions
        written = [[_class_name(cls), _to_text(data), index] for cls, data, index in self._writes.done[self._written :]]
        self._written = len(self._writes.done)
        return [asserted, written] if asserted or written else None

    def apply(self, changes: Any) -> None:
        """Assert in this session what was asserted inside: the same entries, without running anything."""
        from syrupy.assertion import AssertionResult, SnapshotAssertion  # pyright: ignore[reportMissingImports]
        from syrupy.location import PyTestLocation  # pyright: ignore[reportMissingImports]

        location = PyTestLocation(self._item)
        asserted, written = changes
        for name, results in asserted:
            if (extension := self._known(name)) is None:
                continue
            update = self._session.update_snapshots
            assertion = SnapshotAssertion(self._session, extension, location, update)
            for at, result in enumerate(results):
                for data in ("asserted_data", "recalled_data"):
                    result[data] = _from_text(result[data])
                assertion.executions[at] = AssertionResult(**result, exception=None, test_location=location)
        for name, data, index in written:
            if (extension := self._known(name)) is not None:
                self._writes.queue(extension=extension(), test_location=location, data=_from_text(data), index=index)

    def _known(self, name: list[str]) -> Any:
        """The class; where it isn't known here its snapshots can't be told from unused ones, so none is deleted."""
        if (found := _class_of(name)) is None:
            self._item.config.option.no_cleanup = True
            text = (
                f"isolate: syrupy's extension {'.'.join(name)} isn't known outside the test: its new snapshots are not written and "
                "no unused snapshot is deleted in this run; remedy: define the class at module level"
            )
            self._item.warn(pytest.PytestWarning(text))
        return found


class _Writes:
    """In place of the session's `queue_snapshot_write`: it queues, and notes what was queued."""

    def __init__(self, queue: Callable[..., None]) -> None:
        self.queue = queue
        self.done: list[tuple[type, str | bytes, int | str]] = []

    def __call__(self, *, extension: object, test_location: object, data: str | bytes, index: int | str) -> None:
        self.done.append((type(extension), data, index))
        self.queue(extension=extension, test_location=test_location, data=data, index=index)


def _result(result: Any) -> dict[str, Any]:
    plain = {name: getattr(result, name) for name in ("snapshot_location", "snapshot_name", "created", "updated", "success")}
    return {**plain, "asserted_data": _to_text(result.asserted_data), "recalled_data": _to_text(result.recalled_data)}


class Benchmarks(Relay):
    """Timings of pytest-benchmark (5.x)."""

    name = "benchmark"

    def __init__(self, item: pytest.Item, session: Any) -> None:
        self._item = item
        self._session = session
        self._first = len(session.benchmarks)
        self._sent: list[int] = []

    def changes(self) -> Any:
        new = self._session.benchmarks[self._first :]
        sizes = [len(benchmark.stats.data) for benchmark in new]
        if sizes == self._sent:
            return None
        self._sent = sizes
        return [
            {
                "name": benchmark.name,
                "fullname": benchmark.fullname,
                "group": benchmark.group,
                "extra_info": benchmark.extra_info,
                "iterations": benchmark.iterations,
                "has_error": benchmark.has_error,
                "data": benchmark.stats.data,
            }
            for benchmark in new
        ]

    def apply(self, changes: Any) -> None:
        from pytest_benchmark.stats import Metadata

        call = getattr(self._item, "callspec", None)
        mark = self._item.get_closest_marker("benchmark")
        options = {**self._session.options, **(mark.kwargs if mark else {})}
        make: Any = Metadata
        made = []
        for change in changes:
            fixture = SimpleNamespace(
                name=change["name"],
                fullname=change["fullname"],
                group=change["group"],
                param=call.id if call else None,
                params=call.params if call else None,
                extra_info=change["extra_info"],
                cprofile_stats=None,
                has_error=change["has_error"],
            )
            benchmark = make(fixture, change["iterations"], options)
            benchmark.stats.data.extend(change["data"])
            made.append(benchmark)
        self._session.benchmarks[self._first :] = made


def _class_name(cls: type) -> list[str]:
    return [cls.__module__, cls.__qualname__]


def _class_of(name: list[str]) -> Any:
    """The class of that module and qualified name, without an import; None if it isn't there."""
    found: Any = sys.modules.get(name[0])
    for part in name[1].split("."):
        found = getattr(found, part, None)
    return found


def _to_text(data: str | bytes | None) -> list[str] | None:
    """Serialised snapshots are text, or bytes (pictures)."""
    if data is None:
        return None
    return ["bytes", base64.b64encode(data).decode()] if isinstance(data, bytes) else ["text", data]


def _from_text(data: list[str] | None) -> str | bytes | None:
    if data is None:
        return None
    kind, text = data
    return base64.b64decode(text) if kind == "bytes" else text
