"""Profiles: named specs, in ``[tool.pytest-isolate.profiles.NAME]`` of the rootdir's ``pyproject.toml``; and who reads the other
table that is there, ``budgets``.

pytest hands plugins the values of its own table alone, so the file is read here. This module is imported only
where the file mentions us, because tomllib costs 2 ms in projects that configure pytest elsewhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_isolate.model.layers import Layer, merge
from pytest_isolate.model.parse import parse_keys
from pytest_isolate.model.units import shown

__all__ = ["document", "load", "unknown_profile"]

FILE: Final = "pyproject.toml"
_TABLE: Final = "pytest-isolate"


def document(path: Path) -> dict[str, Any]:
    """A TOML file; empty where it doesn't exist.

    Raises:
        ValueError: it can't be read or isn't TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


Budgets = tuple[tuple[str, Layer], ...]


def load(rootdir: Path) -> tuple[dict[str, Layer], Budgets, list[str]]:
    """Profiles by name, budgets by pattern, and what is wrong with them, as sentences."""
    path = rootdir / FILE
    try:
        ours = _tool(document(path)).get(_TABLE, {})
    except ValueError as error:
        return {}, (), [str(error)]
    if not ours:
        return {}, (), []
    if not isinstance(ours, Mapping):
        return {}, (), [f"{FILE}: [tool.{_TABLE}] is not a table"]
    errors = [
        f"{FILE}: [tool.{_TABLE}] has no key {shown(name)}; accepted: tables [tool.{_TABLE}.profiles.NAME], and [tool.{_TABLE}.budgets]"
        for name in ours
        if name not in ("profiles", "budgets")
    ]
    budgets: Budgets = ()
    if "budgets" in ours:
        from pytest_isolate.plugin import budget_patterns

        budgets, problems = budget_patterns.load(ours["budgets"])
        errors += problems
    profiles = ours.get("profiles", {})
    if not isinstance(profiles, Mapping):
        return (
            {},
            budgets,
            [*errors, f"{FILE}: [tool.{_TABLE}.profiles] is not a table; accepted: tables [tool.{_TABLE}.profiles.NAME]"],
        )
    found: dict[str, Layer] = {}
    for name, values in profiles.items():
        found[name], problems = _profile(name, values, str(rootdir))
        errors += problems
    return found, budgets, errors


def _tool(document: Mapping[str, Any]) -> Mapping[str, Any]:
    tool = document.get("tool", {})
    return tool if isinstance(tool, Mapping) else {}


def _profile(name: str, values: Any, base: str) -> tuple[Layer, list[str]]:
    place = f"profile {shown(name)} of {FILE}"
    if not isinstance(values, Mapping):
        return Layer(place, {}), [
            f"{place}: {shown(values)} is not a table; accepted: [tool.{_TABLE}.profiles.{name}] with spec keys"
        ]
    checked, errors = parse_keys(values, base, place)
    layer = Layer(place, checked)
    return layer, [str(error) for error in (*errors, *merge([layer], partial=True).errors)]


def unknown_profile(name: object, profiles: Mapping[str, Layer]) -> tuple[str, str]:
    """The problem with a `name` that isn't in `profiles`, and the accepted form."""
    table_name = f"[tool.{_TABLE}.profiles.NAME] in the rootdir's {FILE}"
    if not profiles:
        return f"no profile {shown(name)}: there is no {table_name}", f"a name for which {table_name} exists"
    return f"no profile {shown(name)}", f"{', '.join(map(repr, sorted(profiles)))} (from {table_name})"
