"""The names of options and ini keys. What they mean is `settings`' part.

This runs in every pytest run where the package is installed, so it only hands names and help texts to pytest.
All values are text, also for keys that take numbers: one parser reads them, wherever they were typed. Since
pytest 9.2 ini keys can have more than one type, so there native TOML numbers are accepted as well.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from pytest_isolate.model.keys import KEYS, UPLINKS, Key

__all__ = [
    "BUDGETS", "DEFAULT_TOP", "GITHUB", "INI", "KEEP", "LIVE", "MISSING", "OPTIONS", "everywhere", "marker_help", "pytest_addoption",
]  # fmt: skip

MISSING: Final = ("fail", "skip", "weaken")
GITHUB: Final = ("auto", "on", "off")
KEEP: Final = ("none", "failed", "all")
BUDGETS: Final = ("fail", "warn", "off")
LIVE: Final = ("auto", "off")
DEFAULT_TOP: Final = 5


OPTIONS: Final[tuple[tuple[str, str, str], ...]] = (
    ("--isolate-all", "", "run every test in a sandbox, not only those marked with @pytest.mark.isolate"),
    ("--no-isolate", "", "run no test in a sandbox, whatever markers and configuration say"),
    ("--isolate-profile", "NAME", "values of [tool.pytest-isolate.profiles.NAME] in pyproject.toml, below other options"),
    ("--isolate-missing", "|".join(MISSING),
     "where a test asks for something that this machine can't give: fail it (default), skip it, or run it without"),
    ("--isolate-top", "N", f"show the N heaviest tests in the summary (default: {DEFAULT_TOP}; 0: all)"),
    ("--isolate-keep", "|".join(KEEP),
     "of which tests the files that they wrote are kept in a directory, for python -m pytest_isolate shell (default: none)"),
    ("--isolate-keep-to", "DIR", "where --isolate-keep puts them (default: isolate-keep in pytest's cache)"),
    ("--isolate-budgets", "|".join(BUDGETS), "what becomes of a test that used more than its budget: it fails (default), or is only listed"),
    ("--isolate-json", "PATH", "write what the isolated tests used, and what came of them, to a JSON file"),
    ("--isolate-metrics", "PATH", "write what the isolated tests used to a file in the OpenMetrics format, for GitLab's metrics reports"),
    ("--isolate-github", "|".join(GITHUB),
     "annotations and a step summary for GitHub Actions: in its steps (auto, the default), always, or never"),
    ("--isolate-save", "NAME", "keep what the isolated tests used as a baseline of that name, in .isolate/baselines or isolate_baselines"),
    ("--isolate-compare", "NAME|PATH", "show how much each test's figures changed since that baseline"),
    ("--isolate-compare-fail", "FIGURE:GROWTH,…",
     "fail the run where a figure grew beyond that, and beyond the noise of repeated runs: memory:10%,cpu:20% or memory:5MiB"),
    ("--isolate-repeat", "N", "run each isolated test N times, so that figures have a median and a noise (default: 1)"),
    ("--isolate-instructions", "", "count the instructions that tests execute, which a busy machine doesn't change (figure: instructions)"),
    ("--isolate-sample", "INTERVAL", "record memory and CPU over the time of each isolated test, in its record: 100ms (default: off)"),
    ("--isolate-live", "|".join(LIVE),
     "on a terminal, show what a test uses while it runs; on SIGUSR1, print it (default), or do neither"),
    ("--isolate-html", "PATH", "write them to one HTML page with plots and a table; needs pip install 'pytest-isolate-sandbox[html]'"),
    ("--isolate-plan", "", "print each test's sandbox, mounts included, and run nothing"),
    ("--isolate-uplink", "|".join(UPLINKS),
     "how bridge networks reach the outside: the best way that works (default), or this one"),
    ("--isolate-cgroup", "PATH",
     "cgroup directory to work in, relative to each hierarchy's mount point: one that is delegated to the user"),
    ("--isolate-store", "PATH", "directory of the layer store (default: $XDG_DATA_HOME/pytest-isolate)"),
)  # fmt: skip
"""Options that belong to no spec key: name, metavar (empty for a flag), help."""

INI: Final[tuple[tuple[str, Any, str], ...]] = (
    ("isolate_all", "bool", "as --isolate-all"),
    ("isolate_profile", "string", "as --isolate-profile"),
    ("isolate_missing", "string", "as --isolate-missing"),
    ("isolate_top", "int", "as --isolate-top"),
    ("isolate_keep", "string", "as --isolate-keep"),
    ("isolate_keep_to", "string", "as --isolate-keep-to; a relative path starts at the ini file's directory"),
    ("isolate_budgets", "string", "as --isolate-budgets"),
    ("isolate_json", "string", "as --isolate-json; a relative path starts at the ini file's directory"),
    ("isolate_metrics", "string", "as --isolate-metrics; a relative path starts at the ini file's directory"),
    ("isolate_github", "string", "as --isolate-github"),
    (
        "isolate_baselines",
        "string",
        "directory of baselines, relative to the ini file (default: .isolate/baselines in the rootdir)",
    ),
    ("isolate_compare", "string", "as --isolate-compare; a relative path starts at the ini file's directory"),
    ("isolate_compare_fail", "string", "as --isolate-compare-fail, for runs that compare"),
    ("isolate_repeat", "int", "as --isolate-repeat"),
    ("isolate_instructions", "bool", "as --isolate-instructions"),
    ("isolate_sample", "string", "as --isolate-sample"),
    ("isolate_live", "string", "as --isolate-live"),
    ("isolate_html", "string", "as --isolate-html; a relative path starts at the ini file's directory"),
    ("isolate_cgroup", "string", "as --isolate-cgroup"),
    ("isolate_uplink", "string", "as --isolate-uplink"),
    ("isolate_store", "string", "as --isolate-store, relative to the ini file"),
    ("isolate_preload", "args", "modules to import before the first test process is forked"),
)
"""Ini keys that belong to no spec key: name, type as `Parser.addini` takes it, help."""

_LISTS: Final = {"paths": "args", "lines": "linelist"}


def everywhere() -> list[Key]:
    """The spec keys that have an option and an ini key."""
    return [key for key in KEYS.values() if key.everywhere]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Called once by pytest."""
    group = parser.getgroup("isolate", "tests in Linux sandboxes (pytest-isolate-sandbox)")
    for name, metavar, text in OPTIONS:
        if metavar:
            group.addoption(name, metavar=metavar, default=None, help=text.replace("%", "%%"))
        else:
            group.addoption(name, action="store_true", default=False, help=text)
    for key in everywhere():
        group.addoption(
            f"--isolate-{key.name}",
            action="append" if key.many else "store",
            metavar=key.metavar,
            default=None,
            help=f"{key.help}; {key.form(text=True)} (default: {key.default})".replace("%", "%%"),
        )
        parser.addini(f"isolate_{key.name}", f"as --isolate-{key.name}", _ini_type(key), default=None)
    for name, kind, text in INI:
        parser.addini(name, text, kind, default=None)


def _ini_type(key: Key) -> Any:
    if key.many:
        return _LISTS[key.many]
    return str | int | float if pytest.version_tuple >= (9, 2) else "string"


def marker_help() -> str:
    """The line of ``--markers``."""
    names = ", ".join((*KEYS, "profile", "enabled"))
    lines = [f"isolate({names}): run the test in a Linux sandbox of its own. All arguments are optional keywords:"]
    rows = [(key.name, f"{key.help}: {key.accepted} (default: {key.default})") for key in KEYS.values()]
    rows.append(("profile", "values of [tool.pytest-isolate.profiles.NAME] in pyproject.toml, below this marker's own"))
    rows.append(("enabled", "False: the test runs without a sandbox, also with --isolate-all"))
    lines += [f"    {name:9} {text}" for name, text in rows]
    return "\n".join(lines)
