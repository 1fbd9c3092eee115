"""Precedence: values for the same keys from several places, closest first, become one spec.

A layer is what one place gives: a marker, a profile, the command line, the ini file. Layers merge key by key;
a value is never mixed with a farther one's (an `env` replaces an `env`), so that the place that is named beside
a key says all about it. Only budgets merge figure by figure, each with a place of its own: a test that is given another
limit on its memory keeps the project's on its time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_isolate.model.budget import merged, unbreachable
from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.spec import Spec, contradictions

__all__ = ["Layer", "Merged", "merge"]


@dataclass(frozen=True)
class Layer:
    """Checked values by key, and the place they come from, in words."""

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Merged:
    """
    Attributes:
        places: by key, where its value comes from; keys at their defaults are absent. Of a budget by figure: ``budget.cpu``.
        errors: contradictions, each with the places of the keys it is about.
    """

    spec: Spec
    places: Mapping[str, str]
    errors: tuple[SpecError, ...]


def merge(layers: Iterable[Layer], *, partial: bool = False) -> Merged:
    """One spec of `layers`, closest first.

    Args:
        partial: closer layers are still to come. A key that lacks another one is no contradiction yet, only two
            given ones that exclude each other are.
    """
    values: dict[str, Any] = {}
    limits: dict[str, float | None] = {}
    places: dict[str, str] = {}
    for layer in layers:
        for key, value in layer.values.items():
            if key == "budget":
                for figure, limit in value:
                    if figure not in limits:
                        limits[figure] = limit
                        places[f"budget.{figure}"] = layer.place
            elif key not in values:
                values[key] = value
                places[key] = layer.place
    if limits:
        values["budget"] = merged(limits)
        for figure in (figure for figure, limit in limits.items() if limit is None):
            del places[f"budget.{figure}"]
    spec = Spec(**values)
    found = [error for error in contradictions(spec) if not partial or all(key in places for key in error.key.split("+"))]
    # A closer place's cap below a farther one's budget is no mistake; both in one place is.
    found += [error for error in unbreachable(spec) if len({places.get(key) for key in error.key.split("+")}) == 1]
    return Merged(spec, places, tuple(error.at(_where(error, places)) for error in found))


def _where(error: SpecError, places: Mapping[str, str]) -> str:
    found = {key: places[key] for key in error.key.split("+") if key in places}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{key} of {place}" for key, place in found.items())
