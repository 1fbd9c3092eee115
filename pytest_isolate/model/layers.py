"""Precedence: values for the same keys from several places, closest first, become one spec.

A layer is what one place gives: a marker, a profile, the command line, the ini file. Layers merge key by key;
a value is never mixed with a farther one's (an `env` replaces an `env`), so that the place that is named beside
a key says all about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
        places: by key, where its value comes from; keys at their defaults are absent.
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
    places: dict[str, str] = {}
    for layer in layers:
        for key, value in layer.values.items():
            if key not in values:
                values[key] = value
                places[key] = layer.place
    spec = Spec(**values)
    found = [error for error in contradictions(spec) if not partial or all(key in places for key in error.key.split("+"))]
    return Merged(spec, places, tuple(error.at(_where(error, places)) for error in found))


def _where(error: SpecError, places: Mapping[str, str]) -> str:
    found = {key: places[key] for key in error.key.split("+") if key in places}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{key} of {place}" for key, place in found.items())
