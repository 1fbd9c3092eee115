"""What the terminal shows: one header line, and the section at the end.

What the section looks like is `report.terminal`'s part.
The header comes before collection: unless every test is isolated nobody knows yet whether any is, and then
nothing is read from the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from pytest_isolate.plugin.collected import baselines_key, collected_key
from pytest_isolate.plugin.settings import settings_key

if TYPE_CHECKING:
    from pytest_isolate.plugin.settings import Settings
    from pytest_isolate.report.record import Run

__all__ = ["register"]


def register(config: pytest.Config) -> None:
    """To be called once in `pytest_configure`, after the settings and what collects the run are in the stash."""
    if collected_key in config.stash:
        config.pluginmanager.register(_Section(config), "isolate-terminal")


class _Section:
    """Header and section."""

    def __init__(self, config: pytest.Config) -> None:
        self._collected = config.stash[collected_key]

    def pytest_report_header(self, config: pytest.Config) -> str:
        return header(config.stash[settings_key])

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        run = self._collected.finished()
        if run is None and baselines_key in config.stash:
            from pytest_isolate.report.record import Run

            run = Run()
        if run is not None:
            _write(run, terminalreporter, config)


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
    lines = render(run, style)
    if (baselines := config.stash.get(baselines_key, None)) is not None and (more := baselines.lines(style)):
        lines += [(), *more] if lines and verbosity >= 0 else more
    for line in lines:
        for text, names in line:
            reporter.write(text, **dict.fromkeys(names, True))
        reporter.line("")


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
