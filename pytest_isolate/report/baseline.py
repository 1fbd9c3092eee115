"""Baselines: a run kept in a file, for later runs to be compared with.

A baseline is the run's document (`report.document`, of the same version and schema) without what differs from run to run and says
nothing of its figures: started when and by which worker, with which arguments, in which directory; problems, notes, contacts. Its
tests stand in the order of their ids. So two baselines of the same code differ in their figures alone, and git shows which.
Any whole document can be compared with, too.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Final

from pytest_isolate.model.figures import FIGURES
from pytest_isolate.model.units import shown
from pytest_isolate.model.usage import Usage
from pytest_isolate.report.document import VERSION

__all__ = [
    "DIRECTORY",
    "FORM",
    "Baseline",
    "BaselineError",
    "is_name",
    "names",
    "path_of",
    "read",
    "samples_of",
    "slim",
    "text_of",
]

DIRECTORY: Final = os.path.join(".isolate", "baselines")
"""In the rootdir: where it can be committed, or a CI system be told to cache it."""

FORM: Final = "a name of letters, digits, '.', '_' and '-' that begins with a letter or digit and doesn't end in .json"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_MEASURED: Final = "passed"
"""The outcome of a test whose figures are those of the whole test. One that failed, or was expected to, ended somewhere on the way."""

_READ: Final = frozenset(field.name for field in fields(Usage))
"""The figures that a document has; another one is made of them."""
_INHERITED: Final = "memory_inherited_bytes"
"""What `memory_own` takes, and few tests have."""

Samples = Mapping[str, tuple[float, ...]]
"""The values of a test's figures, one of each run of it, by the figure's name."""


class BaselineError(Exception):
    """A file that is no baseline; the message says what is wrong with it, without its path."""


@dataclass(frozen=True)
class Baseline:
    """
    Attributes:
        name: as it was asked for.
        path: of its file.
        created: when its run started, in seconds since the epoch.
        commit: what was tested; empty where nobody knew.
        machine: as in the document.
        tests: the figures of those that passed, by node id.
    """

    name: str
    path: str
    created: float
    commit: str
    machine: Mapping[str, Any]
    tests: Mapping[str, Samples]

    @property
    def runs(self) -> tuple[int, int]:
        """The least and the greatest number of runs of a test; 0 without tests."""
        counts = [max(map(len, samples.values()), default=0) for samples in self.tests.values()]
        return min(counts, default=0), max(counts, default=0)

    def about(self) -> dict[str, Any]:
        """As the member `baseline` of a comparison has it."""
        machine = dict(self.machine)
        return {"name": self.name, "path": self.path, "commit": self.commit, "created": self.created, "machine": machine}


def is_name(text: str) -> bool:
    """Of a baseline; else it is a path, which a text that ends in ``.json`` always is."""
    return bool(_NAME.fullmatch(text)) and not text.endswith(".json")


def path_of(name: str, directory: str) -> str:
    return os.path.join(directory, f"{name}.json")


def names(directory: str) -> list[str]:
    """The baselines that are there."""
    found: list[str] = []
    with suppress(OSError):
        found = sorted(entry.removesuffix(".json") for entry in os.listdir(directory) if entry.endswith(".json"))
    return [name for name in found if is_name(name)]


def slim(document: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a run: a document again, of the tests that passed."""
    tests = [_slim_test(tests) for _, tests in sorted(_measured(document["tests"]).items())]
    run = {**document["run"], "arguments": [], "rootdir": ""}
    about = {name: document[name] for name in ("version", "tool", "machine")}
    totals = {"tests": len(tests), "attempts": len(tests), "outcomes": {_MEASURED: len(tests)} if tests else {}, "usage": {}}
    return {
        **about,
        "run": run,
        "tests": tests,
        "plain_tests": 0,
        "totals": totals,
        "weakened": {},
        "notes": [],
        "capabilities": [],
    }


def text_of(document: Mapping[str, Any]) -> str:
    """A baseline as JSON with a line for each test, so that a line that changed names what changed."""
    parts = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in document.items() if name != "tests"]
    tests = ",\n".join(f"  {json.dumps(test)}" for test in document["tests"])
    return "{\n" + ",\n".join([*parts, f' "tests": [\n{tests}\n ]']) + "\n}\n"


def _slim_test(tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One test for what is the same one on each of several workers."""
    last, runs = tests[-1], [usage for test in tests for usage in _runs(test)]
    kept = {name: last[name] for name in ("nodeid", "outcome", "usage", "spec")}
    repeated = {"repetitions": runs} if len(runs) > 1 else {}
    return {"attempt": 1, **kept, **repeated, "problems": [], "weakened": [], "notes": []}


def _measured(tests: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """By node id, of the test on each worker the last attempt, if it passed."""
    last = {(str(test.get("worker", "")), str(test["nodeid"])): test for test in tests}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for (_worker, nodeid), test in last.items():
        if test["outcome"] == _MEASURED:
            found.setdefault(nodeid, []).append(test)
    return found


def _runs(test: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What each of its runs used."""
    return test.get("repetitions") or [test["usage"]]


def samples_of(tests: Iterable[Mapping[str, Any]]) -> dict[str, Samples]:
    """The figures of the tests of a document that passed, by node id; a figure that one of the runs lacks is left out.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: these are no tests of a document.
    """
    return {nodeid: _figures([usage for test in same for usage in _runs(test)]) for nodeid, same in _measured(tests).items()}


def _figures(runs: Sequence[Mapping[str, Any]]) -> Samples:
    # Not by way of `Usage`, which takes five times as long: there are as many of these as tests times runs.
    found = {}
    for name, figure in FIGURES.items():
        if figure.attribute in _READ:
            values = [usage.get(figure.attribute) for usage in runs]
        elif all(_INHERITED in usage for usage in runs):
            values = [figure.of(Usage.from_json(dict(usage))) for usage in runs]
        else:
            continue
        if None not in values:
            found[name] = tuple(float(value) for value in values if value is not None)
    return found


def read(name: str, path: str) -> Baseline:
    """
    Raises:
        BaselineError: the file is no baseline.
        OSError
    """
    with open(path, encoding="utf-8") as file:
        try:
            document = json.load(file)
        except (ValueError, RecursionError) as error:
            raise BaselineError(f"it is no JSON: {error}; a file that was cut off has to be recorded again") from None
    if not isinstance(document, dict) or "version" not in document or "tests" not in document:
        raise BaselineError("it is no baseline and no document of --isolate-json")
    if document["version"] != VERSION:
        version = shown(document["version"])
        raise BaselineError(f"its version is {version}, and this version of pytest-isolate reads {VERSION}: record it again")
    try:
        run = document["run"]
        tests = samples_of(document["tests"])
        time.localtime(run["started"])  # whether it is one that can be shown
        return Baseline(name, path, float(run["started"]), str(run["commit"]), dict(document["machine"]), tests)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        raise BaselineError(f"it isn't as report.schema.json says: {type(error).__name__}: {error}") from None
