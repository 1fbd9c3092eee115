"""`pytest_isolate_spec`: what its implementations make of a spec, checked as everything that people type is.

Imported for the first isolated test of a run in which something implements the hook.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import pytest

from pytest_isolate.model.budget import merged
from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.image import Source
from pytest_isolate.model.keys import KEYS
from pytest_isolate.model.net import Bandwidth, Net, Publish
from pytest_isolate.model.parse import parse_key
from pytest_isolate.model.project import outside
from pytest_isolate.model.spec import IoLimit, Spec, absent, contradictions
from pytest_isolate.model.units import shown

__all__ = ["Answer", "ask", "implementers"]

_HOOK: Final = "pytest_isolate_spec"

_HELD: Final = {"io": IoLimit, "net": Net, "bandwidth": Bandwidth, "publish": Publish, "rootfs": Source}
"""What a spec holds for keys whose values have a class of their own: one, or a tuple of them."""


@dataclass(frozen=True)
class Answer:
    """
    Attributes:
        spec: the one to use.
        places: by key, where its value comes from.
        errors: what is wrong with the answer; then `spec` is that from before.
    """

    spec: Spec
    places: Mapping[str, str]
    errors: Sequence[str] = ()


def ask(item: pytest.Item, spec: Spec, places: Mapping[str, str]) -> Answer:
    """Call the hook for `item`. Raises what isn't an error of the hook: KeyboardInterrupt, `pytest.exit`."""
    place = f"{_HOOK} of {' or '.join(implementers(item.ihook, _HOOK, item.config))}"
    try:
        returned = item.ihook.pytest_isolate_spec(item=item, spec=spec)
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - whatever it is
        frames = "".join(traceback.format_exception(error)).rstrip().replace("\n", "\n    ")
        return Answer(spec, places, [f"{place} raised {type(error).__name__} for {item.nodeid}:\n    {frames}"])
    if returned is None or returned is spec:
        return Answer(spec, places)
    if not isinstance(returned, Spec):
        return Answer(
            spec, places, [f"{place}: {shown(returned)} is not a Spec; accepted: None, or dataclasses.replace(spec, …)"]
        )
    values, errors = _changes(spec, returned, str(item.config.rootpath))
    if not errors:
        made = replace(spec, **values)
        errors = [
            *contradictions(made),
            *(absent(made) if "rootfs" in values else ()),
            *outside(made.inputs, str(item.config.rootpath)),
        ]
        if not errors:
            return Answer(made, _places(places, spec, made, values, place))
    return Answer(spec, places, [str(error.at(place)) for error in errors])


def _changes(spec: Spec, returned: Spec, base: str) -> tuple[dict[str, Any], list[SpecError]]:
    """Checked values of the keys that differ, and what is wrong with them."""
    default = Spec()
    values: dict[str, Any] = {}
    errors: list[SpecError] = []
    for field in fields(Spec):
        name = field.name
        value = getattr(returned, name)
        if value == getattr(spec, name):
            continue
        if name not in KEYS:
            errors.append(SpecError(name, "is found out later, for each machine", "the value that the hook was given"))
        elif value == getattr(default, name) or _is_held(name, value):
            values[name] = value
        else:
            try:
                values[name] = parse_key(name, _typed(value), base)
            except SpecError as error:
                errors.append(error)
    if "budget" in values:
        values["budget"] = merged(dict(values["budget"]))
    return values, errors


def _places(places: Mapping[str, str], before: Spec, after: Spec, changed: Collection[str], place: str) -> dict[str, str]:
    """`places` with `place` for the keys that changed; of a budget for the figures whose limit did."""
    found = {**places, **dict.fromkeys(changed, place)}
    if found.pop("budget", None) is not None:
        former, limits = dict(before.budget), dict(after.budget)
        for figure in former.keys() | limits.keys():
            if figure not in limits:
                found.pop(f"budget.{figure}", None)
            elif limits[figure] != former.get(figure):
                found[f"budget.{figure}"] = place
    return found


def _is_held(name: str, value: object) -> bool:
    kind = _HELD.get(name)
    if kind is None:
        return False
    return isinstance(value, kind) or (isinstance(value, tuple) and all(isinstance(part, kind) for part in value))


def _typed(value: object) -> object:
    """As a marker has it: a mapping where a spec has pairs."""
    pairs = isinstance(value, tuple) and value and all(isinstance(part, tuple) and len(part) == 2 for part in value)
    return dict(value) if pairs else value  # type: ignore[call-overload]


def implementers(hooks: Any, name: str, config: pytest.Config) -> list[str]:
    """The names of what implements a hook, for messages: a conftest file as its path below the rootdir."""
    root = f"{config.rootpath}{os.sep}"
    return [str(found.plugin_name).removeprefix(root) for found in reversed(getattr(hooks, name).get_hookimpls())]
