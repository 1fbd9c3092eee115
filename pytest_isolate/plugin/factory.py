"""`isolate_factory`: more sandboxes, made by fixtures of any scope and by tests, each ending with its maker.

The fixture is session-scoped, because pytest lets a fixture request only what is as wide; one object serves all. Whose a
sandbox is, is known by who is being set up when it is made: a wrapper of pytest_fixture_setup keeps the requests of the
fixtures whose functions run, and the innermost one's finalizers get the sandbox's end. They run behind the fixture's own
teardown, which may still talk to it. Without a fixture being set up it is the running test's.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.model.errors import IsolateError, SandboxGone, SpecError
from pytest_isolate.model.layers import Layer, merge
from pytest_isolate.model.parse import parse_keys
from pytest_isolate.model.parse_net import parse_name
from pytest_isolate.model.project import outside
from pytest_isolate.model.spec import Spec
from pytest_isolate.network.attachment import Address
from pytest_isolate.plugin import private
from pytest_isolate.plugin.collected import add_note
from pytest_isolate.plugin.errands import OWN
from pytest_isolate.plugin.fixtures import factory_key, protocol_key
from pytest_isolate.plugin.handle import FactoryBox, calling_place
from pytest_isolate.plugin.made import OPERATIONS, Made, finish
from pytest_isolate.plugin.profiles import unknown_profile
from pytest_isolate.plugin.settings import settings_key
from pytest_isolate.plugin.watch import watch_key
from pytest_isolate.sandbox import Sandbox
from pytest_isolate.sandbox.project import project_of

if TYPE_CHECKING:
    from pytest_isolate.plugin.child import Child
    from pytest_isolate.plugin.supply import Supply

__all__ = ["Factory", "of_run"]

SECTION: Final = "isolate: sandboxes of isolate_factory"
_MOST_SHOWN: Final = 8
_OF_TESTS: Final = ("timeout", "fixtures", "leak", "forward", "budget")
"""Keys that say how a test runs, not what a sandbox is."""


class Factory:
    """The value of `isolate_factory`.

    Attributes:
        child: in a test process: its side of the channel, which carries every question. None in the pytest process.
    """

    def __init__(self, config: pytest.Config, supply: Supply) -> None:
        self.child: Child | None = None
        self._config = config
        self._supply = supply
        self._process = os.getpid()
        self._made: dict[int, Made] = {}
        self._gone: dict[int, str] = {}
        self._number = 0
        self._turn = threading.Lock()
        self._setting_up: list[pytest.FixtureRequest] = []
        self._lately: list[Made] = []
        self._item: pytest.Item | None = None
        self._own: Made | None = None
        self._used: set[int] = set()
        self._programs: set[int] = config.stash[protocol_key].within_reach if protocol_key in config.stash else set()

    def __call__(self, name: str | None = None, *, profile: str | None = None, **spec: Any) -> FactoryBox:
        """A sandbox, which ends with the fixture or the test that makes it.

        Args:
            name: under which others find it; free again when the sandbox has ended. None: one that no other has.
            profile: a profile of the project's, whose keys rank below those given here.
            spec: keys as in the marker, ``net="bridge"``; without those about how a test runs (timeout, fixtures, leak, forward, budget).

        Raises:
            SpecError: a key, value or combination that can't be meant, or a name that is taken; all other errors follow.
            MissingCapability, SetupError, SandboxGone: it could not be made.
        """
        __tracebackhide__ = True
        place = f"isolate_factory at {calling_place()}"
        if name is not None:
            try:
                parse_name(name, "a sandbox's name")
            except ValueError as error:
                raise SpecError("name", str(error), 'a name as in "db", or None', place) from None
        wanted = self._read(spec, profile, place)
        answer = self._ask("make", OWN, {"name": name, "spec": wanted.to_json(), "place": place})
        address = Address.from_json(answer["address"]) if answer["address"] else None
        ports = {(port, protocol): (ip, host) for port, protocol, ip, host in answer["ports"]}
        return FactoryBox(self._ask, answer["number"], answer["name"], Spec.from_json(answer["spec"]), address, ports)

    def _read(self, spec: dict[str, Any], profile: str | None, place: str) -> Spec:
        __tracebackhide__ = True
        settings = self._config.stash[settings_key]
        for key in _OF_TESTS:
            if key in spec:
                raise SpecError(
                    key, "it says how a test runs, and this is a sandbox without one", "the isolate marker of a test", place
                )
        values, errors = parse_keys(spec, str(self._config.rootpath), place, also=("name", "profile"))
        layers = [Layer(place, values)]
        if profile is not None:
            if profile not in settings.profiles:
                errors.append(SpecError("profile", *unknown_profile(profile, settings.profiles), place))
            else:
                of_tests = settings.profiles[profile].values
                layers.append(Layer(place, {key: value for key, value in of_tests.items() if key not in _OF_TESTS}))
        merged, root = merge(layers), str(self._config.rootpath)
        for error in (*errors, *merged.errors, *(error.at(place) for error in outside(merged.spec.inputs, root))):
            raise error
        return replace(merged.spec, project=project_of(root, os.getcwd())) if merged.spec.inputs else merged.spec

    def _ask(self, what: str, box: int, about: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        if self.child is not None:
            return self.child.errand(what, box, about)
        if os.getpid() != self._process:
            raise IsolateError(
                "sandboxes of isolate_factory belong to the pytest process, and this is one that it forked",
                "use them in the test or fixture itself, also from its threads",
            )
        try:
            result = self.perform(what, box, about)
            return finish(result) if hasattr(result, "send") else result
        except (IsolateError, OSError, subprocess.SubprocessError) as error:  # what is to blame is where it was asked
            raise error.with_traceback(None) from None

    # --- in the pytest process: what is asked, by fixtures and plain tests here, by isolated tests over the channel ---

    def perform(self, what: str, box: int, about: dict[str, Any]) -> Any:
        """One question: its answer, or a generator that has it in the end. Raises what the question deserves."""
        __tracebackhide__ = True
        if what == "make":
            with self._turn:
                return self._make(**about)
        if "other" in about and about["other"] is not None:
            about = {**about, "other": self._find(about["other"])}
        result = OPERATIONS[what](self._find(box), **about)
        if what == "popen":
            self._programs.add(result["pid"])
        elif what == "kill":
            self._supply.proceed()
        return result

    def _find(self, number: int) -> Made:
        __tracebackhide__ = True
        if number == OWN:
            if self._own is None:
                raise SandboxGone("the test's own sandbox is known inside of it alone", "say isolate_box in the test itself")
            return self._own
        if number not in self._made:
            raise SandboxGone(self._gone[number], "use it no longer than the fixture that made it lives")
        self._used.add(number)
        return self._made[number]

    def _make(self, name: str | None, spec: dict[str, Any], place: str) -> dict[str, Any]:
        __tracebackhide__ = True
        for made in self._made.values():
            if made.name == name and not made.ended:
                accepted = f"a name that no living sandbox of the run has ({made.owner} made the other one)"
                raise SpecError("name", f"there is a sandbox {name!r} already", accepted, place)
        self._number += 1
        name = name or self._free_name()
        obtained = self._supply.acquire(Spec.from_json(spec), name)
        for why in obtained.weakened:
            add_note(self._config, f"sandbox {name!r} is weaker than asked: {why}")
        box = obtained.box
        owner, fixture, add_finalizer = self._maker()
        made = self._made[self._number] = Made(self._number, name, box, owner=owner, fixture=fixture)
        self._used.add(made.number)
        if add_finalizer is not None:
            add_finalizer(partial(self._end, made))
        return {
            "number": made.number,
            "name": name,
            "spec": obtained.spec.to_json(),
            "address": box.address.to_json() if box.address is not None else None,
            "ports": [(port, protocol, *host) for (port, protocol), host in box.ports.items()],
        }

    def _free_name(self) -> str:
        taken = {made.name for made in self._made.values() if not made.ended}
        number = self._number
        while f"box{number}" in taken:
            number += 1
        return f"box{number}"

    def _maker(self) -> tuple[str, str, Any]:
        """Of a sandbox that is made now: in words, the fixture's name, and where its end goes (None: to `served`, or the session's)."""
        if self._item is not None:
            return f"of {self._item.nodeid}", "", None
        while self._setting_up:
            request = self._setting_up[-1]
            if private.is_set_up(request):  # see `learn`
                self._setting_up.pop()
                continue
            return f"of {request.scope} fixture '{request.fixturename}'", request.fixturename or "", request.addfinalizer
        if (item := private.running_item(self._config)) is not None:
            return f"of {item.nodeid}", "", item.addfinalizer
        return "of the session", "", None

    def _end(self, made: Made) -> None:
        made.end(f"it was {made.owner}, which is over")
        self._supply.proceed()
        made.close()
        self._programs.difference_update(program.process.pid for program in made.programs)
        del self._made[made.number]
        self._gone[made.number] = f"{made} has ended: {made.ended}"
        self._lately.append(made)

    def close(self) -> None:
        """With the session: whatever is left ends."""
        if self.child is None and os.getpid() == self._process:
            for made in reversed(list(self._made.values())):
                self._end(made)

    # --- who asks ---

    def learn(self, request: pytest.FixtureRequest) -> None:
        """Of the first request: fixtures that are being set up already, if they asked by getfixturevalue."""
        self._setting_up += private.requests_above(request)

    @pytest.hookimpl(hookwrapper=True)  # the old kind: an exception doesn't pass through it, so tracebacks don't show it
    def pytest_fixture_setup(self, request: pytest.FixtureRequest) -> Generator[None, Any, None]:
        depth = len(self._setting_up)
        self._setting_up.append(request)
        yield
        del self._setting_up[depth:]

    def serve(self, item: pytest.Item, box: Sandbox) -> None:
        """An isolated test asks, from inside `box`: what is made until `served` is its own."""
        self._item = item
        self._own = Made(OWN, "of the test itself", box, owner=f"of {item.nodeid}", fixture="")

    def served(self) -> None:
        """The test process has ended."""
        if self._item is None or self._own is None:
            return
        owner = f"of {self._item.nodeid}"
        self._own.part()
        self._item = self._own = None
        for made in [made for made in self._made.values() if made.owner == owner]:
            self._end(made)

    def enter(self, child: Child) -> None:
        """In a test process: from now on questions go over its channel."""
        self.child = child
        for made in self._made.values():
            made.close_copies()

    # --- reports ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        """The next test: nobody asks any more about what ended before."""
        for made in self._lately:
            made.forget()
        self._lately.clear()
        self._used.clear()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if self.child is None and report.failed and (shown := self._of(item)):
            lines = [line for made in shown[:_MOST_SHOWN] for line in made.report()]
            more = [f"and {len(shown) - _MOST_SHOWN} more"] if len(shown) > _MOST_SHOWN else []
            report.sections.append((SECTION, "\n".join(lines + more)))
        return report

    def _of(self, item: pytest.Item) -> list[Made]:
        """The sandboxes that a test had to do with, in the order in which they were made."""
        fixtures = private.used_fixtures(item)
        owner = f"of {item.nodeid}"
        return [
            made
            for made in sorted([*self._made.values(), *self._lately], key=lambda made: made.number)
            if made.number in self._used or made.fixture in fixtures or made.owner == owner
        ]


def of_run(config: pytest.Config) -> Factory:
    """The factory of a run, made with the first question.

    Raises:
        pytest.skip.Exception: the run isolates nothing.
    """
    if factory_key in config.stash:
        return config.stash[factory_key]
    if watch_key not in config.stash:
        raise private.skip_at_item("isolate_factory makes no sandboxes with --no-isolate")
    supply = config.stash[watch_key].supplied()
    factory = config.stash[factory_key] = Factory(config, supply)
    protocol = config.stash.get(protocol_key, None)
    if protocol is not None and protocol.child is not None:
        factory.enter(protocol.child)
    else:
        supply.start()
    config.pluginmanager.register(factory, "isolate-factory")
    return factory
