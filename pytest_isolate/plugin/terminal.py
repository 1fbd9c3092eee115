"""What the terminal shows: one header line, and the section at the end.

Records arrive as the attribute `isolate` of each test's last report, on the controller under xdist as in a
plain run, so nothing else has to be carried; sentences about the run that belong to no test (`add_note`) come
from xdist's workers with their `workeroutput`. What the section looks like is `report.terminal`'s part.
The header comes before collection: unless every test is isolated nobody knows yet whether any is, and then
nothing is read from the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.plugin.settings import settings_key

if TYPE_CHECKING:
    from pytest_isolate.plugin.preload import Imports
    from pytest_isolate.plugin.settings import Settings
    from pytest_isolate.report.record import Run

__all__ = ["add_note", "register"]

_notes_key: Final = pytest.StashKey[dict[str, None]]()
_WORKER_NOTES: Final = "pytest_isolate_notes"


def register(config: pytest.Config) -> None:
    """To be called once in `pytest_configure`, after the settings are in the stash."""
    notes = config.stash[_notes_key] = dict[str, None]()
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_WorkerNotes(config, notes), "isolate-worker-notes")
    else:
        config.pluginmanager.register(_Section(config, notes), "isolate-terminal")


def add_note(config: pytest.Config, text: str) -> None:
    """Show `text` once in the section, whichever process says it and however often."""
    config.stash[_notes_key][text] = None


class _Section:
    """Header and section. A run without isolated tests doesn't pay for the modules behind them."""

    def __init__(self, config: pytest.Config, notes: dict[str, None]) -> None:
        self.settings = config.stash[settings_key]
        self.notes = notes
        self.run: Run | None = None
        self.imports: Imports | None = None

    def pytest_report_header(self, config: pytest.Config) -> str:
        return header(config.stash[settings_key])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (data := getattr(report, "isolate", None)) is None:
            return
        from pytest_isolate.report.record import Run, TestRecord

        if (record := TestRecord.from_json(data)) is None:
            return
        if self.run is None:
            self.run = Run()
        # xdist names the worker; the same test on two of them (--dist=each) is two tests.
        self.run.add(record, str(getattr(report, "worker_id", "")))
        if imports := getattr(report, "isolate_imports", None):
            self._imported(imports)

    def _imported(self, imports: list[tuple[str, float]]) -> None:
        from pytest_isolate.plugin.preload import Imports

        if self.imports is None:
            self.imports = Imports(self.settings.preload)
        for name, seconds in imports:
            self.imports.add(name, seconds)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """xdist's hook: a worker is done; one that crashed has no output."""
        for note in getattr(node, "workeroutput", {}).get(_WORKER_NOTES, ()):
            self.notes[str(note)] = None

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        if self.run is None:
            return
        for note in self.notes:
            self.run.note(note)
        if self.imports and (hint := self.imports.hint()):
            self.run.note(hint)
        _write(self.run, terminalreporter, config)


def _write(run: Run, reporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    from pytest_isolate.plugin.private import stream_encoding
    from pytest_isolate.report.terminal import Style, render, title

    writer = config.get_terminal_writer()
    verbosity = config.get_verbosity()
    style = Style(writer.fullwidth, stream_encoding(writer), verbosity, config.stash[settings_key].top)
    heading, styles = title(run)
    if verbosity >= 0 or run.problems():
        reporter.write_sep("=", heading, **dict.fromkeys(styles, True))
    else:
        reporter.ensure_newline()
    for line in render(run, style):
        for text, names in line:
            reporter.write(text, **dict.fromkeys(names, True))
        reporter.line("")


class _WorkerNotes:
    """In a worker of xdist: hands the notes to the controller."""

    def __init__(self, config: pytest.Config, notes: dict[str, None]) -> None:
        self.config = config
        self.notes = notes

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        # xdist sends workeroutput at the end of its own wrapper around this hook.
        output: dict[str, Any] = self.config.workeroutput  # type: ignore[attr-defined]
        output[_WORKER_NOTES] = list(self.notes)


def header(settings: Settings) -> str:
    if settings.no_isolate:
        return "isolate: off (--no-isolate)"
    if not settings.isolate_all:
        return "isolate: marked tests"
    return f"isolate: all tests; {_refusal(settings.cgroup) or _in_force(settings.cgroup)}"


def _refusal(delegated: str | None) -> str:
    """What the doctor found, if it was asked since the machine started and nothing can be isolated; else empty."""
    from pytest_isolate.probe.cache import known_refusal

    if (report := known_refusal(delegated)) is None:
        return ""
    return f"but none can be: {report['sandbox'].why} (python -m pytest_isolate doctor)"


def _in_force(delegated: str | None) -> str:
    """What this process can give its sandboxes, from a handful of reads of /proc; the builder finds out by doing."""
    from pytest_isolate.kernel.cgroup import detect
    from pytest_isolate.kernel.namespaces import NAMES
    from pytest_isolate.sandbox.delegation import own_scope

    parts = ["root" if may_mount() else "rootless", f"namespaces {','.join(NAMES)}"]
    hierarchy = detect(delegated)
    controllers = ",".join(name for name in ("cpu", "memory", "pids", "io") if name in hierarchy.controllers)
    parts.append(f"cgroup {hierarchy.layout}: {controllers}" if controllers else "no cgroups: no caps, few figures")
    if scope := own_scope():
        parts.append(f"pytest moved to {scope}")
    return "; ".join(parts)


_CAP_SYS_ADMIN: Final = 21


def may_mount() -> bool:
    """Whether unshare(CLONE_NEWNS) is allowed, which decides how the builder works (capabilities(7))."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next((line.split()[1] for line in file if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)
