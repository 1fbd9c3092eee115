"""How much a figure may grow: ``memory:10%,cpu:0.5s``, the text of ``--isolate-compare-fail``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pytest_isolate.model.figures import FIGURES, Figure, parse_figure
from pytest_isolate.model.units import shown

__all__ = ["FORM", "Limit", "parse_limits"]

FORM: Final = f"FIGURE:GROWTH,… as memory:10%,cpu:20% or memory:5MiB; figures: {', '.join(FIGURES)}"

_PERCENT: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*%", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limit:
    """What one figure may grow by.

    Attributes:
        text: as it was typed.
        share: of the value before; None where `amount` says it.
        amount: in the figure's unit; None where `share` says it.
    """

    text: str
    share: float | None = None
    amount: float | None = None

    def of(self, before: float) -> float:
        """In the figure's unit."""
        return self.amount if self.amount is not None else before * (self.share or 0.0)


def parse_limits(text: str) -> Mapping[str, Limit]:
    """By the figure's name. Raises ValueError."""
    found: dict[str, Limit] = {}
    for part in text.split(","):
        name, sign, growth = part.strip().partition(":")
        if not sign:
            raise ValueError(f"{shown(part.strip())} is not FIGURE:GROWTH")
        figure = parse_figure(name.strip())
        if figure.name in found:
            raise ValueError(f"{figure.name} is given twice")
        found[figure.name] = _limit(figure, growth.strip())
    return found


def _limit(figure: Figure, growth: str) -> Limit:
    if match := _PERCENT.fullmatch(growth):
        return Limit(growth, share=float(match[1]) / 100)
    if figure.kind != "count" and growth.isdigit() and int(growth):
        raise ValueError(f"{figure.name}: {shown(growth)} has no unit")  # percent would be taken for bytes or seconds
    try:
        return Limit(growth, amount=figure.parse(growth))
    except ValueError as error:
        raise ValueError(f"{figure.name}: {error}") from None
