"""Waits for the first test that is to be isolated, and only then loads what isolates it.

The plugin is part of every pytest run where it is installed; the sandbox library and the protocol are not. The
builder is started as soon as it is known that something is going to be isolated, so that it starts up while pytest collects.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import pytest

from pytest_isolate.plugin.collected import collected_key
from pytest_isolate.plugin.marks import spec_key
from pytest_isolate.plugin.settings import settings_key

if TYPE_CHECKING:
    from pytest_isolate.plugin.supply import Supply

__all__ = ["register", "watch_key"]

watch_key: Final[pytest.StashKey[Watch]] = pytest.StashKey()
"""On ``config.stash`` of a process that runs tests and may isolate them."""


def register(config: pytest.Config) -> None:
    """To be called once in `pytest_configure`, after the settings are in the stash."""
    settings = config.stash[settings_key]
    if settings.no_isolate:
        return
    if _runs_tests(config):
        config.stash[watch_key] = watch = Watch(config)
        config.pluginmanager.register(watch, "isolate-watch")
    elif settings.isolate_all and _starts_workers(config):
        config.pluginmanager.register(Controller(config), "isolate-controller")


def _runs_tests(config: pytest.Config) -> bool:
    """Whether tests run in this process: not when only listing them, and not in xdist's controller."""
    option = config.option
    if option.collectonly or option.setupplan or option.isolate_plan:
        return False
    return hasattr(config, "workerinput") or getattr(option, "dist", "no") == "no"


def _starts_workers(config: pytest.Config) -> bool:
    option = config.option
    return getattr(option, "dist", "no") != "no" and not (option.collectonly or option.setupplan or option.isolate_plan)


class Controller:
    """In xdist's controller: its workers are born in the cgroup that it is in, so it moves first. And it answers SIGUSR1 from the start.

    Where only some tests are isolated, which the workers find out, each worker moves by itself, and tells that it answers.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        from pytest_isolate.sandbox.delegation import obtain

        obtain((), self._config.stash[settings_key].cgroup)
        self._config.stash[collected_key].answer()


class Watch:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._threads = 0
        self._waiting = True
        self._supply: Supply | None = None
        if config.stash[settings_key].isolate_all:
            self.supplied().launch()

    def supplied(self) -> Supply:
        """The run's sandboxes; the builder isn't started for it."""
        from pytest_isolate.plugin.supply import Supply

        if self._supply is None:
            self._supply = Supply(self._config, self._config.stash[settings_key])
        return self._supply

    def pytest_sessionstart(self) -> None:
        self._threads = threading.active_count()  # pytest's and xdist's own are not the suite's
        if self._supply is not None:
            self._load()

    def pytest_unconfigure(self) -> None:
        if self._supply is not None:
            self._supply.close()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if self._waiting and item.get_closest_marker("isolate"):
            self._load()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._waiting and any(spec_key in item.stash for item in session.items):  # a marker that a hook added
            self._load()
        if any("instructions" in dict(item.stash[spec_key].budget) for item in session.items if spec_key in item.stash):
            self.supplied().count_instructions()

    def _load(self) -> None:
        self._waiting = False
        supply = self.supplied()
        supply.start()
        # Only now: the builder, another process, starts up beside these imports.
        from pytest_isolate.plugin import companions, protocol

        companions.refuse(self._config)
        protocol.register(self._config, supply, threads=self._threads)
