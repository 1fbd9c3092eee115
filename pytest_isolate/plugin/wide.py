"""What is set up in the pytest process before the fork, in pytest's own order: fixtures wider than function scope, and those
of function scope that ask for `isolate_factory`, since what they make is to outlive the sandbox's set-up and teardown.

`item.fixturenames` is the static closure, sorted by scope; asking for the wide ones in that order is what
pytest itself does first. A wide fixture can hide behind a narrower override of the same name that requests
it: pytest would set it up when the override runs, inside, once per test. Here it is asked for beforehand,
through the chain of requests that the override would make. What a fixture requests comes along with it.

With ``fixtures="inside"`` nothing of this happens; the child forgets what earlier tests had set up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

from pytest_isolate.plugin import private
from pytest_isolate.plugin.marks import FACTORY

__all__ = ["definitions", "forget", "set_up"]

_FUNCTION: Final = "function"
Definitions = Sequence[pytest.FixtureDef[Any]]


def set_up(item: pytest.Item) -> None:
    """Set up what belongs outside in the item's closure; raises whatever the fixtures raise."""
    __tracebackhide__ = True
    request = getattr(item, "_request", None)
    info = getattr(item, "_fixtureinfo", None)
    if not request or info is None:  # a custom item without fixtures
        return
    known: Mapping[str, Definitions] = info.name2fixturedefs
    values: dict[str, Any] = getattr(item, "funcargs", {})
    hidden: list[tuple[str, int]] = []
    for name in list(item.fixturenames):  # type: ignore[attr-defined] # of Function and DoctestItem; a fixture may extend it
        definitions = known.get(name)
        if not definitions:
            continue
        if not _is_outside(definitions[-1]):
            if len(definitions) > 1 and (level := _hidden_level(name, known)):
                hidden.append((name, level))
        elif name not in values:
            values[name] = request.getfixturevalue(name)
    for name, level in hidden:
        private.set_up_overridden(request, name, known[name], level)


def _hidden_level(name: str, known: Mapping[str, Definitions]) -> int:
    """How many overrides that run inside lie above the first fixture, requested by them, that doesn't; 0: none does."""
    definitions = known[name]
    for level in range(1, len(definitions)):
        if not _requests(definitions[-level], name, known):
            return 0
        if _is_outside(definitions[-level - 1]):
            return level
    return 0


def _is_outside(definition: pytest.FixtureDef[Any]) -> bool:
    return definition.scope != _FUNCTION or FACTORY in definition.argnames


def _requests(definition: pytest.FixtureDef[Any], name: str, known: Mapping[str, Definitions]) -> bool:
    """Whether the fixture requests `name`, itself or through others."""
    seen: set[str] = set()
    waiting = list(definition.argnames)
    while waiting:
        wanted = waiting.pop()
        if wanted == name:
            return True
        if wanted not in seen and (definitions := known.get(wanted)):
            seen.add(wanted)
            waiting += definitions[-1].argnames
    return False


def definitions(item: pytest.Item) -> set[pytest.FixtureDef[Any]]:
    """What the item's closure means: the innermost definition of each name, and those below it that it requests."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return set()
    known: Mapping[str, Definitions] = info.name2fixturedefs
    found: set[pytest.FixtureDef[Any]] = set()
    for name in item.fixturenames:  # type: ignore[attr-defined] # as in set_up
        for definition in reversed(known.get(name, ())):
            found.add(definition)
            if not _requests(definition, name, known):
                break
    return found


def forget(session: pytest.Session) -> None:
    """In the child: no fixture has been set up yet, whatever the pytest process did before the fork."""
    for definition in private.all_fixtures(session):
        definition.cached_result = None
        private.finalizers(definition).clear()
