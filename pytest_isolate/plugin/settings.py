"""What options, ini and profiles say, read and checked once, in `pytest_configure`: the last moment at which a
`UsageError` is shown under xdist too. All that is wrong is said at once.

In a run that says nothing about isolation this looks for the word in a few files and is done; `reading` does
the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import pytest

from pytest_isolate.plugin.options import DEFAULT_TOP

if TYPE_CHECKING:
    from pytest_isolate.model.layers import Layer
    from pytest_isolate.plugin.baselines import Asked

__all__ = ["Settings", "configure", "settings_key"]


class Settings(NamedTuple):
    """Not a dataclass: making that class takes longer than all the rest of this module.

    Attributes:
        isolate_all: tests without a marker too.
        no_isolate: no test at all; stronger than everything.
        missing: what becomes of a test that asks for what the machine can't give.
        top: rows of the summary; 0 for all.
        keep: of which tests the files that they wrote are kept.
        keep_to: the directory that they go to; empty where none are kept.
        cgroup: the delegated cgroup directory.
        uplink: how bridge networks reach the outside.
        store: the layer store's directory; None: the user's.
        preload: modules to import before the first fork.
        plan: print the sandboxes and run nothing.
        all_place: where isolation of every test was asked for; empty unless `isolate_all`.
        layers: values for every isolated test, closest first: command line, ini, each with its profile below it.
        profiles: by name.
        nearer: how many of `layers` rank above `budgets`: the command line's.
        budgets: patterns of tests with the limits that they give, as the file has them.
        over: what becomes of a test that used more than its budget.
        sample: seconds between two samples of an isolated test; 0: none are taken.
        live: whether what runs is shown while it runs, and on SIGUSR1.
        json: where the run's document is written; empty: nowhere.
        metrics: where its figures are written as OpenMetrics; empty: nowhere.
        github: whether GitHub Actions is told: ``auto``: in its steps.
        repeat: how often each isolated test runs.
        baselines: what is saved and compared; None or empty: nothing.
        instructions: whether they are counted.
        html: where the page that is made of it is written; empty: nowhere.
    """

    isolate_all: bool = False
    no_isolate: bool = False
    missing: Literal["fail", "skip", "weaken"] = "fail"
    top: int = DEFAULT_TOP
    keep: Literal["none", "failed", "all"] = "none"
    keep_to: str = ""
    cgroup: str | None = None
    uplink: str = "auto"
    store: str | None = None
    preload: tuple[str, ...] = ()
    plan: bool = False
    all_place: str = ""
    layers: tuple[Layer, ...] = ()
    profiles: Mapping[str, Layer] = MappingProxyType({})
    nearer: int = 0
    budgets: tuple[tuple[str, Layer], ...] = ()
    over: Literal["fail", "warn", "off"] = "fail"
    sample: float = 0.0
    live: Literal["auto", "off"] = "auto"
    json: str = ""
    metrics: str = ""
    github: Literal["auto", "on", "off"] = "auto"
    repeat: int = 1
    baselines: Asked | None = None
    instructions: bool = False
    html: str = ""

    @property
    def writes(self) -> bool:
        """Whether something is made of the run beside what the terminal shows."""
        return bool(self.json or self.metrics or self.html or self.baselines)


settings_key: Final = pytest.StashKey[Settings]()
"""On ``config.stash`` from `pytest_configure` on."""

_FILES: Final = ("pyproject.toml", "pytest.toml", ".pytest.toml")
"""Of the rootdir, beside the ini file: for profiles, and for what old versions of pytest ignore."""


def configure(config: pytest.Config) -> Settings:
    """The settings of this run.

    Raises:
        pytest.UsageError: with one argument per thing that is wrong.
    """
    if not _mentioned(config):
        return Settings()
    from pytest_isolate.plugin.reading import read

    return read(config)


def _mentioned(config: pytest.Config) -> bool:
    """Whether an option is given, or a file that could have something for us has our name in it."""
    given = (value for name, value in vars(config.option).items() if name.startswith("isolate_") or name == "no_isolate")
    if any(value is not None and value is not False for value in given):
        return True
    if any(text.startswith("isolate_") for text in config.getoption("override_ini", None) or ()):
        return True
    paths = {config.inipath, *(config.rootpath / name for name in _FILES)}
    contents = (_content(path) for path in paths if path)
    return any(b"isolate_" in content or b"pytest-isolate" in content for content in contents)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
