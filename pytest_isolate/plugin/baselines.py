"""Baselines in a run of pytest: what ``--isolate-save``, ``--isolate-compare`` and ``--isolate-compare-fail`` say, read and tried out
before the first test, and carried out when the run's document is there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.model.figures import FIGURES
from pytest_isolate.model.growth import FORM as LIMITS_FORM
from pytest_isolate.model.growth import Limit, parse_limits
from pytest_isolate.model.units import counted
from pytest_isolate.report.baseline import (
    DIRECTORY,
    FORM,
    Baseline,
    BaselineError,
    is_name,
    names,
    path_of,
    read,
    samples_of,
    slim,
    text_of,
)
from pytest_isolate.report.comparison import Comparison, compare
from pytest_isolate.report.comparison_lines import render_comparison
from pytest_isolate.report.files import refusal, write
from pytest_isolate.report.spread import FEWEST
from pytest_isolate.report.width import printable, wrap

if TYPE_CHECKING:
    from pytest_isolate.plugin.reading import Reader
    from pytest_isolate.report.lines import Line, Style

__all__ = ["Asked", "Baselines", "asked"]


@dataclass(frozen=True)
class Asked:
    """What is to be done with baselines.

    Attributes:
        name: of the one to save; empty: none.
        save: its path.
        baseline: to compare with.
        limits: by figure; growth beyond them fails the run. In one that only saves they say what later runs will need to have.
    """

    name: str = ""
    save: str = ""
    baseline: Baseline | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.name) or self.baseline is not None


def asked(reader: Reader) -> Asked:
    """Read and check it; what is wrong goes to the reader's errors. In a worker of xdist's the limits alone."""
    config = reader.config
    limits = _limits(reader)
    if config.getoption("isolate_save") is None and _named(reader)[0] is None:
        if limits and config.getoption("isolate_compare_fail") is not None:
            reader.errors.append(
                "command line: --isolate-compare-fail: there is nothing to compare with; accepted: beside --isolate-compare=NAME|PATH"
            )
        return Asked()
    if not reader.reports:
        return Asked(limits=limits)
    directory = _directory(reader)
    name, save = _saved(reader, directory)
    baseline = _compared(reader, directory, name)
    if baseline is not None and limits:
        _refuse_blind(reader, baseline, limits)
    return Asked(name, save, baseline, limits)


def _directory(reader: Reader) -> str:
    if (value := reader.ini("isolate_baselines")) is not None:
        return reader.path(str(value), "isolate_baselines")
    return str(reader.config.rootpath / DIRECTORY)


def _saved(reader: Reader, directory: str) -> tuple[str, str]:
    value = reader.config.getoption("isolate_save")
    if value is None:
        return "", ""
    if not is_name(value):
        reader.errors.append(f"command line: --isolate-save: {value!r} is no name; accepted: {FORM}")
        return "", ""
    path = path_of(value, directory)
    if why := refusal(path):
        reader.errors.append(
            f"command line: --isolate-save: {path} can't be written: {why}; accepted: isolate_baselines = a directory that you can write"
        )
    return value, path


def _named(reader: Reader) -> tuple[str | None, str, str]:
    """What to compare with, place and name as typed; None: nothing. An empty value of the ini file, or of ``-o``, says that."""
    value, place, typed = reader.either("isolate_compare")
    return None if value is None or (value == "" and not typed.startswith("--")) else str(value), place, typed


def _compared(reader: Reader, directory: str, saved: str) -> Baseline | None:
    """
    Args:
        saved: name of the baseline that this run saves: where the ini file has every run compare with it, the first can't.
    """
    value, place, typed = _named(reader)
    if value is None:
        return None
    named = is_name(value)
    path = path_of(value, directory) if named else reader.path(value, typed)
    there = ", ".join(names(directory)) or "none yet; --isolate-save=NAME records one"
    accepted = f"the path of a file of --isolate-save or --isolate-json, or a baseline in {directory}: {there}"
    try:
        return read(value, path)
    except FileNotFoundError:
        if value == saved and not typed.startswith("--"):
            return None
        problem = f"there is no baseline {value!r}" if named else f"there is no file {path}"
    except OSError as error:
        problem = f"{path} can't be read: {error.strerror}"
    except (BaselineError, UnicodeDecodeError) as error:
        problem = f"{path}: {error}"
    reader.errors.append(f"{place}: {typed}: {problem}; accepted: {accepted}")
    return None


def _limits(reader: Reader) -> Mapping[str, Limit]:
    value, place, typed = reader.either("isolate_compare_fail")
    if value is None:
        return {}
    try:
        return parse_limits(str(value))
    except ValueError as error:
        reader.errors.append(f"{place}: {typed}: {error}; accepted: {LIMITS_FORM}")
        return {}


def _refuse_blind(reader: Reader, baseline: Baseline, limits: Mapping[str, Limit]) -> None:
    """A limit that no run could be found to be beyond would pass for one that holds."""
    _, place, typed = reader.either("isolate_compare_fail")
    if (runs := reader.repeat) < FEWEST:
        reader.errors.append(
            f"{place}: {typed}: growth can't be told from noise by {counted(runs, 'run')} of each test; accepted: --isolate-repeat={FEWEST} or more"
        )
    if not baseline.tests:
        reader.errors.append(
            f"{place}: {typed}: the baseline {baseline.name} has no test that passed, so that none can be seen to grow; "
            "accepted: another baseline"
        )
        return
    measured = {name for samples in baseline.tests.values() for name in samples}
    for figure in limits:
        if figure not in measured:
            reader.errors.append(
                f"{place}: {typed}: {figure}: the baseline {baseline.name} doesn't have it, so that its growth can't be seen; "
                f"accepted: {', '.join(name for name in FIGURES if name in measured) or 'another baseline'}"
            )
    fewest, most = baseline.runs
    if most < FEWEST:
        reader.errors.append(
            f"{place}: {typed}: growth can't be told from noise by the {counted(fewest, 'run')} of each test that the baseline {baseline.name} has; "
            f"accepted: one that was recorded with --isolate-repeat={FEWEST} or more"
        )


_UNSAVED: Final = "the baseline {} was not saved: {}"


class Baselines:
    """What is done at the end.

    Attributes:
        comparison: once the run is over; None where nothing is compared.
        said: sentences for the terminal, with their colour.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.comparison: Comparison | None = None
        self.said: list[tuple[str, str]] = []
        self._made: dict[str, Any] = {}

    def compare(self, session: pytest.Session, document: dict[str, Any]) -> None:
        """If it was asked for: `document` gets its member `comparison`, and the session its status."""
        baseline = self._asked.baseline
        if baseline is None:
            return
        tests = document["tests"]
        ran = [str(test["nodeid"]) for test in tests]
        self.comparison = compare(baseline, samples_of(tests), machine=document["machine"], ran=ran, limits=self._asked.limits)
        document["comparison"] = self.comparison.to_json()
        if self.comparison.fails and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            document["run"]["exit_status"] = int(session.exitstatus)

    def make(self, document: Mapping[str, Any]) -> None:
        """What `save` writes, if it is asked for. Raises whatever a document that isn't one leads to."""
        self._made = slim(document)

    def save(self, session: pytest.Session, document: Mapping[str, Any]) -> None:
        """What was made, after `compare`, and where the run is good for a baseline."""
        name, path = self._asked.name, self._asked.save
        if not name:
            return
        baseline = self._made
        if document["run"]["interrupted"]:
            why = "the run was interrupted, or a worker of it crashed, and figures of tests would be missing"
        elif self.comparison is not None and self.comparison.fails:
            why = f"figures grew beyond their limits; to accept them, save without --isolate-compare-fail: --isolate-save={name}"
        elif not baseline["tests"]:
            why = "no isolated test passed"
        elif why := self._write(session, baseline):
            self.said.append((_UNSAVED.format(name, why), "red"))
            return
        else:
            left_out = {test["nodeid"] for test in document["tests"]} - {test["nodeid"] for test in baseline["tests"]}
            without = f", without those of {len(left_out)} that didn't pass" if left_out else ""
            shown = os.path.relpath(path, session.config.invocation_params.dir)
            self.said.append(
                (f"baseline {name}: figures of {counted(len(baseline['tests']), 'test')} saved in {shown}{without}", "")
            )
            return
        self.said.append((_UNSAVED.format(name, why), "yellow"))

    def _write(self, session: pytest.Session, baseline: Mapping[str, Any]) -> str:
        """Why it couldn't be done; empty if it was."""
        try:
            write(self._asked.save, text_of(baseline))
        except OSError as error:
            session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR
            return f"{self._asked.save}: {error.strerror}"
        return ""

    def lines(self, style: Style) -> list[Line]:
        """For the section."""
        lines = render_comparison(self.comparison, style) if self.comparison is not None else []
        for text, colour in self.said:
            styles = (colour,) if colour else ()
            lines += [((piece, styles),) for piece in wrap(printable(text, style.encoding), style.width)]
        return lines
