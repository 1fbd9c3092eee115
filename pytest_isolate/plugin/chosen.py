"""What fixtures have a say in a test's root file system: one that ``rootfs=`` names, and snapshots that the test uses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

import pytest

from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.image import Source
from pytest_isolate.model.parse import parse_key
from pytest_isolate.model.spec import Spec
from pytest_isolate.plugin import reports

__all__ = ["by_fixtures", "foreseen", "layers_of", "snapshots_key"]

snapshots_key: Final[pytest.StashKey[dict[str, str]]] = pytest.StashKey()
"""On a node: by name, the layers of snapshot fixtures that are set up for it."""


def by_fixtures(item: pytest.Item, spec: Spec) -> Spec:
    """`spec` with what fixtures add, once the wide ones are set up. Fails the test where one gives something else."""
    __tracebackhide__ = True
    try:
        sources = tuple(found for source in spec.rootfs for found in _of_fixture(item, source))
    except SpecError as error:
        reports.fail_at(item, str(error))
    taken = [Source("directory", layer) for layer in _snapshots(item)]
    if taken or sources != spec.rootfs:
        return replace(spec, rootfs=(*(sources or (Source("host"),)), *taken))
    return spec


def foreseen(item: pytest.Item, spec: Spec) -> Spec:
    """What `by_fixtures` is going to say, as far as that is known before the item's turn."""
    taken = [Source("directory", layer) for layer in _snapshots(item)]
    return replace(spec, rootfs=(*(spec.rootfs or (Source("host"),)), *taken)) if taken else spec


def _of_fixture(item: pytest.Item, source: Source) -> tuple[Source, ...]:
    if source.kind != "fixture":
        return (source,)
    values: dict[str, Any] = getattr(item, "funcargs", {})
    if source.path not in values:
        raise SpecError(
            "rootfs", f"fixture {source.path!r} isn't set up before the test's sandbox is",
            "the name of a fixture that the test uses and that is wider than function scope",
        )  # fmt: skip
    given = parse_key("rootfs", values[source.path], str(item.config.rootpath))
    return given or (Source("host"),)


def _snapshots(item: pytest.Item) -> list[str]:
    return layers_of(item, getattr(item, "fixturenames", ()))


def layers_of(of: pytest.Collector | pytest.Item, names: Collection[str]) -> list[str]:
    """Layers of those snapshot fixtures among `names` that are set up for the node `of`, wide ones first."""
    found: dict[str, str] = {}
    for node in of.listchain():
        found |= {name: layer for name, layer in node.stash.get(snapshots_key, {}).items() if name in names}
    return list(found.values())
