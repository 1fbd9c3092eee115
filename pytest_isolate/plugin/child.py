"""The test process: pytest's hook stack goes on in it after the fork, and its reports go to the pytest process.

It does what pytest would do with one item, phase by phase, and waits after each report until the pytest
process has logged it. It never returns to pytest's main loop: with the last frame, or with whatever escapes
from the item's protocol, it ends by `os._exit`, so that no exit handler of the pytest process runs twice.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from pytest_isolate.model.changes import Changes
from pytest_isolate.model.errors import IsolateError, SandboxGone, error_from_json
from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import Usage
from pytest_isolate.plugin import private, reports, wide
from pytest_isolate.plugin.errands import packed, raised, unpacked
from pytest_isolate.plugin.fixtures import factory_key
from pytest_isolate.plugin.likeness import described
from pytest_isolate.plugin.marks import quiet_key
from pytest_isolate.plugin.measured import Measured
from pytest_isolate.plugin.preload import ImportTimer
from pytest_isolate.plugin.relay import Random, Relay, Stops
from pytest_isolate.plugin.wire import Frame, Line, encode, send
from pytest_isolate.sandbox import Sandbox

if TYPE_CHECKING:
    from pytest_isolate.plugin.forwarding import Forwarding
    from pytest_isolate.plugin.outside import Outside

__all__ = ["EXIT_UNREPORTED", "Child", "become", "take_terminal"]

_leave: Final = os._exit
"""os._exit as it was before any test, or this module, put something in its place."""

EXIT_UNREPORTED: Final = 71
"""Exit status of a test process that could not send its report: the pytest process is gone, or the test closed the channel."""


class Child:
    """This side of one attempt, in the test process.

    Args:
        item: the test.
        line: to the pytest process.
        relays: what to carry over, made before the fork.
        measured: coverage, or None.
        spec: what the sandbox was asked to be.
        box: its handle in the pytest process, to read what was known before the fork.
        terminal: descriptor of the controlling terminal to take when a prompt needs it; -1 for none.
    """

    def __init__(
        self,
        item: pytest.Item,
        line: Line,
        relays: dict[str, Relay],
        measured: Measured | None,
        *,
        spec: Spec,
        box: Sandbox,
        terminal: int,
    ) -> None:
        self.item = item
        self._line = line
        self._relays = relays
        self._measured = measured
        self.spec = spec
        self.address, self.ports = box.address, box.ports
        self._terminal = terminal
        self._imports = ImportTimer()
        self._writing = threading.RLock()
        self._writers = 0
        self._phase_report: pytest.TestReport | None = None
        self._setup_show = bool(getattr(item.config.option, "setupshow", False))

    def settle(self, hooks: object) -> None:
        """Make this copy of the pytest process the test's own. `hooks` is the plugin whose logreport is the relay."""
        gc.freeze()  # the collector no longer touches, and so copies, the pages of what was made before the fork
        private.only_logreport(self.item.config, hooks)
        private.drop_finalizers(self.item)
        private.tear_down_everything(self.item.session)
        for relay in self._relays.values():
            if isinstance(relay, Random):
                relay.start()
        if self._measured is not None:
            self._measured.start()
            self._wrap_exit()
        if self.spec.fixtures == "inside":
            wide.forget(self.item.session)
        if factory_key in self.item.config.stash:
            self.item.config.stash[factory_key].enter(self)
        self._imports.install()

    # --- pytest's hooks, called by the protocol ---

    def enter(self) -> None:
        """A phase begins."""
        if self._setup_show:
            self.item.config.option.setupshow = True

    def made_report(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """After pytest_runtest_makereport for a phase: send the report and wait until it is logged."""
        self._phase_report = report
        last = call.when == "teardown"
        if last and private.interactive(call, report):  # there is no later moment
            self.item.ihook.pytest_exception_interact(node=self.item, call=call, report=report)
        frame = self._report_frame("report", report)
        if call.excinfo is not None:
            frame["error"] = described(call.excinfo.value)
        if report.failed:
            frame["fixtures"] = private.used_fixtures(self.item)
        if last:
            frame["imports"] = self._imports.measured()
            frame["pid"] = os.getpid()
            if self._measured is not None:
                frame["coverage"] = self._measured.collected()
        private.flush(self.item.config)
        self._send(frame)
        if last:
            _leave(0)
        self._take_turn()
        if self._setup_show:  # the pytest process has shown the item's line
            self.item.config.option.setupshow = False

    def log_report(self, report: pytest.TestReport) -> None:
        """pytest_runtest_logreport: those of phases have been sent; others are subtests', to be logged at once."""
        if report is self._phase_report or (not report.failed and self.item.stash.get(quiet_key, False)):
            return
        private.flush(self.item.config)
        frame = self._report_frame("extra", report)
        frame["held"] = private.output_is_captured(self.item.config)
        self._send(frame)
        self._take_turn()

    def escaped(self, error: BaseException | None) -> NoReturn:
        """Whatever leaves the item's protocol: KeyboardInterrupt, pytest.exit, an error in a hook."""
        frame: Frame = {"kind": "escaped", "error": described(error) if error else None}
        if isinstance(error, pytest.exit.Exception):
            frame |= {"kind": "exit", "reason": error.msg, "status": error.returncode, "at": _place(error)}
        elif isinstance(error, KeyboardInterrupt):
            frame |= {"kind": "interrupt", "at": _place(error)}
        elif error is not None:
            frame["trace"] = "".join(traceback.format_exception(error))
        # As pytest does at the end of an interrupted session.
        with contextlib.suppress(BaseException):
            private.tear_down(self.item.session)
        frame["relays"] = self._changes()
        if self._measured is not None:
            frame["coverage"] = self._measured.collected()
        private.flush(self.item.config)
        self._send(frame)
        _leave(0)

    # --- what tests and plugins inside ask for ---

    def usage(self) -> Usage:
        """What the sandbox has used so far; the pytest process reads it."""
        return Usage.from_json(self._line.ask({"kind": "usage"})["usage"])

    def changes(self) -> Changes:
        """What the sandbox did to its files so far; the pytest process has the builder look. Raises IsolateError."""
        answer = self._line.ask({"kind": "changes"})
        if "error" in answer:
            raise error_from_json(answer["error"])
        return Changes.from_json(json.loads(answer["changes"]))

    def errand(self, what: str, box: int, about: dict[str, Any]) -> Any:
        """Ask something of a sandbox of isolate_factory; the pytest process does it. Raises what that raised, IsolateError."""
        __tracebackhide__ = True
        if not self._line.mine():
            raise IsolateError(
                "sandboxes of isolate_factory can be used by the test process alone, and this is one that it forked",
                "use them in the test itself, also from its threads",
            )
        try:
            answer = self._line.ask({"kind": "errand", "what": what, "box": box, "about": packed(about)})
        except (OSError, EOFError) as error:
            raise SandboxGone(f"the pytest process can't be asked: {error}", "leave its descriptors open in the test") from None
        if "error" in answer:
            raise raised(answer["error"])
        return unpacked(answer["value"])

    @contextlib.contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Something is written past the capturing, to the terminal: meanwhile the pytest process has no line there."""
        with self._writing:
            self._writers += 1
            if self._writers == 1:
                self._uncapture()
        try:
            yield
        finally:
            with self._writing:
                self._writers -= 1
                if not self._writers and self._line.mine():
                    with contextlib.suppress(OSError):
                        self._line.send({"kind": "captured"})

    def prompts(self) -> None:
        """A debugger is about to have the terminal, from now on."""
        with self._writing:
            self._writers += 1
            self._uncapture()

    def _uncapture(self) -> None:
        if self._line.mine():
            with contextlib.suppress(OSError, EOFError):
                self._line.ask({"kind": "uncaptured"})

    def prompt(self) -> None:
        """A debugger is about to read from the terminal."""
        self._send({"kind": "prompt"})
        take_terminal(self._terminal)

    # --- sending ---

    def _report_frame(self, kind: str, report: pytest.TestReport) -> Frame:
        config = self.item.config
        data = config.hook.pytest_report_to_serializable(config=config, report=report)
        frame = {"kind": kind, "when": report.when, "report": data, "relays": self._changes()}
        if (shown := reports.shown(report)) is not None:
            frame["shown"] = shown
        return frame

    def _changes(self) -> dict[str, Any]:
        return {name: changes for name, relay in self._relays.items() if (changes := relay.changes()) is not None}

    def _send(self, frame: Frame) -> None:
        if not self._line.mine():
            # A process that the test forked came back up the stack. In plain pytest it would go on to run the rest
            # of the session; nobody waits for it here.
            _leave(EXIT_UNREPORTED)
        data, notes = encode(frame)
        if notes and isinstance(frame.get("report"), dict):
            frame["report"]["sections"] = [*frame["report"]["sections"], ("isolate: report", "\n".join(notes))]
            data, _ = encode(frame)
        try:
            self._line.send_encoded(data)
        except OSError:
            _leave(EXIT_UNREPORTED)

    def _take_turn(self) -> None:
        """Wait until the pytest process says so; take over what logging the report decided (-x, --maxfail)."""
        try:
            answer = self._line.receive()
        except (EOFError, OSError):
            _leave(EXIT_UNREPORTED)
        stops = self._relays["stops"]
        stops.apply(answer["stops"])
        assert isinstance(stops, Stops)
        stops.known()

    def _wrap_exit(self) -> None:
        """A test that ends by os._exit has run lines, too."""
        measured, line = self._measured, self._line

        def leave_measured(status: int) -> NoReturn:
            if measured is not None and line.mine():
                with contextlib.suppress(Exception):
                    line.send({"kind": "coverage", "coverage": measured.collected()})
            _leave(status)

        os._exit = leave_measured


def become(
    item: pytest.Item,
    channel: int,
    relays: dict[str, Relay],
    outside: Outside,
    *,
    spec: Spec,
    box: Sandbox,
    forwarding: Forwarding | None,
) -> Child:
    """In the test process, just forked: let go of what is the pytest process's own, and begin what it is to note."""
    refused = forwarding.serve() if forwarding is not None else None
    shows_lines = outside.live is not None
    outside.leave()
    outside.crash.enable()
    outside.timer.start()
    outside.watch(spec, str(item.config.rootpath))
    child = Child(item, Line(channel), relays, outside.measured, spec=spec, box=box, terminal=outside.terminal)
    if outside.foreground:
        take_terminal(outside.terminal)
    if refused:
        send(channel, encode({"kind": "unforwarded", "refused": refused})[0])
    if shows_lines:
        private.before_capture_is_left(item.config, child.uncaptured, child.prompts)
    return child


def _place(error: BaseException) -> tuple[str, int]:
    """File and line where it was raised, as pytest would name them."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if not frame.f_locals.get("__tracebackhide__"):
            return frame.f_code.co_filename, line
    return __file__, 1


def take_terminal(fd: int) -> None:
    """Make the caller's process group the terminal's foreground group; without it, reading stops the process (SIGTTIN)."""
    if fd < 0:
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
    try:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(fd, os.getpgrp())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
