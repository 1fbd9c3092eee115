"""Budgets: limits that judge what a test has used, where caps stop it. Pure.

A budget is pairs of a figure and its limit, in the order of `figures.FIGURES`, so that it can be part of a hashable spec. Places
merge figure by figure (`layers.merge`): in one place's pairs a limit of None takes a farther place's limit away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.figures import FIGURES, parse_figure
from pytest_isolate.model.units import shown

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec
    from pytest_isolate.model.usage import Usage

__all__ = ["AT_END", "Budget", "Given", "Judged", "breached", "judge", "merged", "parse_budget", "unbreachable", "uncountable"]

Budget = tuple[tuple[str, float], ...]
Given = tuple[tuple[str, float | None], ...]
"""What one place says."""

AT_END: Final = frozenset({"disk", "processes_left"})
"""Figures that go down as well: they are judged when the test has ended, its teardown included."""

_NO_LIMIT: Final = "none"
"""For None where there is none: on the command line, in ini, in TOML."""

_OF_BRIDGES: Final = ("net_rx", "net_tx")
_CAPPED: Final = {"memory": "memory", "memory_own": "memory", "pids": "pids", "disk": "disk", "wall": "timeout"}
"""Figures, and the key that stops a test at one: peaks can't be above it."""


def parse_budget(value: object) -> Given:
    """What was typed: a mapping of figures to limits. Raises ValueError naming the figure."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{shown(value)} is not a mapping of figures to limits")
    found: dict[str, float | None] = {}
    for name, limit in value.items():
        figure = parse_figure(name)
        try:
            found[figure.name] = None if limit is None or limit == _NO_LIMIT else figure.parse(limit)
        except ValueError as error:
            raise ValueError(f"{figure.name}: {error}") from None
    return tuple((figure, found[figure]) for figure in FIGURES if figure in found)


def merged(limits: Mapping[str, float | None]) -> Budget:
    """The limits that are left when all places have spoken."""
    return tuple((figure, limit) for figure in FIGURES if (limit := limits.get(figure)) is not None)


def uncountable(spec: Spec) -> list[SpecError]:
    """Limits on what a sandbox of this spec has no count of, on any machine; the errors carry no place yet."""
    limits = dict(spec.budget)
    return [
        SpecError(
            f"budget.{figure}+net",
            f'{figure} is counted at the link to a bridge network, and net is "{spec.net}"',
            f'net="bridge" beside it, or no limit on {figure}',
        )
        for figure in _OF_BRIDGES
        if figure in limits and spec.net.mode != "bridge"
    ]


def unbreachable(spec: Spec) -> list[SpecError]:
    """Limits that the test is stopped below, so that they can judge nothing; the errors carry no place yet."""
    found = []
    for name, limit in spec.budget:
        key = _CAPPED.get(name, "")
        cap: float | None = getattr(spec, key) if key else None
        if cap is not None and limit >= cap:
            show = FIGURES[name].show
            found.append(
                SpecError(
                    f"budget.{name}+{key}",
                    f"{show(limit)} is never exceeded: {key}={show(cap)} stops the test there",
                    f"a budget for {name} below {key}",
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class Judged:
    """One limit of one test.

    Attributes:
        used: in the figure's unit; None where it isn't known.
        verdict: ``unmeasured`` where `used` is None.
        place: where the limit was set, in words.
    """

    figure: str
    used: float | None
    allowed: float
    verdict: Literal["within", "over", "unmeasured"]
    place: str = ""

    @property
    def ratio(self) -> float:
        """Of used to allowed: infinite beyond nothing, 0 where it isn't known."""
        if self.used is None:
            return 0.0
        if not self.allowed:
            return float("inf") if self.used else 0.0
        return self.used / self.allowed

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Judged:
        return cls(str(data["figure"]), data["used"], data["allowed"], data["verdict"], str(data.get("place", "")))


def judge(budget: Budget, usage: Usage, places: Mapping[str, str], leave_out: Collection[str] = ()) -> tuple[Judged, ...]:
    """Every limit of `budget` against `usage`.

    Args:
        places: by ``budget.FIGURE``, where the limit was set.
        leave_out: figures that can't be told yet.
    """
    found = []
    for name, allowed in budget:
        if name in leave_out:
            continue
        used = FIGURES[name].of(usage)
        verdict: Literal["within", "over", "unmeasured"] = (
            "unmeasured" if used is None else "over" if used > allowed else "within"
        )
        found.append(Judged(name, used, allowed, verdict, places.get(f"budget.{name}", "")))
    return tuple(found)


def breached(judged: Iterable[Judged]) -> list[Judged]:
    """Those over their limit, the farthest first."""
    return sorted((each for each in judged if each.verdict == "over"), key=lambda each: -each.ratio)
