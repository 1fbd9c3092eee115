"""Where isolation meets pytest: the hooks that fork a test inside its own `item.setup()`.

pytest's `runtestprotocol` stays in charge on both sides of the fork. In the pytest process `item.setup` sets
up the wide fixtures, forks, and waits for the test process's set-up report; `item.runtest` and a finalizer of
the item wait for the other two; an outermost wrapper of pytest_runtest_makereport hands them to pytest in
place of its own. In the test process the same hook stack goes on, and `child.Child` sends what comes out of
it. Replacing pytest_runtest_protocol instead, as other plugins do, loses reruns, subtests, timeouts,
pytest.exit and the teardown of wide fixtures.
"""

from __future__ import annotations

import copy
import os
import sys
import threading
import time
from collections.abc import Generator
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.model.errors import SandboxGone, SetupError
from pytest_isolate.model.spec import Spec
from pytest_isolate.plugin import chosen, private, reports, wide
from pytest_isolate.plugin.attempt import Attempt
from pytest_isolate.plugin.child import Child
from pytest_isolate.plugin.collected import BREACH, WORKER, add_note
from pytest_isolate.plugin.fixtures import protocol_key
from pytest_isolate.plugin.forwarding import forwards
from pytest_isolate.plugin.likeness import error_like
from pytest_isolate.plugin.marks import spec_key
from pytest_isolate.plugin.measured import Measured, current
from pytest_isolate.plugin.outside import Outside
from pytest_isolate.plugin.preload import ATTRIBUTE
from pytest_isolate.plugin.relay import relays
from pytest_isolate.plugin.reports import Given
from pytest_isolate.plugin.servers import servers
from pytest_isolate.plugin.settings import settings_key
from pytest_isolate.plugin.status import register as answer
from pytest_isolate.plugin.status import status_key
from pytest_isolate.plugin.supply import Obtained, Supply
from pytest_isolate.plugin.witness import Witness
from pytest_isolate.report.record import TestRecord

if TYPE_CHECKING:
    from pytest_isolate.plugin.budgeting import Budgeted
    from pytest_isolate.plugin.repeating import Repeat

__all__ = ["Protocol", "register"]

Steps = Generator[None, Any, Any]

_PATCHED: Final = ("setup", "runtest", "teardown")
_SIMILAR: Final = 2
_SNAPSHOT: Final = "pytest_isolate.plugin.snapshot"


