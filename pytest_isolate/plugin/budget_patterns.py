"""Budgets of tests by pattern: ``[tool.pytest-isolate.budgets]`` of the rootdir's ``pyproject.toml``.

A pattern is compared, as by fnmatch, with the node id of a test and of what it lies in (class, file, directories), and with the
path of its file; ``*`` matches ``/`` too, so that ``**`` means no more. A pattern gives limits to tests that are isolated and
isolates none.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import translate
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_isolate.model.budget import parse_budget
from pytest_isolate.model.keys import KEYS
from pytest_isolate.model.layers import Layer, merge
from pytest_isolate.model.units import shown

__all__ = ["TABLE", "Patterns", "load", "register", "warn_of"]

TABLE: Final = "[tool.pytest-isolate.budgets]"
_FILE: Final = "pyproject.toml"
_WILD: Final = re.compile(r"([^*?[]*)[*?[]", re.DOTALL)
"""What a pattern begins with, up to where it isn't literal any more."""


def load(budgets: Any) -> tuple[tuple[tuple[str, Layer], ...], list[str]]:
    """Patterns with what they give, in the file's order, and what is wrong with them, as sentences."""
    accepted = KEYS["budget"].accepted
    if not isinstance(budgets, Mapping):
        return (), [
            f'{_FILE}: {TABLE} is not a table; accepted: a pattern of node ids or paths = {{ cpu = "1s", memory = "64MiB" }}'
        ]
    found: list[tuple[str, Layer]] = []
    errors: list[str] = []
    for pattern, table in budgets.items():
        place = f"{shown(pattern)} in {TABLE} of {_FILE}"
        try:
            layer = Layer(place, {"budget": parse_budget(table)})
        except ValueError as error:
            errors.append(f"{_FILE}: {TABLE} {shown(pattern)}: {error}; accepted: {accepted}")
            continue
        errors += [str(error) for error in merge([layer], partial=True).errors]
        found.append((pattern, layer))
    return tuple(found), errors


def _file(text: str) -> str:
    """Of a node id, or of what one begins with; empty where that isn't said."""
    file, sign, _ = text.partition("::")
    return file if sign else ""


class Patterns:
    """Which of a run's patterns match which item.

    There may be as many patterns as tests (``budgets suggest --by=test``), so most of them are looked up and not tried.

    Attributes:
        unused: those that have matched no isolated test yet, in the file's order.
    """

    def __init__(self, budgets: Sequence[tuple[str, Layer]], rootdir: str) -> None:
        self._rootdir = rootdir
        self._layers = dict(budgets)
        self._places = {pattern: place for place, pattern in enumerate(self._layers)}
        self._tried: dict[str, list[tuple[str, Callable[[str], object]]]] = {}
        for pattern in self._layers:
            if fixed := _WILD.match(pattern):
                self._tried.setdefault(_file(fixed[1]), []).append((pattern, re.compile(translate(pattern)).match))
        self._of_node: dict[pytest.Collector, frozenset[str]] = {}
        self.unused: dict[str, None] = dict.fromkeys(self._layers)

    def of(self, item: pytest.Item) -> frozenset[str]:
        """The patterns that match."""
        within = self._of_collector(item.parent) if item.parent is not None else frozenset()
        return within | set(self._matching([item.nodeid], within))

    def _of_collector(self, node: pytest.Collector) -> frozenset[str]:
        if node not in self._of_node:
            above = self._of_collector(node.parent) if isinstance(node.parent, pytest.Collector) else frozenset()
            names = [node.nodeid] if node.nodeid else []
            if isinstance(node, pytest.File):
                names.append(self._relative(node))
            self._of_node[node] = above | set(self._matching(names, above))
        return self._of_node[node]

    def _relative(self, node: pytest.File) -> str:
        path = node.path
        return path.relative_to(self._rootdir).as_posix() if path.is_relative_to(self._rootdir) else path.as_posix()

    def _matching(self, names: Sequence[str], known: frozenset[str]) -> Iterator[str]:
        for name in names:
            if name in self._layers:  # an id as it stands is a pattern too, whatever brackets a parameter brought into it
                yield name
            for file in dict.fromkeys(("", _file(name))):
                for pattern, matches in self._tried.get(file, ()):
                    if pattern not in known and matches(name):
                        yield pattern

    def layers(self, matching: frozenset[str]) -> list[Layer]:
        """What they give, closest first: the later in the file."""
        return [self._layers[pattern] for pattern in sorted(matching, key=self._places.__getitem__, reverse=True)]

    def use(self, matching: frozenset[str]) -> None:
        """An isolated test was found that they match."""
        for pattern in matching:
            self.unused.pop(pattern, None)


# --- patterns that match nothing ----------------------------------------------------------------------------------

_PART: Final = "pytest_isolate_part"
"""In xdist's workerinput: only a part of the suite was asked for."""


def register(config: pytest.Config) -> None:
    """To be called once in `pytest_configure` of a run that has patterns."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Controller(config), "isolate-budget-patterns")


class _Controller:
    """Tells xdist's workers, who collect, what only the controller knows: what was typed."""

    def __init__(self, config: pytest.Config) -> None:
        self._part = _is_part(config)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[_PART] = self._part


def _is_part(config: pytest.Config) -> bool:
    """Whether not all tests of the suite are collected, so that nothing can be said of a pattern that matches none."""
    option = vars(config.option)
    narrowed = any(option.get(name) for name in ("keyword", "markexpr", "lf", "deselect", "ignore", "ignore_glob"))
    return narrowed or config.args_source is pytest.Config.ArgsSource.ARGS


def warn_of(unused: Sequence[str], session: pytest.Session) -> None:
    """A warning of the run about patterns that match nothing; where warnings are errors, an error of collection.

    Under xdist, where each worker collects everything, the first one says it.
    """
    config = session.config
    worker: Mapping[str, Any] | None = getattr(config, "workerinput", None)
    part = _is_part(config) if worker is None else worker["workerid"] != "gw0" or worker.get(_PART, True)
    if part or session.testsfailed:
        return
    for pattern in unused:
        text = f"{TABLE}: {shown(pattern)} matches no isolated test: its limits hold for none"
        path = config.rootpath / _FILE
        try:
            warnings.warn_explicit(pytest.PytestConfigWarning(text), None, str(path), _line_of(pattern, path))
        except pytest.PytestConfigWarning:
            report = pytest.CollectReport(_FILE, "failed", text, [])
            session.ihook.pytest_collectreport(report=report)


def _line_of(pattern: str, path: Path) -> int:
    """Where the file names it, as far as that is told without a parser that keeps lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 1
    return next((number for number, line in enumerate(lines, 1) if pattern in line), 1)
