"""What one isolated test came to, and what a run of them adds up to: pure data, JSON at both ends.

A `TestRecord` travels as the attribute ``isolate`` of the test's last report. pytest serialises extra
attributes of a report as they are, so xdist and pytest-reportlog carry it without a channel of our own;
`to_json` therefore gives only builtin types, which is all that execnet can send. Rendering is left to
`report.terminal`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_isolate.model.budget import Judged
from pytest_isolate.model.samples import Samples
from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import Contacts, Usage

__all__ = ["Problem", "Run", "TestRecord", "percentile"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that went wrong in a sandbox.

    Attributes:
        kind: one word for the status column: ``oom``, ``timeout``, ``signal``, ``leak``, …
        text: what was hit and by whom; the first line is a sentence that stands alone.
        failed: whether it made the test fail; False for what is only reported (``leak="report"``).
    """

    kind: str
    text: str
    failed: bool = True

    @property
    def sentence(self) -> str:
        return next(iter(self.text.splitlines()), "")

    @property
    def brief(self) -> str:
        """The sentence for where the kind stands beside it: not once more in front of it."""
        return self.sentence.removeprefix(f"{self.kind.upper()}: ")

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "text": self.text, "failed": self.failed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Problem:
        return cls(str(data["kind"]), str(data["text"]), bool(data.get("failed", True)))


@dataclass(frozen=True, slots=True)
class TestRecord:
    """One attempt at one test.

    Attributes:
        nodeid: pytest's id of the test.
        usage: what the sandbox consumed.
        spec: what was asked for, after weakening.
        problems: what went wrong, the gravest first.
        weakened: sentences, one for each capability that was missing and given up (``--isolate-missing=weaken``).
        notes: sentences about the run that this test brought up (live threads at the fork, modules to preload);
            equal ones are shown once.
        contacts: remote addresses that it turned to; None where its network mode tells of none.
        started: when it joined its sandbox, in seconds since the epoch; None where it never did.
        samples: what it had over its time; None where it wasn't sampled.
        outcome: pytest's word: passed, failed, error, skipped, xfailed, xpassed, rerun; empty until all its reports are there.
        worker: xdist's name of the process that ran it; empty without xdist.
        location: the test's file relative to the rootdir, and its line, counted from 1 (0: unknown); None where pytest names none.
        repetitions: of a test that is repeated what each of its runs used, `usage` the last of them; else empty.
        budget: its limits, each judged.
    """

    __test__ = False  # pytest would collect a class of this name where a test module imports it

    nodeid: str
    usage: Usage
    spec: Spec = field(default_factory=Spec)
    problems: tuple[Problem, ...] = ()
    weakened: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    contacts: Contacts | None = None
    started: float | None = None
    samples: Samples | None = None
    outcome: str = ""
    worker: str = ""
    location: tuple[str, int] | None = None
    repetitions: tuple[Usage, ...] = ()
    budget: tuple[Judged, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "nodeid": self.nodeid,
            "usage": self.usage.to_json(),
            "spec": _plain(self.spec.to_json()),
            "problems": [problem.to_json() for problem in self.problems],
            "weakened": list(self.weakened),
            "notes": list(self.notes),
            **({"contacts": _plain(self.contacts.to_json())} if self.contacts is not None else {}),
            **({"started": self.started} if self.started is not None else {}),
            **({"samples": self.samples.to_json()} if self.samples is not None else {}),
            **({"outcome": self.outcome} if self.outcome else {}),
            **({"worker": self.worker} if self.worker else {}),
            **({"file": self.location[0], "line": self.location[1]} if self.location is not None else {}),
            **({"repetitions": [usage.to_json() for usage in self.repetitions]} if self.repetitions else {}),
            **({"budget": [judged.to_json() for judged in self.budget]} if self.budget else {}),
        }

    @classmethod
    def from_json(cls, data: object) -> TestRecord | None:
        """The record in `data`, or None where it isn't one: another plugin's or version's attribute of that name."""
        if not isinstance(data, dict):
            return None
        try:
            return cls(
                nodeid=str(data["nodeid"]),
                usage=Usage.from_json(data["usage"]),
                spec=Spec.from_json(data["spec"]),
                problems=tuple(Problem.from_json(problem) for problem in data["problems"]),
                weakened=tuple(str(text) for text in data.get("weakened", ())),
                notes=tuple(str(text) for text in data.get("notes", ())),
                contacts=Contacts.from_json(data["contacts"]) if "contacts" in data else None,
                started=data.get("started"),
                samples=Samples.from_json(data["samples"]) if "samples" in data else None,
                outcome=str(data.get("outcome", "")),
                worker=str(data.get("worker", "")),
                location=(str(data["file"]), int(data["line"])) if "file" in data else None,
                repetitions=tuple(Usage.from_json(usage) for usage in data.get("repetitions", ())),
                budget=tuple(Judged.from_json(judged) for judged in data.get("budget", ())),
            )
        except (KeyError, TypeError, AttributeError, ValueError):
            return None


