"""A run compared with a baseline: for each test and figure how much it changed, and whether that can be told from noise.

Each figure is the median of the test's runs, on both sides, and `Spread` says how sure it is. The noise of a change is how far the two
medians may be off together, in the worse direction. So a change greater than its noise is one between intervals that
don't touch; one that stays material only if the noise is taken for growth isn't called the same. Where one side has
fewer runs than make an interval, nothing is told: the verdict is ``unclear``, whatever the change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pytest_isolate.model.figures import FIGURES
from pytest_isolate.model.growth import Limit
from pytest_isolate.report.baseline import Baseline, Samples
from pytest_isolate.report.spread import Spread

__all__ = ["MATERIAL", "Change", "Comparison", "Verdict", "compare"]

Verdict = Literal["same", "grown", "shrunk", "new", "gone", "unclear"]

MATERIAL: Final = 0.05
"""A change that is certainly smaller than this share is none: the verdict is ``same``."""

_EVERYTHING: Final = ("architecture", "processor", "cpus", "kernel", "cgroup_layout", "python", "user")
_DEPENDS: Final[Mapping[str, tuple[str, ...]]] = {
    "cpu": _EVERYTHING,
    "wall": _EVERYTHING,
    # Only user mode is counted; the C library chooses its code by the processor.
    "instructions": ("architecture", "processor", "python"),
    # What is charged, and when, is the kernel's affair; how large objects are, the interpreter's.
    **dict.fromkeys(("memory", "memory_own"), ("architecture", "kernel", "cgroup_layout", "python", "user")),
    "io_read": ("kernel", "cgroup_layout"),
    "io_write": ("kernel", "cgroup_layout"),
    "pids": (), "net_rx": (), "net_tx": (), "disk": (), "processes_left": (),
}  # fmt: skip
"""What has to be alike for two values of a figure to be comparable; a figure that isn't here takes everything."""


_ORDER: Final = ("exceeded", "grown", "unclear", "shrunk", "same", "new", "gone")


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one test.

    Attributes:
        before, after: medians, in the figure's unit; None where there is no such test.
        change: share of `before`; None where there is nothing to divide by.
        noise: share of `before` that the medians may be off by; None where that can't be told.
        limit: what it may grow by; None where nothing was said.
        exceeded: it grew by more than that, and by more than the noise.
    """

    nodeid: str
    figure: str
    before: float | None
    after: float | None
    change: float | None
    noise: float | None
    verdict: Verdict
    limit: Limit | None = None
    exceeded: bool = False

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("nodeid", "figure", "before", "after")}
        shares = {
            name: None if value is None else round(value, 6) for name, value in (("change", self.change), ("noise", self.noise))
        }
        return {
            **plain,
            **shares,
            "verdict": self.verdict,
            **({"limit": self.limit.text, "exceeded": self.exceeded} if self.limit else {}),
        }


@dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        changes: in the order of the run, and then of the baseline; figures that are 0 on both sides are left out.
        unlike: what differs between the two machines: (fact, there, here).
        unjudged: figures that can't be compared because of that.
        unmeasured: (node id, figure) with a limit that the baseline has, and this run couldn't measure.
        failed: node ids of the baseline's tests that ran and didn't pass.
    """

    baseline: Baseline
    changes: tuple[Change, ...] = ()
    unlike: tuple[tuple[str, str, str], ...] = ()
    unjudged: tuple[str, ...] = ()
    unmeasured: tuple[tuple[str, str], ...] = ()
    failed: tuple[str, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)

    @property
    def fails(self) -> bool:
        """Whether the run must."""
        return bool(self.unmeasured) or any(change.exceeded for change in self.changes)

    @property
    def exceeded(self) -> list[Change]:
        """Most grown first."""
        return sorted((change for change in self.changes if change.exceeded), key=_growth, reverse=True)

    @property
    def perhaps(self) -> list[Change]:
        """Those whose medians are further apart than their limit, where noise may be all of it."""
        found = (change for change in self.changes if change.verdict == "unclear" and change.figure not in self.unjudged)
        return [
            change for change in found
            if change.limit is not None and change.before is not None and change.after is not None
            and change.after - change.before > change.limit.of(change.before)
        ]  # fmt: skip

    @property
    def grown(self) -> list[Change]:
        """Most grown first; those beyond a limit aren't among them."""
        grown = (change for change in self.changes if change.verdict == "grown" and not change.exceeded)
        return sorted(grown, key=_growth, reverse=True)

    def gravest(self) -> dict[str, str]:
        """By node id: ``exceeded``, or the gravest verdict on one of its figures, growth first, ``same`` last."""
        found: dict[str, str] = {}
        for change in self.changes:
            said = "exceeded" if change.exceeded else change.verdict
            found[change.nodeid] = min(found.get(change.nodeid, said), said, key=_ORDER.index)
        return found

    def too_few(self) -> bool:
        """Whether it is for want of runs that something is unclear."""
        few = (
            change
            for change in self.changes
            if change.verdict == "unclear" and change.noise is None and change.change is not None
        )
        return any(change.figure not in self.unjudged for change in few)

    def to_json(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline.about(),
            "tests": [change.to_json() for change in self.changes],
            "unlike": [{"fact": fact, "before": before, "after": after} for fact, before, after in self.unlike],
            "unjudged": list(self.unjudged),
            "unmeasured": [{"nodeid": nodeid, "figure": figure} for nodeid, figure in self.unmeasured],
            "failed": list(self.failed),
        }


