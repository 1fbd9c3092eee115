"""What came out of a variant: read from JUnit XML, kept as JSON in `docs/reference/support.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree as ET

__all__ = ["DoctorResult", "Facts", "RefusalResult", "SuiteResult", "VariantResult", "first_told", "load", "read_junit", "save"]


@dataclass(frozen=True)
class Facts:
    """What the machine says about itself.

    Attributes:
        controllers: each cgroup controller and the version of the hierarchy that it is in.
    """

    kernel: str
    distribution: str
    systemd: str
    python: str
    layout: str
    controllers: Mapping[str, str]


@dataclass(frozen=True)
class DoctorResult:
    """What the doctor told a user, without what works.

    Attributes:
        capabilities: ``weaker`` or ``missing``, by name.
        keys: the same by spec key.
    """

    capabilities: Mapping[str, str]
    keys: Mapping[str, str]

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Self:
        """From `doctor --json`."""
        states = [
            {one["name"]: one["state"] for one in report[what] if one["state"] != "works"} for what in ("capabilities", "keys")
        ]
        return cls(*states)


@dataclass(frozen=True)
class SuiteResult:
    """One user's run of the tests.

    Attributes:
        tests: what was asked of pytest.
        status: pytest's exit status; None: it was ended after its time.
        failed: ids of tests that failed or whose set-up or teardown did.
        skipped: number of tests by the reason they gave.
        without: capabilities that weren't demanded of this user.
        seconds: of real time, in emulation.
        doctor: None in results from before it was asked.
    """

    tests: Sequence[str]
    status: int | None
    passed: int
    failed: Sequence[str]
    skipped: Mapping[str, int]
    without: Sequence[str]
    seconds: float
    doctor: DoctorResult | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        doctor = data.get("doctor")
        return cls(**{**data, "doctor": DoctorResult(**doctor) if doctor else None})

    @property
    def good(self) -> bool:
        return self.status == 0 and not self.failed and self.passed > 0


@dataclass(frozen=True)
class RefusalResult:
    """A refusal as one user met it.

    Attributes:
        expected: whether isolation should work for this user all the same.
        isolates: whether a bare `@pytest.mark.isolate` worked.
        problem: what differs from what was expected; empty: nothing.
        remedy: what the doctor says of it.
    """

    expected: bool
    isolates: bool
    problem: str
    remedy: str

    @property
    def good(self) -> bool:
        return not self.problem


@dataclass(frozen=True)
class VariantResult:
    """Everything about one variant. `suites` by user, `refusals` by their name and then by user."""

    facts: Facts
    suites: Mapping[str, SuiteResult] = field(default_factory=dict)
    refusals: Mapping[str, Mapping[str, RefusalResult]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        every = [result.good for result in self.suites.values()]
        every += [result.good for users in self.refusals.values() for result in users.values()]
        return bool(every) and all(every)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            Facts(**data["facts"]),
            {user: SuiteResult.of(result) for user, result in data["suites"].items()},
            {name: {user: RefusalResult(**r) for user, r in users.items()} for name, users in data["refusals"].items()},
        )


def read_junit(path: Path) -> tuple[int, list[str], dict[str, int]]:
    """Passed, ids of the failed, reasons of the skipped, of a report of the family xunit1, which names files. Raises OSError, ET.ParseError."""
    passed = 0
    failed: list[str] = []
    skipped: dict[str, int] = {}
    for case in ET.parse(path).iter("testcase"):
        name = f"{case.get('file')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif (skip := case.find("skipped")) is not None:
            reason = skip.get("message") or ""
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            passed += 1
    return passed, failed, skipped


def first_told(report: str) -> str:
    """The first capability that the doctor's report calls missing: why, and what to type. Empty where there is none."""
    found = re.search(r"^missing +\S+ +(.*?)\n +remedy: (.*?)$", report, re.DOTALL | re.MULTILINE)
    return f"{' '.join(found[1].split())}; remedy: {found[2]}" if found else ""


def load(path: Path) -> dict[str, VariantResult]:
    """By variant; none where there is no file yet."""
    if not path.exists():
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    return {name: VariantResult.of(result) for name, result in data.items()}


def save(path: Path, results: Mapping[str, VariantResult]) -> None:
    data = {name: asdict(result) for name, result in results.items()}
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
