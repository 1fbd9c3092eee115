"""What a test changes in pytest besides its report, carried from the test process to the pytest process.

Each relay is one thing: made in the pytest process at the fork, it gives in the child what changed since the
last frame (`changes`, None for nothing), and takes that over in the parent (`apply`). Both ends stand side by
side, so that one can't be changed without the other.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import Any

import pytest

from pytest_isolate.plugin import private
from pytest_isolate.plugin.likeness import described_warning, warning_like

__all__ = ["Relay", "relays"]


class Relay(ABC):
    """One kind of change."""

    name: str

    @abstractmethod
    def changes(self) -> Any:
        """In the child: what changed since the last call, for the wire; None if nothing did."""

    @abstractmethod
    def apply(self, changes: Any) -> None:
        """In the parent."""


def relays(item: pytest.Item, recorded: list[Any] | None) -> dict[str, Relay]:
    """Those that this run needs, by name.

    Args:
        recorded: pytest's list of recorded warnings.
    """
    found: list[Relay] = [Captured(item), Stops(item.session), Terminal(item.config), Subtests(item), Random()]
    if recorded is not None:
        found.append(Warned(recorded))
    if private.junit(item.config) is not None:
        found.append(Junit(item))
    from pytest_isolate.plugin.companions import companions

    found += companions(item)
    return {relay.name: relay for relay in found}


class Captured(Relay):
    """Output, log and user properties: the parent's later reports of the item are made from them."""

    name = "captured"

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._sections: list[tuple[str, str, str]] = []

    def changes(self) -> Any:
        sections = private.captured_sections(self._item)
        new = sections[len(self._sections) :]
        self._sections += new
        return new, self._item.user_properties

    def apply(self, changes: Any) -> None:
        new, self._item.user_properties[:] = changes
        self._sections += new
        # Replaces what the parent captured itself since: the child started with a copy of that.
        private.captured_sections(self._item)[:] = self._sections


class Stops(Relay):
    """`session.shouldstop` and `session.shouldfail` set by a test."""

    name = "stops"

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._known = (session.shouldstop, session.shouldfail)

    def changes(self) -> Any:
        now = (self._session.shouldstop, self._session.shouldfail)
        if now == self._known:
            return None
        self._known = now
        return now

    def apply(self, changes: Any) -> None:
        stop, fail = changes
        if stop:  # pytest warns about taking one back
            self._session.shouldstop = stop
        if fail:
            self._session.shouldfail = fail

    def known(self) -> None:
        """In the child: what is set now came from the parent."""
        self._known = (self._session.shouldstop, self._session.shouldfail)


class Terminal(Relay):
    """The cursor of the terminal, moved by live logging and --setup-show."""

    name = "terminal"

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._known = private.terminal_state(config)

    def changes(self) -> Any:
        now = private.terminal_state(self._config)
        if now == self._known:
            return None
        self._known = now
        return now

    def apply(self, changes: Any) -> None:
        private.restore_terminal(self._config, changes)


class Subtests(Relay):
    """The number of failed subtests, by which pytest 9 fails the test that holds them."""

    name = "subtests"

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._known = private.failed_subtests(item)

    def changes(self) -> Any:
        number = private.failed_subtests(self._item)
        if number == self._known:
            return None
        self._known = number
        return number

    def apply(self, changes: Any) -> None:
        private.set_failed_subtests(self._item, changes)


class Random(Relay):
    """The state of the `random` module.

    Python seeds it anew in a forked child. A suite that seeds it must get the numbers that it gets plainly, one
    that doesn't must not get the same ones in each test: so the child goes on from the parent's state, and
    the parent from where the child stopped.
    """

    name = "random"

    def __init__(self) -> None:
        self._known = random.getstate()

    def start(self) -> None:
        """In the child."""
        random.setstate(self._known)

    def changes(self) -> Any:
        now = random.getstate()
        if now == self._known:
            return None
        self._known = now
        return now

    def apply(self, changes: Any) -> None:
        random.setstate(changes)


class Warned(Relay):
    """Recorded warnings: pytest's own wrapper reports them at the end of the item."""

    name = "warnings"

    def __init__(self, recorded: list[Any]) -> None:
        self._recorded = recorded
        self._sent = len(recorded)

    def changes(self) -> Any:
        new = self._recorded[self._sent :]
        self._sent = len(self._recorded)
        return [described_warning(message) for message in new] or None

    def apply(self, changes: Any) -> None:
        self._recorded += [warning_like(data) for data in changes]


class Junit(Relay):
    """record_testsuite_property and record_xml_attribute."""

    name = "junit"

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._properties = private.junit(item.config).global_properties
        self._attributes = private.junit_attributes(item.config, item)
        self._sent = len(self._properties)
        self._known = dict(self._attributes)

    def changes(self) -> Any:
        new = self._properties[self._sent :]
        changed = {name: value for name, value in self._attributes.items() if self._known.get(name) != value}
        self._sent = len(self._properties)
        self._known.update(changed)
        return (new, changed) if new or changed else None

    def apply(self, changes: Any) -> None:
        properties, attributes = changes
        self._properties += properties
        self._attributes.update(attributes)
