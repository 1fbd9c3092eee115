"""The pytest process's side of one test process: fork it, wait for its reports, judge its end.

Whatever is raised while it waits (the SIGALRM of pytest-timeout, Ctrl-C) is the result of the phase that the
test is in.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final, Literal, NoReturn

import pytest

from pytest_isolate.kernel.signals import block_signals, restore_signals
from pytest_isolate.model.samples import Samples
from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import ProcessInfo, Usage
from pytest_isolate.plugin import private, reports
from pytest_isolate.plugin.child import EXIT_UNREPORTED, Child, become, take_terminal
from pytest_isolate.plugin.contacts import ContactList
from pytest_isolate.plugin.errands import Errands
from pytest_isolate.plugin.forked import Forked, TimedOut
from pytest_isolate.plugin.forwarding import Forwarding
from pytest_isolate.plugin.outside import Outside
from pytest_isolate.plugin.relay import Relay
from pytest_isolate.plugin.reports import Given, fail_at
from pytest_isolate.plugin.verdict import DiskWasFull, Ending, Verdict, judge
from pytest_isolate.plugin.wire import Frame, encode, pair, send
from pytest_isolate.plugin.written import Written
from pytest_isolate.sandbox import Events, Sandbox
from pytest_isolate.sandbox.process import TICK

__all__ = ["Attempt"]

Phase = Literal["setup", "call", "teardown"]

_GRACE: Final = 3.0
"""Seconds that an interrupted test has for its teardown."""

_SILENT: Final = ("usage", "changes", "errand", "coverage", "captured", "unforwarded")
"""Frames that nothing is printed for."""

_INIT_END: Final = 0.3
"""Seconds for an init to be seen dead after it took the test process along."""


class Attempt:
    """One test process.

    Args:
        item: the test.
        spec: after weakening.
        box: the sandbox; it is released with the attempt.
        relays: what the test process carries over.
        setup_seconds: what getting the sandbox took.
        forwarding: of servers outside, if there are any.

    Attributes:
        teardown_began: pytest is in the item's teardown phase.
        pid: of the test process; 0 before the fork.
        started: when it joined its sandbox, in seconds since the epoch; None before.
        forwarding: see above.
    """

    def __init__(
        self,
        item: pytest.Item,
        spec: Spec,
        box: Sandbox,
        outside: Outside,
        relays: dict[str, Relay],
        *,
        setup_seconds: float,
        forwarding: Forwarding | None,
    ) -> None:
        self.item, self.spec = item, spec
        self.given: dict[str, Given] = {}
        self.imports: Sequence[Any] = ()
        self.fixtures: Sequence[str] = getattr(item, "fixturenames", ())
        self.usage = Usage()
        self.verdict: Verdict | None = None
        self.network = ContactList(box)
        self.written = Written(item, box, outside.keeping)
        self.stack = ""
        self.teardown_began = False
        self.started: float | None = None
        self.pid = 0
        self._box = box
        self._outside = outside
        self._relays = relays
        self._setup_seconds = setup_seconds
        self.forwarding = forwarding
        self._phase: Phase = "setup"
        self._process: Forked | None = None
        self._started = self._stopped = 0.0
        self._deadline: float | None = None
        self._events: Events | None = None
        self._has_terminal = False
        self._figures: Usage | None = None
        self._pid_inside, self._failed = 0, False
        self._errands = Errands(item, box, self._answer)
        self._sampling: Any = None
        self.samples: Samples | None = None

    # --- the fork ---

    def fork(self, hooks: object) -> Child | None:
        """Fork the pytest process into the sandbox: the child's side in the child, None in the parent.

        Args:
            hooks: the plugin whose pytest_runtest_logreport is the child's relay.

        Raises:
            SetupError, SandboxGone: there is no test process.
        """
        outside = self._outside
        outside.reap()
        outside.clear()
        outside.timer.stop()
        private.flush(self.item.config)
        ours, theirs = pair()
        begun = time.perf_counter()
        # What a signal handler raises must not fall between the fork and the notice of it.
        mask = block_signals()
        try:
            pid = self._box.fork(lambda error: send(theirs, encode({"kind": "refused", "error": error.to_json()})[0]))
        except BaseException:
            os.close(ours)
            os.close(theirs)
            self._box.release()
            self._events = Events()
            restore_signals(mask)
            raise
        if pid == 0:
            os.close(ours)
            try:
                child = become(
                    self.item, theirs, self._relays, outside, spec=self.spec, box=self._box, forwarding=self.forwarding
                )
                child.settle(hooks)
            except BaseException:  # noqa: BLE001 - whatever it is
                # It must not go on as a second pytest process.
                send(theirs, encode({"kind": "escaped", "trace": traceback.format_exc()})[0])
                os._exit(EXIT_UNREPORTED)
            restore_signals(mask)
            return child
        os.close(theirs)
        self.pid, self._process = pid, Forked(pid, ours)
        self._has_terminal = outside.foreground
        self._started, self.started = time.perf_counter(), time.time()
        self._setup_seconds += self._started - begun
        self._deadline = self._started + self.spec.timeout if self.spec.timeout else None
        if outside.sample:
            from pytest_isolate.plugin.sampling import Sampling  # in few runs

            self._sampling = Sampling(self.item.config, self._box, outside.sample)
        restore_signals(mask)
        return None

    # --- the phases ---

    def wait(self) -> None:
        """Until the report of the running phase is there. Raises what is the phase's result instead of a report."""
        try:
            while (process := self._process) is not None:
                frame = self._frame(process)
                if frame is None:
                    self._end()
                    self._fail()
                elif self._took(frame):
                    return
        except TimedOut:
            self._time_out()
        except (KeyboardInterrupt, pytest.exit.Exception):
            if self._process is not None:
                self._interrupt(self._process)
            raise
        except BaseException as error:
            if self._process is not None:
                self.stack = self._outside.crash.dump(self._process.pidfd)
                self._kill(self._process)
            if isinstance(error, pytest.fail.Exception):
                error.pytrace = False  # its frames are those of this loop; the test's are in a section
            raise

    def call(self) -> None:
        """In place of `item.runtest`."""
        self._go("call")
        self.wait()

    def tear_down(self) -> None:
        """The item's first finalizer."""
        if self._process is None:
            return
        if not self.teardown_began:  # pytest takes everything down because of an interrupt: nothing more of the test may run
            self._interrupt(self._process)
            return
        self._go("teardown")
        self.wait()
        if self._process is not None:
            if not self._end_early(self._process):
                self._reap(self._process)
            self._end()
        if self.verdict is not None and self.verdict.leak_fails and self.verdict.leak:
            fail_at(self.item, self.verdict.leak.text())

    def sections(self, failure: str) -> list[tuple[str, str]]:
        """What a failing report says beside `failure`, its text."""
        if self._events is None and self._process is None:  # nothing ever ran in it
            return []
        events = self._events if self._events is not None else self._box.events()
        usage = self._box.usage() if self._process is not None else self.usage  # a sandbox that wasn't entered is given back
        verdict = self.verdict or judge(Ending(None, self._phase, self.spec, events, usage))
        found = [(finding.title, finding.text()) for finding in verdict.findings if finding not in (verdict.cause, verdict.leak)]
        if verdict.leak and not verdict.leak_fails:
            found.append((verdict.leak.title, verdict.leak.text()))
        if not events.disk_full and (was_full := DiskWasFull.told_by(failure, self.spec)):
            found.append((was_full.title, was_full.text()))
        if self._process is not None:
            self.network.take()
            self.written.take()
        found += [*self.network.sections(), *self.written.sections()]
        if refused := self._outside.refusals.section(self.spec, events.refused_packets):
            found.append(refused)
        if missed := self._outside.missed.section(self.spec):
            found.append(missed)
        if self.forwarding is not None and (not_forwarded := self.forwarding.section()):
            found.append(not_forwarded)
        if self.stack:
            found.append(("isolate: stack of the test process", self.stack))
            self.stack = ""
        return found

    def _go(self, phase: Phase) -> None:
        # Not before: both processes share the file that pytest captures into, and the end of a phase here empties it.
        self._phase = phase
        self._answer({})

    def _answer(self, frame: Frame) -> None:
        session = self.item.session
        if self._process is not None:
            self._process.tell({"stops": (session.shouldstop, session.shouldfail), **frame})

    # --- what comes from the test process ---

    def _frame(self, process: Forked) -> Frame | None:
        """The next one; None once the process is dead and has left none. Raises TimedOut."""
        frame: Frame | None = None
        try:
            frame = process.frame(self._deadline, self._tick)
        except ValueError:
            self._kill(process)
            fail_at(self.item, "something else than reports came from the test process")
        finally:
            if (live := self._outside.live) is not None and (frame is None or frame["kind"] not in _SILENT):
                live.erase()
        return frame

    def _tick(self) -> float | None:
        """While a frame is waited for; after how many seconds it is to be called again, None: not at all."""
        if sample := self._box.sampler:
            sample()
        self._errands.step()
        due = self._outside.live.draw(self) if self._outside.live is not None else None
        return TICK if sample is not None or self._errands.busy else due

    @property
    def now(self) -> tuple[Sandbox, Phase, float, float | None] | None:
        """Sandbox, phase, when it joined and when its time is over (time.perf_counter()), as long as there is a test process."""
        return (self._box, self._phase, self._started, self._deadline) if self._process is not None else None

    def _took(self, frame: Frame) -> bool:
        """Act on one frame; whether it was the phase's report."""
        config = self.item.config
        self._take_along(frame)
        match frame["kind"]:
            case "report":
                report = reports.restored(self.item, frame)
                self.given[frame["when"]] = Given(report, frame.get("error"))
                self._failed = self._failed or report.failed
                self.imports = frame.get("imports", ())
                self.fixtures = frame.get("fixtures") or self.fixtures
                self._pid_inside = frame.get("pid", 0)
                return True
            case "extra":
                report = reports.restored(self.item, frame)
                with nullcontext() if frame["held"] else private.without_capture(config):
                    self.item.ihook.pytest_runtest_logreport(report=report)
                self._answer({})
            case "usage" | "changes" | "uncaptured" as what:
                self._answer({"id": frame["id"], **self._told(what)})
            case "errand":
                self._errands.take(frame)
            case "prompt":
                self._deadline = None
                self._has_terminal = True
                config.hook.pytest_enter_pdb(config=config, pdb=None)
            case "captured":
                self._outside.leave_terminal(None)
            case "coverage":
                pass
            case "unforwarded":
                assert self.forwarding is not None
                self.forwarding.refuse(frame["refused"])
            case _:
                self._left(frame)
        return False

    def _take_along(self, frame: Frame) -> None:
        """What any frame may carry."""
        for name, changes in frame.get("relays", {}).items():
            self._relays[name].apply(changes)
        if (collected := frame.get("coverage")) and self._outside.measured is not None:
            self._outside.measured.merge(collected)

    def _told(self, what: str) -> Frame:
        """The answer to a question of the test process."""
        if what == "uncaptured":
            self._outside.leave_terminal(self)
            return {}
        return self.written.told() if what == "changes" else {"usage": self._box.usage().to_json()}

    def _left(self, frame: Frame) -> NoReturn:
        """The test process ended by something else than its last report."""
        assert self._process is not None
        self._reap(self._process)
        self._end()
        reports.raise_departure(self.item, frame)

    # --- the end ---

    def _interrupt(self, process: Forked) -> None:
        """Let the test see the interrupt as well and tear down, for a moment."""
        self._deadline = time.perf_counter() + _GRACE
        try:
            process.interrupt()
            while (frame := self._frame(process)) is not None:
                if frame["kind"] in ("usage", "changes", "errand", "uncaptured"):  # of its teardown
                    self._took(frame)
                elif frame["kind"] == "report":  # it swallowed the interrupt, and is in pytest's hands again
                    process.interrupt()
                elif frame["kind"] in ("interrupt", "exit", "escaped"):
                    frame["kind"] = "coverage"
                    self._took(frame)
        except (TimedOut, KeyboardInterrupt, pytest.fail.Exception):
            pass
        if self._process is not None:
            self._kill(process)

    def _time_out(self) -> NoReturn:
        process = self._process
        assert process is not None
        stack = self._outside.crash.dump(process.pidfd)
        running = self._box.processes()
        self._kill(process, stack=stack, running=running)
        self._fail()

    def _fail(self) -> NoReturn:
        assert self.verdict is not None
        text = self.verdict.cause.text() if self.verdict.cause else "the test process is gone"
        fail_at(self.item, text)

    def _kill(self, process: Forked, *, stack: str | None = None, running: Sequence[ProcessInfo] = ()) -> None:
        process.kill()
        self._reap(process)
        self._end(stack=stack, running=running, killed=True)

    def _reap(self, process: Forked) -> None:
        if process.status is None:
            process.wait()
            self._stopped = time.perf_counter()
            if self._has_terminal:
                take_terminal(self._outside.terminal)

    def _end_early(self, process: Forked) -> bool:
        """Let go of a test process that has given all its reports and has only its exit before it.

        Its exit, the freeing of a copy of pytest's memory, then goes on beside the next test. Not where more is
        to be learnt from it: it left processes, there are no figures but wait4(2)'s, the terminal is to come back.
        """
        # One task is the test process, which counts until it is waited for.
        others = self._box.tasks() != 1 and any(other.pid != self._pid_inside for other in self._box.processes())
        if self._has_terminal or others or self.written.keeps or self._used().cpu_seconds is None:
            return False
        self._stopped = time.perf_counter()
        process.let_go()
        self._outside.unreaped.append(process.pid)
        return True

    def _used(self) -> Usage:
        """The sandbox's figures, read once: at the end."""
        if self._figures is None:
            self._figures = self._box.usage()
        return self._figures

    def _end(self, *, stack: str | None = None, running: Sequence[ProcessInfo] = (), killed: bool = False) -> None:
        """Judge what came of it and give the sandbox back."""
        process, self._process = self._process, None
        if process is None:
            return
        self._reap(process)
        box = self._box
        left = () if killed or process.pid in self._outside.unreaped else box.processes()
        usage = self._used()
        if usage.cpu_seconds is None:
            # No cgroup: what the kernel adds up for the test process and the descendants that were waited for.
            user, system = process.cpu
            usage = replace(usage, cpu_seconds=user + system, cpu_user_seconds=user, cpu_system_seconds=system)
        status = process.status
        missing = not killed and self._phase not in self.given
        # Where the network was refused is told by failing reports alone.
        self._events = events = box.events([process.pid], network=self._failed or missing or killed)
        killed_outside = missing and process.sigkilled and box.ended(_INIT_END)
        gone = "its init was killed, or the builder that held it" if killed_outside else ""
        self._errands.close()
        if self._sampling is not None:
            self.samples = self._sampling.end()
        self.network.take()
        self.written.end(failed=missing or killed or self._failed or bool(left and self.spec.leak == "fail"))
        if self.forwarding is not None:
            self.forwarding.close()
        released = time.perf_counter()
        box.release()
        self._setup_seconds += time.perf_counter() - released
        self.usage = replace(
            usage,
            wall_seconds=self._stopped - self._started,
            setup_seconds=self._setup_seconds,
            leaked_processes=len(left),
        )
        self.verdict = judge(
            Ending(
                status if missing else None,
                self._phase,
                self.spec,
                events,
                self.usage,
                timed_out=stack is not None,
                stack=stack if stack is not None else self._outside.crash.read() if missing else "",
                pid=process.pid,
                running=running,
                left=left,
                gone=gone,
            )
        )