def _growth(change: Change) -> float:
    return float("inf") if change.change is None else change.change


def compare(
    baseline: Baseline,
    tests: Mapping[str, Samples],
    *,
    machine: Mapping[str, Any],
    ran: Iterable[str],
    limits: Mapping[str, Limit] | None = None,
) -> Comparison:
    """
    Args:
        tests: figures of this run's tests that passed.
        machine: this one.
        ran: node ids of all tests of this run that ended, whatever came of them.
        limits: by figure.
    """
    limits = limits or {}
    facts = unlike(baseline.machine, machine)
    different = {fact for fact, _, _ in facts}
    unjudged = {name for name in FIGURES if different.intersection(_DEPENDS.get(name, _EVERYTHING))}
    failed = [nodeid for nodeid in dict.fromkeys(ran) if nodeid in baseline.tests and nodeid not in tests]
    changes: list[Change] = []
    unmeasured = []
    for nodeid, after in tests.items():
        before = baseline.tests.get(nodeid)
        if before is None:
            changes += [Change(nodeid, name, None, Spread.of(values).median, None, None, "new") for name, values in after.items()]
            continue
        changes += _changes(nodeid, before, after, unjudged, limits)
        unmeasured += [(nodeid, name) for name in limits if name in before and name not in after]
    for nodeid, before in baseline.tests.items():
        if nodeid not in tests and nodeid not in failed:
            changes += [
                Change(nodeid, name, Spread.of(values).median, None, None, None, "gone") for name, values in before.items()
            ]
    return Comparison(
        baseline,
        tuple(changes),
        tuple(facts),
        tuple(name for name in FIGURES if name in unjudged),
        tuple(unmeasured),
        tuple(failed),
        limits,
    )


def _changes(nodeid: str, before: Samples, after: Samples, unjudged: set[str], limits: Mapping[str, Limit]) -> Iterator[Change]:
    for name in after:
        if name not in before:
            continue
        one, other = Spread.of(before[name]), Spread.of(after[name])
        if one.median or other.median:
            yield judged(nodeid, name, one, other, limits.get(name), comparable=name not in unjudged)


def judged(
    nodeid: str, figure: str, before: Spread, after: Spread, limit: Limit | None = None, *, comparable: bool = True
) -> Change:
    """The change from `before` to `after`.

    Args:
        comparable: the two come from machines that are alike.
    """
    grown = after.median - before.median
    change = grown / before.median if before.median else None
    if not comparable or before.low is None or before.high is None or after.low is None or after.high is None:
        return Change(nodeid, figure, before.median, after.median, change, None, "unclear", limit)
    off = max(after.median - after.low + before.high - before.median, after.high - after.median + before.median - before.low)
    material = MATERIAL * before.median
    if limit is not None:
        material = min(material, limit.of(before.median))
    verdict: Verdict = "unclear"
    if abs(grown) + off <= material:
        verdict = "same"
    elif abs(grown) > off:
        verdict = "grown" if grown > 0 else "shrunk"
    exceeded = limit is not None and verdict == "grown" and grown > limit.of(before.median)
    noise = off / before.median if before.median else None
    return Change(nodeid, figure, before.median, after.median, change, noise, verdict, limit, exceeded)


_FACTS: Final = {
    "architecture": "architecture",
    "processor": "processor",
    "cpus": "CPUs",
    "kernel": "kernel",
    "cgroup_layout": "cgroup layout",
    "python": "Python",
    "user": "user",
}


def unlike(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What differs between two machines of documents and matters to a figure: (fact, there, here).

    A machine's name isn't among it, which is another one for every run of most CI systems; of kernel and Python the third number
    and what follows aren't, because a security update changes no figure by much.
    """
    one, other = _facts(there), _facts(here)
    return [(fact, one[fact], other[fact]) for fact in _FACTS if one[fact] != other[fact]]


def _facts(machine: Mapping[str, Any]) -> dict[str, str]:
    facts = {fact: str(machine.get(fact, "")) for fact in _FACTS}
    facts |= {fact: ".".join(facts[fact].split(".")[:2]) for fact in ("kernel", "python")}
    return {**facts, "user": "root" if machine.get("uid") == 0 else "a user"}
