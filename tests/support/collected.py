"""What the plugin decided at collection: the spec of each item, from a pytest run within this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_isolate.plugin.marks import place_key, places_key, spec_key

__all__ = ["Collected", "collect"]


@dataclass(frozen=True)
class Collected:
    """Of one item: its spec as JSON (None: no sandbox), where it was asked for, and where each key comes from."""

    spec: dict[str, Any] | None
    place: str = ""
    places: Mapping[str, str] | None = None


class _Observer:
    def __init__(self) -> None:
        self.found: dict[str, Collected] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = item.nodeid.partition("::")[2]
            spec = item.stash.get(spec_key, None)
            if spec is None:
                self.found[name] = Collected(None)
            else:
                self.found[name] = Collected(spec.to_json(), item.stash[place_key], item.stash[places_key])


def collect(pytester: pytest.Pytester, *args: str) -> dict[str, Collected]:
    """By name without the file. Raises AssertionError if collection fails."""
    observer = _Observer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.delenv("PYTEST_ADDOPTS", raising=False)
        ran = pytester.inline_run("--collect-only", "-p", "pytest_isolate.plugin", *args, plugins=[observer])
    assert ran.ret == pytest.ExitCode.OK
    return observer.found