class Protocol:
    """The plugin object; one per run.

    Attributes:
        child: this process's side of a test, in a test process; None in the pytest process.
        attempt: the test process of the running item, if there is one.
    """

    def __init__(self, config: pytest.Config, supply: Supply, witness: Witness, *, threads: int) -> None:
        self.child: Child | None = None
        self.attempt: Attempt | None = None
        self.observed: pytest.TestReport | None = None
        self._config = config
        self.supply = supply
        self._outside: Outside | None = None
        self._witness = witness
        self._measured: Measured | None = None
        self._threads = threads
        self._recorded: list[Any] | None = None
        self._budget: Budgeted | None = None
        self._weakened: tuple[str, ...] = ()
        self._failed = False
        self._saved: dict[str, Any] = {}
        self._times = config.stash[settings_key].repeat
        self._repeat = _repeat(config, self._times)
        self._order: list[pytest.Item] = []
        self._places: dict[pytest.Item, int] = {}
        self._cursor = -1
        self._answers = hasattr(config, "workerinput") and status_key in config.stash  # and the controller doesn't know yet

    @property
    def within_reach(self) -> set[int]:
        """See `Witness`."""
        return self._witness.within_reach

    # --- the run ---

    @pytest.hookimpl(wrapper=True, trylast=True)  # inside of pytest-cov's, which saves what was measured
    def pytest_runtestloop(self, session: pytest.Session) -> Steps:
        if not hasattr(self._config, "workerinput"):  # xdist's workers get their items in another order
            isolated = [item for item in session.items if spec_key in item.stash]
            self._order = [item for item in isolated for _ in range(self._times)]
            self._places = {item: place * self._times for place, item in enumerate(isolated)}
        try:
            return (yield)
        finally:
            if self._measured is not None:
                self._measured.write()

    def pytest_unconfigure(self) -> None:
        if self._outside is not None:
            self._outside.close()
            self._outside = None

    # --- one item ---

    @pytest.hookimpl(wrapper=True, trylast=True)  # innermost: what escapes in the child meets no other wrapper
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Steps:
        spec = item.stash.get(spec_key, None)
        if spec is None or self._config.option.setupplan:
            return (yield)
        self._expect(item, spec, nextitem)
        self._recorded = private.recorded_warnings()
        self._failed = False
        self._patch(item, spec)
        try:
            result = yield
            if self.child is not None:
                self.child.escaped(None)
            return result
        except BaseException as error:
            if self.child is not None:
                self.child.escaped(error)
            raise
        finally:
            self._unpatch(item)
            self.attempt = None
            if self._repeat is not None and self._recorded:
                self._repeat.only_new(self._recorded)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Before pytest's own, which sets up fixtures."""
        if spec_key not in item.stash and (snapshot := sys.modules.get(_SNAPSHOT)) and not self._config.option.setupplan:
            snapshot.refuse_plain(item)

    def _expect(self, item: pytest.Item, spec: Spec, nextitem: pytest.Item | None) -> None:
        """Tell the builder what comes, unless it goes as it was told: a skip takes none, a rerun another one."""
        place = self._places.get(item)
        if place is None:
            following = nextitem.stash.get(spec_key, None) if nextitem is not None else None
            self.supply.expect([spec, *repeat(following, _SIMILAR)] if following else [spec])
        elif not place <= self._cursor < place + self._times:
            self._cursor = place
            self.supply.expect(
                chosen.foreseen(upcoming, upcoming.stash[spec_key]) for upcoming in islice(self._order, place, None)
            )

    def _patch(self, item: pytest.Item, spec: Spec) -> None:
        own = vars(item)
        self._saved = {name: own[name] for name in _PATCHED if name in own}
        own["setup"] = partial(self._set_up, item, spec, item.setup)
        own["runtest"] = self._call
        own["teardown"] = partial(private.forget_instance, item)

    def _unpatch(self, item: pytest.Item) -> None:
        for name in _PATCHED:
            vars(item).pop(name, None)
        vars(item).update(self._saved)

    def _set_up(self, item: pytest.Item, spec: Spec, original: Any) -> None:
        """In place of `item.setup`; returns in both processes."""
        __tracebackhide__ = True
        if spec.fixtures == "shared":
            wide.set_up(item)
        self._failed = False  # of the attempt before, where this is another one
        begun = time.perf_counter()
        try:
            obtained = self.supply.obtain(chosen.by_fixtures(item, spec), item.nodeid)
        except pytest.fail.Exception as error:
            reports.fail_at(item, str(error))
        self._cursor += 1
        self._weakened = obtained.weakened
        outside = self._shared()
        self._note_threads()
        forwarding = outside.forwarder.begin(servers(self._witness, item)) if forwards(obtained.spec) else None
        attempt = Attempt(
            item,
            obtained.spec,
            obtained.box,
            outside,
            relays(item, self._recorded),
            setup_seconds=time.perf_counter() - begun,
            forwarding=forwarding,
        )
        self.attempt = attempt
        budget = self._budget = self._budgeted(item, obtained) if obtained.spec.budget else None
        # Added last, so run first: before class fixtures that a function without a class keeps on its item.
        if item.ihook.pytest_isolate_usage.get_hookimpls():
            item.addfinalizer(partial(_tell_usage, attempt))
        if budget is not None:
            item.addfinalizer(partial(_judge, attempt, budget))
        item.addfinalizer(attempt.tear_down)
        try:
            if budget is not None:
                budget.fork()
            child = attempt.fork(self)
        except (SetupError, SandboxGone) as error:
            reports.fail_at(item, str(error))
        if child is None:
            if budget is not None:
                budget.joined()
            self.supply.proceed()
            attempt.wait()
            if budget is not None:
                budget.stop()
            return
        self.child = child
        self._unpatch(item)
        original()

    def _call(self) -> None:
        """In place of `item.runtest`."""
        __tracebackhide__ = True
        if self.attempt is not None:
            if self._budget is None:
                self.attempt.call()
                return
            self._budget.go_on()
            self.attempt.call()
            self._budget.called(self.attempt.pid)

    def _budgeted(self, item: pytest.Item, obtained: Obtained) -> Budgeted:
        from pytest_isolate.plugin.budgeting import Budgeted

        fails = self._config.stash[settings_key].over == "fail"
        return Budgeted(item, obtained.spec, obtained.box, fails=fails)

    def _shared(self) -> Outside:
        active = current()
        if active is not None and (self._measured is None or not self._measured.is_same(active)):
            self._measured = active
        if self._outside is None:
            self._outside = Outside.of(self._config, self.supply.places)
        self._outside.measured = self._measured
        return self._outside

    def _note_threads(self) -> None:
        """A forked child has one thread. Python warns on each such fork; this says it once, and which."""
        if threading.active_count() > self._threads:
            own = {threading.main_thread(), threading.current_thread()}
            names = ", ".join(sorted(thread.name for thread in threading.enumerate() if thread not in own))
            add_note(self._config, f"threads of the pytest process that tests in sandboxes don't have: {names}")
            self._threads = 1 << 30

    # --- phases ---

    # No wrappers: an exception that passes through one leaves its frame in native tracebacks.

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        if self.child is not None:
            self.child.enter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        if self.child is not None:
            self.child.enter()
        elif self.attempt is not None:
            self.attempt.teardown_began = True
            if self._budget is not None:
                self._budget.go_on()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Steps:
        if self.child is not None:
            of_phase = private.called_for_phase()  # and not for a subtest, whose report is logged at once
            report = yield
            if call.excinfo is not None and self._outside is not None:
                self._outside.missed.raised(call.excinfo.value)
            if of_phase:
                self.child.made_report(call, report)
            return report
        if self.attempt is None or self.attempt.item is not item:
            return (yield)
        report = yield from self._one_report(self.attempt, call)
        if self._answers:
            setattr(report, WORKER, os.getpid())
            self._answers = False
        return report

    def _one_report(self, attempt: Attempt, call: pytest.CallInfo[None]) -> Steps:
        """The test process's report in place of pytest's. Inner wrappers meanwhile see a copy, and what it raised."""
        given = attempt.given.pop(call.when, None)
        raised = call.excinfo
        last = call.when == "teardown"
        added = last and reports.join_captured(attempt.item, call.when)
        breach = self._breach(call, given) if self._budget is not None else None
        if breach is not None:
            call.excinfo = breach
        elif given is not None and raised is None:
            self.observed = _copied(given.report)
            if given.error is not None:
                call.excinfo = error_like(given.error)
        try:
            report: pytest.TestReport = yield
        finally:
            self.observed = None
            call.excinfo = raised
        if given is not None:
            report = reports.one(given.report, report if raised is not None or breach is not None else None)
            report.start, report.stop, report.duration = call.start, call.stop, call.duration
        if breach is not None and report.failed:
            vars(report)[BREACH] = True
        if added:
            reports.set_captured(attempt.item, report)
        if report.failed:
            self._failed = True
            if self._repeat is not None:
                self._repeat.note(report)
            self._add_sections(attempt, report)
        if last:
            self._record(attempt, report)
        return report

    def _add_sections(self, attempt: Attempt, report: pytest.TestReport) -> None:
        """What a failing report says beside its failure."""
        report.sections += attempt.sections(report.longreprtext)
        if self._budget is not None:
            report.sections += self._budget.section(alive=attempt.verdict is None)
        forwarded = attempt.forwarding.reached() if attempt.forwarding is not None else ()
        if held := self._witness.section(attempt.fixtures, attempt.spec, forwarded):
            report.sections.append(held)

    def _breach(self, call: pytest.CallInfo[None], given: Given | None) -> Any:
        """What a phase that raised nothing in this process comes to because of the test's budget."""
        assert self._budget is not None
        if call.excinfo is not None or self._failed:
            return None
        return self._budget.breach(call.when, given.report if given is not None else None)

    def _record(self, attempt: Attempt, report: pytest.TestReport) -> None:
        """The figures, on the last report: JUnit XML, reportlog and xdist carry them."""
        if attempt.verdict is None:
            return
        report.user_properties += [pair for pair in attempt.item.user_properties if pair not in report.user_properties]
        report.user_properties += attempt.usage.properties()
        budget, repeating = self._budget, self._repeat
        problems = attempt.verdict.problems(failed=self._failed)
        if budget is not None:
            problems += budget.problems(failed=self._failed)
        record = TestRecord(
            attempt.item.nodeid,
            attempt.usage,
            attempt.spec,
            repeating.added(problems) if repeating is not None else problems,
            self._weakened,
            contacts=attempt.network.contacts,
            started=attempt.started,
            repetitions=(*repeating.usages, attempt.usage) if repeating is not None else (),
            budget=budget.judged if budget is not None else (),
            samples=attempt.samples,
        )
        vars(report)["isolate"] = record.to_json()
        if attempt.imports:
            setattr(report, ATTRIBUTE, attempt.imports)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.child is not None:
            self.child.log_report(report)

    def pytest_enter_pdb(self) -> None:
        if self.child is not None:
            self.child.prompt()


