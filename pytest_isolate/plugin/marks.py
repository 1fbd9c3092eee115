"""The marker at collection: which tests get which sandbox, and what is wrong with their markers.

A bad marker is a collection error of its file, as a syntax error would be: one failed `CollectReport` that lists
all errors of the file, whose tests don't run; other files go on as `--continue-on-collection-errors` says. The
report is made when everything is collected, because only then all items of a file are there, the merged values
of each included, and goes through the hook that collectors use, which xdist's workers relay (a `UsageError`
raised here is lost under xdist).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.plugin.options import marker_help
from pytest_isolate.plugin.settings import settings_key

if TYPE_CHECKING:
    from pytest_isolate.model.errors import SpecError
    from pytest_isolate.model.spec import Spec
    from pytest_isolate.plugin.precedence import Asked, Resolver
    from pytest_isolate.plugin.settings import Settings

__all__ = ["Marks", "place_key", "places_key", "quiet_key", "register", "spec_key"]

FACTORY: Final = "isolate_factory"
"""Name of the fixture."""

spec_key: Final[pytest.StashKey[Spec]] = pytest.StashKey()
"""On an item's stash, from before `pytest_collection_finish`: its sandbox. Absent: the test runs as pytest runs it."""

quiet_key: Final = pytest.StashKey[bool]()
"""On an item's stash while it is repeated and nobody is to be told of anything but failures in it."""

place_key: Final = pytest.StashKey[str]()
"""Beside `spec_key`: where the sandbox was asked for, in words."""

places_key: Final = pytest.StashKey[Mapping[str, str]]()
"""Beside `spec_key`: where each key's value comes from, in words; keys at their defaults are absent."""


def register(config: pytest.Config) -> None:
    """To be called once in `pytest_configure`, after the settings are in the stash."""
    config.addinivalue_line("markers", marker_help())
    config.pluginmanager.register(Marks(config), "isolate-marks")


class Marks:
    def __init__(self, config: pytest.Config) -> None:
        self._settings: Settings = config.stash[settings_key]
        self._rootdir = str(config.rootpath)
        self._resolver: Resolver | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> Generator[None, None, None]:
        """Markers as written before anything is deselected; then once more, for what other plugins added."""
        self._refuse_bad_files(session, items, "isolate markers", self._errors)
        if self._settings.budgets and not self._settings.no_isolate:
            self._warn_of_patterns(session)
        yield
        self._refuse_bad_files(session, items, "isolate markers", self._errors)
        self._refuse_bad_files(session, items, "pytest_isolate_spec", self._settle)
        self._refuse_bad_images(session, items)

    def _ask(self, item: pytest.Item) -> Asked | None:
        """None: nothing asks for anything. The modules that read markers are imported for the first test that does."""
        if self._resolver is None:
            if not self._settings.isolate_all and next(item.iter_markers("isolate"), None) is None:
                return None
            from pytest_isolate.plugin.precedence import Resolver

            self._resolver = Resolver(self._settings, self._rootdir)
        return self._resolver.ask(item)

    def _judged(self, spec: Spec) -> Spec:
        """Without a budget where the run judges none."""
        if not spec.budget or self._settings.over != "off":
            return spec
        return spec.without(["budget"])

    def _warn_of_patterns(self, session: pytest.Session) -> None:
        from pytest_isolate.plugin.budget_patterns import warn_of

        patterns = [pattern for pattern, _layer in self._settings.budgets]
        warn_of(patterns if self._resolver is None else self._resolver.unused, session)

    def _errors(self, item: pytest.Item) -> Mapping[object, SpecError]:
        """What is wrong with an item's markers, and with them together with its fixtures."""
        if (asked := self._ask(item)) is None:
            return {}
        if asked.spec is not None and (error := _without_factory(item, asked.spec, asked.places)):
            return {**asked.errors, (asked.place, FACTORY): error}
        return asked.errors

    def _settle(self, item: pytest.Item) -> Mapping[object, object]:
        """Give an item its sandbox, after the hook had its say; returns what is wrong with that."""
        asked = self._ask(item)
        if asked is None or asked.spec is None:
            return {}
        spec, places = asked.spec, asked.places
        if item.ihook.pytest_isolate_spec.get_hookimpls():
            from pytest_isolate.plugin.spec_hook import ask

            answer = ask(item, spec, places)
            spec, places = answer.spec, answer.places
            error = _without_factory(item, spec, places)
            if errors := [*answer.errors, *([error] if error else ())]:
                return {str(error): error for error in errors}
        item.stash[spec_key] = _with_project(self._judged(spec), item)
        item.stash[place_key] = asked.place
        item.stash[places_key] = places
        return {}

    def _refuse_bad_images(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """What selected tests are to run on, looked at without unpacking it."""
        if any(spec_key in item.stash and item.stash[spec_key].rootfs for item in items):
            from pytest_isolate.plugin.images import ImageJudge

            judge = ImageJudge(self._settings.store)
            self._refuse_bad_files(
                session,
                items,
                "isolate markers",
                lambda item: judge.errors(item.stash[spec_key], item.stash[places_key]) if spec_key in item.stash else {},
            )

    def _refuse_bad_files(
        self,
        session: pytest.Session,
        items: list[pytest.Item],
        source: str,
        errors_of: Callable[[pytest.Item], Mapping[Any, object]],
    ) -> None:
        errors: dict[pytest.Collector, dict[object, str]] = {}
        for item in items:
            for key, error in errors_of(item).items():
                errors.setdefault(_file(item), {}).setdefault(key, str(error))
        if not errors:
            return
        items[:] = [item for item in items if _file(item) not in errors]
        for collector, found in errors.items():
            report = pytest.CollectReport(collector.nodeid, "failed", _text(source, found.values()), [])
            collector.ihook.pytest_collectreport(report=report)
        if session.shouldfail:  # -x, --maxfail; the next collector would have stopped at this
            raise session.Failed(session.shouldfail)


def _without_factory(item: pytest.Item, spec: Spec, places: Mapping[str, str]) -> SpecError | None:
    """An error where the test's fixtures need the pytest process and `spec` keeps them out of it."""
    if spec.fixtures != "inside" or FACTORY not in getattr(item, "fixturenames", ()):
        return None
    from pytest_isolate.model.errors import SpecError

    problem = f'"inside" sets up every fixture of {item.name} in its sandbox, and {FACTORY} works in the pytest process'
    accepted = f'"shared" for tests with fixtures that ask for {FACTORY}'
    return SpecError("fixtures", problem, accepted, places.get("fixtures", ""))


def _with_project(spec: Spec, item: pytest.Item) -> Spec:
    if not spec.inputs:
        return spec
    from pytest_isolate.plugin.inputs import with_project

    return with_project(spec, item)


def _file(item: pytest.Item) -> pytest.Collector:
    return next((node for node in item.iter_parents() if isinstance(node, pytest.File)), item.session)


def _text(source: str, errors: Iterable[str]) -> str:
    lines = [f"  {error}" for error in errors]
    return "\n".join([f"{len(lines)} error{'s' if len(lines) > 1 else ''} in {source}:", *lines])
