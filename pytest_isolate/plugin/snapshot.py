"""`isolate_snapshot`: what a wide fixture writes, as a layer of each test that uses it.

The fixture's function runs in a sandbox; what it wrote there becomes a layer, what it returned is the fixture's value. Each test
that uses the fixture has the layer in its root file system, and so a copy of the files of its own. Nothing of it is written to the host.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import pytest

from pytest_isolate.model.errors import IsolateError
from pytest_isolate.plugin import reports
from pytest_isolate.plugin.chosen import layers_of, snapshots_key
from pytest_isolate.plugin.fixtures import protocol_key
from pytest_isolate.plugin.wide import definitions

__all__ = ["isolate_snapshot", "refuse_plain"]

_F = TypeVar("_F", bound=Callable[..., Any])


def isolate_snapshot(function: _F) -> _F:
    """Decorates the function of a module- or session-scoped fixture; stands below ``@pytest.fixture``::

        @pytest.fixture(scope="module")
        @isolate_snapshot
        def cluster() -> Path:
            ...  # writes files, anywhere but in pytest's temporary directory
            return Path("/var/tmp/cluster")

    Each isolated test that uses the fixture sees the files as they were when it returned, and its own writes to them alone.
    The value must be JSON's, or a path. A test that isn't isolated has none of the files, and fails if it uses the fixture. In a run that isolates nothing the function runs as any fixture.

    Raises:
        TypeError: a generator: what comes after its yield would find nothing to tear down.
    """
    if inspect.isgeneratorfunction(function):
        raise TypeError(
            f"{function.__qualname__} yields, and a snapshot has no teardown: its files end with its layer. Let it return"
        )
    signature = inspect.signature(function)
    wants_request = "request" in signature.parameters

    @functools.wraps(function)
    def snapshot(*args: Any, request: pytest.FixtureRequest, **values: Any) -> Any:
        if wants_request:
            values["request"] = request
        call = functools.partial(function, *args, **values)
        protocol = request.config.stash.get(protocol_key, None)
        return call() if protocol is None or request.config.option.no_isolate else _taken(request, call, signature.parameters)

    snapshot.isolate_snapshot = True  # type: ignore[attr-defined] # for `refuse_plain`
    parameters = list(signature.parameters.values())
    if not wants_request:
        parameters.append(inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY))
    snapshot.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # what pytest asks for
    return snapshot  # type: ignore[return-value]


def refuse_plain(item: pytest.Item) -> None:
    """Fails a test that isn't isolated and uses a snapshot, whose files only sandboxes have."""
    __tracebackhide__ = True
    names = sorted({found.argname for found in definitions(item) if getattr(found.func, "isolate_snapshot", False)})
    if names:
        what = f"snapshot fixture{'s' if len(names) > 1 else ''} {' and '.join(map(repr, names))}"
        reports.fail_at(
            item,
            f"{item.name} isn't isolated, and would not find the files of the {what}: they are layers of sandboxes, not on the host\n"
            "  remedy: mark it with @pytest.mark.isolate",
        )


def _taken(request: pytest.FixtureRequest, call: Callable[[], Any], requested: Collection[str]) -> Any:
    __tracebackhide__ = True
    name = request.fixturename
    assert name is not None
    what = f"snapshot fixture {name!r}"
    if request.scope == "function":
        raise IsolateError(
            f"{what} has function scope: its tests share nothing", 'scope="module", "class", "package" or "session"'
        )
    supply = request.config.stash[protocol_key].supply
    value, layer = supply.layering.taken(call, layers_of(request.node, requested), what)
    kept = request.node.stash.setdefault(snapshots_key, {})
    kept[name] = layer

    def forget() -> None:
        kept.pop(name, None)
        supply.roots.store.give_back(layer)

    request.addfinalizer(forget)
    return value