def _repeat(config: pytest.Config, times: int) -> Repeat | None:
    if times == 1:
        return None
    from pytest_isolate.plugin import repeating

    return repeating.register(config, times)


class Observed:
    """Gives the hooks of the pytest process the test process's report to look at, in place of one of an empty phase.

    A plugin of its own, because one object can't have two implementations of one hook.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self) -> pytest.TestReport | None:
        return self._protocol.observed


def _judge(attempt: Attempt, budget: Budgeted) -> None:
    """A finalizer of the item, after the attempt's own: what the budget measured is among the figures from here on."""
    if attempt.verdict is not None:
        attempt.usage = budget.ended(attempt.usage)


def _tell_usage(attempt: Attempt) -> None:
    """A finalizer of the item, after those: what the hook raises is an error of the teardown."""
    __tracebackhide__ = True
    if attempt.verdict is not None and attempt.teardown_began:
        attempt.item.ihook.pytest_isolate_usage(item=attempt.item, usage=attempt.usage)


def _copied(report: pytest.TestReport) -> pytest.TestReport:
    """What inner wrappers change was changed in the test process already; it must not change twice."""
    made = copy.copy(report)
    made.sections = list(report.sections)
    made.user_properties = list(report.user_properties)
    return made


def _status_text(config: pytest.Config) -> str:
    from pytest_isolate.plugin.running import status_text  # in few runs

    return status_text(config)


def register(config: pytest.Config, supply: Supply, *, threads: int) -> None:
    """To be called once, before the first test, when it is known that there will be an isolated one.

    Args:
        supply: of sandboxes, its builder started.
        threads: how many threads are pytest's own.
    """
    answer(config, partial(_status_text, config))
    witness = Witness()
    protocol = config.stash[protocol_key] = Protocol(config, supply, witness, threads=threads)
    config.pluginmanager.register(witness, "isolate-witness")
    config.pluginmanager.register(protocol, "isolate-protocol")
    config.pluginmanager.register(Observed(protocol), "isolate-observed")
