"""``--isolate-plan``: prints each test's sandbox, mounts included and where each value comes from, and runs nothing.

The run becomes a collection (``--collect-only``), so that plugins which measure or distribute runs stay out of
it; under xdist it happens in the one process, the way ``--collect-only`` does.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Final

import pytest

from pytest_isolate.model.errors import IsolateError
from pytest_isolate.model.figures import FIGURES
from pytest_isolate.model.keys import KEYS
from pytest_isolate.model.spec import IoLimit, Spec
from pytest_isolate.model.units import format_duration, format_size
from pytest_isolate.plugin.marks import place_key, places_key, spec_key
from pytest_isolate.plugin.settings import settings_key
from pytest_isolate.plugin.supply import Supply
from pytest_isolate.plugin.terminal import may_mount
from pytest_isolate.rootfs.foreign import describe_plan
from pytest_isolate.sandbox.pool import trees_of_user

__all__ = ["register", "show"]

_SIZES: Final = ("memory", "swap", "disk")
_NAMESPACES: Final = "user, PID, mount, network, UTS, IPC, cgroup"


def register(config: pytest.Config) -> None:
    """To be called in `pytest_configure` if the settings say `plan`; xdist looks at `collectonly` later, as a `trylast`."""
    config.option.collectonly = True
    config.pluginmanager.register(_Planner(config), "isolate-plan")


class _Planner:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rootless = not may_mount()
        self._shown: dict[tuple[str, ...], str] = {}
        self._supply: Supply | None = None
        self._places: list[str] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Nothing of what was collected is going to run; without items the terminal draws no tree of them either."""
        items, session.items = session.items, []
        try:
            yield
        finally:
            session.items = items
        if not self._config.pluginmanager.hasplugin("terminalreporter"):
            return
        writer = self._config.get_terminal_writer()
        for item in items:
            writer.line()
            writer.line(item.nodeid, bold=True)
            for line in self.describe(item):
                writer.line(f"  {line}" if line else "")

    def describe(self, item: pytest.Item) -> Iterator[str]:
        """The sandbox of one test; mounts once for all tests that have the same ones."""
        spec = item.stash.get(spec_key, None)
        if spec is None:
            off = " (--no-isolate)" if self._config.stash[settings_key].no_isolate else ""
            yield f"no sandbox{off}"
            return
        yield f"asked for by {item.stash[place_key]}"
        places = item.stash[places_key]
        rows = [(key, show(key, getattr(spec, key)), places.get(key, "default")) for key in KEYS if key != "budget"]
        rows = [row for row in rows if row[0] in places or row[1]]
        for figure, limit in spec.budget:
            rows.append((f"budget.{figure}", FIGURES[figure].show(limit), places.get(f"budget.{figure}", "default")))
        first, wide = (max(len(row[column]) for row in (("namespaces", "", ""), *rows)) for column in (0, 1))
        yield f"{'namespaces':{first}} {_namespaces(spec)}"
        for key, value, place in rows:
            yield f"{key:{first}} {value:{wide}}  {place}"
        mounts = tuple(self._mounts(spec))
        same = self._shown.setdefault(mounts, item.nodeid)
        if same != item.nodeid:
            yield f"{'mounts':{first}} as {same}"
            return
        yield "mounts"
        yield from (f"  {line}" for line in mounts)

    def _mounts(self, spec: Spec) -> Iterable[str]:
        if self._supply is None:
            self._supply = Supply(self._config, self._config.stash[settings_key])
            self._places = self._supply.places()
            self._config.add_cleanup(self._supply.close)
        try:
            trees = trees_of_user(os.getcwd())
            rooted = self._supply.rooted(spec).sandbox()
            return describe_plan(rooted, self._places, rootless=self._rootless, trees=trees)
        except IsolateError as error:
            return str(error).splitlines()


def _namespaces(spec: Spec) -> str:
    """Those of its own, and whose network it is in where that isn't one of them."""
    if spec.net.own:
        return _NAMESPACES
    whose = "the host's" if spec.net.mode == "host" else f"that of {spec.net.container!r}"
    return f"{_NAMESPACES.replace('network, ', '')}; network: {whose}"


def show(key: str, value: Any) -> str:
    """A value of a spec for people; empty for one that asks for nothing."""
    if key == "rootfs":
        return ", ".join(map(str, value)) or "host"
    if value is None or value == ():
        return ""
    if key in _SIZES:
        return format_size(value)
    if key == "cpu":
        return f"{value:.4g} CPU ({value * 100:.4g} %)"
    if key == "timeout":
        return format_duration(value)
    if isinstance(value, IoLimit):
        rates = [f"{name} {format_size(rate)}/s" for name in ("read", "write") if (rate := getattr(value, name)) is not None]
        return ", ".join([*rates, f"of the device of {value.path or 'the working directory'}"])
    if key == "env":
        return ", ".join(f"{name} unset" if content is None else f"{name}={content}" for name, content in value)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
