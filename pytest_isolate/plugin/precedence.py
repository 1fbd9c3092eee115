"""What one test asked for: its markers closest first, then command line, budgets by pattern, and ini.

pytest's `get_closest_marker` has another order: a function's decorators before the parameter's marks, a base
class before the class derived from it. So the marks of each node are put into order here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.keys import KEYS
from pytest_isolate.model.layers import Layer, merge
from pytest_isolate.model.parse import parse_keys
from pytest_isolate.model.project import outside
from pytest_isolate.model.spec import Spec, absent
from pytest_isolate.model.units import shown
from pytest_isolate.plugin.profiles import unknown_profile
from pytest_isolate.plugin.settings import Settings

if TYPE_CHECKING:
    from pytest_isolate.plugin.budget_patterns import Patterns

__all__ = ["MARKER", "Asked", "Resolver", "Source", "sources"]

MARKER: Final = "isolate"
_EXTRA: Final = ("profile", "enabled")


@dataclass(frozen=True)
class Source:
    """One marker of one test.

    Attributes:
        place: where it was written, in words.
        owner: what it was written on, the same for all tests that it applies to.
    """

    mark: pytest.Mark
    place: str
    owner: object

    @property
    def key(self) -> tuple[object, int]:
        return self.owner, id(self.mark)


@dataclass(frozen=True)
class Asked:
    """
    Attributes:
        spec: None: the test runs without a sandbox.
        place: where the sandbox was asked for.
        places: by key of the spec, where its value comes from.
        errors: what is wrong, by something that is the same for every test with the same mistake.
    """

    spec: Spec | None
    place: str
    places: Mapping[str, str]
    errors: Mapping[object, SpecError]


@dataclass(frozen=True)
class _Marker:
    """One marker, read: its own keys, then its profile's."""

    layers: tuple[Layer, ...]
    enabled: bool | None
    errors: tuple[SpecError, ...]


class Resolver:
    """Reads each marker once and merges once per combination of markers.

    Args:
        rootdir: where relative paths of markers start.
    """

    def __init__(self, settings: Settings, rootdir: str) -> None:
        self._settings = settings
        self._rootdir = rootdir
        self._markers: dict[object, _Marker] = {}
        self._asked: dict[object, Asked] = {}
        self._patterns: Patterns | None = None
        if settings.budgets:
            from pytest_isolate.plugin.budget_patterns import Patterns

            self._patterns = Patterns(settings.budgets, rootdir)

    @property
    def unused(self) -> tuple[str, ...]:
        """Patterns of budgets that have matched no isolated test yet."""
        return tuple(self._patterns.unused) if self._patterns is not None else ()

    def ask(self, item: pytest.Item) -> Asked:
        found = list(sources(item))
        matching = self._patterns.of(item) if self._patterns is not None else frozenset()
        key = tuple(source.key for source in found), matching
        if key not in self._asked:
            self._asked[key] = self._ask(found, self._patterns.layers(matching) if self._patterns is not None else [])
            if self._patterns is not None and self._asked[key].spec is not None:
                self._patterns.use(matching)
        return self._asked[key]

    def _ask(self, found: list[Source], by_pattern: list[Layer]) -> Asked:
        markers = [self._read(source) for source in found]
        errors: dict[object, SpecError] = {
            (*source.key, error.key, error.problem): error
            for source, marker in zip(found, markers, strict=True)
            for error in marker.errors
        }
        enabled = next((marker.enabled for marker in markers if marker.enabled is not None), None)
        wanted = enabled if enabled is not None else bool(found) or self._settings.isolate_all
        if not wanted:
            return Asked(None, "", {}, errors)
        own = (layer for marker in markers for layer in marker.layers)
        layers, nearer = self._settings.layers, self._settings.nearer
        merged = merge([*own, *layers[:nearer], *by_pattern, *layers[nearer:]])
        unusable = (*(absent(merged.spec) if merged.spec.rootfs else ()), *outside(merged.spec.inputs, self._rootdir))
        misplaced = [error.at(merged.places.get(error.key, "")) for error in unusable]
        errors |= {str(error): error for error in (*merged.errors, *misplaced)}
        place = found[0].place if found else self._settings.all_place
        return Asked(None if self._settings.no_isolate else merged.spec, place, merged.places, errors)

    def _read(self, source: Source) -> _Marker:
        if source.key not in self._markers:
            self._markers[source.key] = self._marker(source.mark, source.place)
        return self._markers[source.key]

    def _marker(self, mark: pytest.Mark, place: str) -> _Marker:
        errors = [
            SpecError("positional argument", f"{shown(argument)} has no name", "keywords: " + ", ".join((*KEYS, *_EXTRA)), place)
            for argument in mark.args
        ]
        own = {name: value for name, value in mark.kwargs.items() if name not in _EXTRA}
        values, problems = parse_keys(own, self._rootdir, place, also=_EXTRA)
        errors += problems
        layers = [Layer(place, values)]
        if "profile" in mark.kwargs:
            name = mark.kwargs["profile"]
            if isinstance(name, str) and name in self._settings.profiles:
                layers.append(self._settings.profiles[name])
            else:
                errors.append(SpecError("profile", *unknown_profile(name, self._settings.profiles), place))
        enabled = mark.kwargs.get("enabled")
        if "enabled" in mark.kwargs and not isinstance(enabled, bool):
            errors.append(SpecError("enabled", f"{shown(enabled)} is not a truth value", "True or False", place))
            enabled = None
        return _Marker(tuple(layers), enabled, tuple(errors))