def _plain(value: Any) -> Any:
    """`value` with tuples as lists: what JSON gives back, so that a record is equal on both sides of a pipe."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return value


class Run:
    """The records of a run.

    A test that is run again (pytest-rerunfailures) under the same id by the same worker replaces its earlier
    attempt in `tests`, since its last attempt is its result; the earlier ones stay in `attempts`, because the
    run did consume what they consumed and their problems are the reason for the rerun. The same test on two
    workers (``--dist=each``) is two tests.
    """

    def __init__(self, records: Iterable[TestRecord] = ()) -> None:
        self._attempts: dict[tuple[str, str], list[TestRecord]] = {}
        self._notes: dict[str, None] = {}
        for record in records:
            self.add(record)

    def add(self, record: TestRecord) -> None:
        self._attempts.setdefault((record.worker, record.nodeid), []).append(record)
        for note in record.notes:
            self.note(note)

    def note(self, text: str) -> None:
        """A sentence about the whole run; an equal one is kept once."""
        self._notes[text] = None

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    @property
    def tests(self) -> list[TestRecord]:
        """The last attempt at each test, in the order of first attempts."""
        return [attempts[-1] for attempts in self._attempts.values()]

    @property
    def attempts(self) -> list[TestRecord]:
        return [attempt for attempts in self._attempts.values() for attempt in attempts]

    def problems(self) -> list[tuple[TestRecord, Problem]]:
        """What failed tests first, then what was only reported, each in the order of the run."""
        found = list(self._problems())
        return [pair for pair in found if pair[1].failed] + [pair for pair in found if not pair[1].failed]

    def _problems(self) -> Iterator[tuple[TestRecord, Problem]]:
        for attempts in self._attempts.values():
            for number, attempt in enumerate(attempts, 1):
                for problem in attempt.problems:
                    again = f" (attempt {number} of {len(attempts)})" if len(attempts) > 1 else ""
                    yield attempt, replace(problem, text=problem.sentence + again)

    def weakened(self) -> dict[str, int]:
        """Each sentence on a missing capability, and how many tests ran without it."""
        counts: dict[str, int] = {}
        for record in self.tests:
            for text in dict.fromkeys(record.weakened):
                counts[text] = counts.get(text, 0) + 1
        return counts

    def total(self, name: str) -> float | None:
        """Sum of one figure of `Usage` over all attempts; None where it is known of none."""
        known = self._known(name)
        return sum(known) if known else None

    def highest(self, name: str) -> float | None:
        return max(self._known(name), default=None)

    def _known(self, name: str) -> list[float]:
        return [value for record in self.attempts if (value := getattr(record.usage, name)) is not None]

    def setup_costs(self) -> list[float]:
        """What each sandbox cost the run, in seconds, in ascending order."""
        return sorted(self._known("setup_seconds"))


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile of ascending, non-empty `values`: always one of them, never a value in between."""
    return values[max(0, math.ceil(share * len(values)) - 1)]