def sources(item: pytest.Item) -> Iterator[Source]:
    """The item's markers, closest first."""
    for node in item.iter_parents():
        marks = [mark for mark in node.own_markers if mark.name == MARKER]
        if not marks:
            continue
        if isinstance(node, pytest.Function):
            yield from _of_function(node, marks)
        elif isinstance(node, pytest.Class):
            yield from _of_class(node, marks)
        elif isinstance(node, pytest.Module):
            yield from (Source(mark, f"pytestmark of {node.nodeid}", node) for mark in marks)
        else:
            yield from (Source(mark, f"marker of {node.nodeid or 'the session'}", node) for mark in marks)


def _of_function(item: pytest.Function, marks: list[pytest.Mark]) -> Iterator[Source]:
    """Parameters first. The rest is in order as it stands: innermost decorator first, what `add_marker` appended last."""
    function = f"{item.parent.nodeid}::{item.originalname}" if item.parent else item.nodeid
    callspec: Any = getattr(item, "callspec", None)
    of_parameters = {id(mark) for mark in callspec.marks} if callspec else set()
    for mark in marks:
        if id(mark) in of_parameters:
            yield Source(mark, f"marker of parameter set {item.nodeid}", (function, "parameters"))
    for mark in marks:
        if id(mark) not in of_parameters:
            yield Source(mark, f"marker of {function}", function)


def _of_class(node: pytest.Class, marks: list[pytest.Mark]) -> Iterator[Source]:
    """The class, then its bases in the order of Python's own look-up. What a plugin added to the node by
    `add_marker` keeps its end: put in front it is closest, appended it is farthest.
    """
    written = [
        Source(mark, f"class {node.nodeid}" if cls is node.obj else f"base class {cls.__module__}.{cls.__qualname__}", cls)
        for cls in node.obj.__mro__
        for mark in _own_marks(cls)
    ]
    known = {id(source.mark) for source in written}
    added = [(position, mark) for position, mark in enumerate(marks) if id(mark) not in known]
    first = next((position for position, mark in enumerate(marks) if id(mark) in known), len(marks))
    yield from (Source(mark, f"marker of {node.nodeid}", node) for position, mark in added if position < first)
    yield from written
    yield from (Source(mark, f"marker of {node.nodeid}", node) for position, mark in added if position > first)


def _own_marks(cls: type) -> list[pytest.Mark]:
    """The markers written on `cls` itself; pytest keeps them in its `pytestmark`, innermost first."""
    listed = vars(cls).get("pytestmark", [])
    marks = (getattr(mark, "mark", mark) for mark in (listed if isinstance(listed, list) else [listed]))
    return [mark for mark in marks if isinstance(mark, pytest.Mark) and mark.name == MARKER]
