"""Reads and checks what options, ini and profiles say. Imported only where they say something (`settings.configure`)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.keys import UPLINKS
from pytest_isolate.model.layers import Layer, merge
from pytest_isolate.model.parse import parse_key
from pytest_isolate.model.units import whole_number
from pytest_isolate.plugin import private, profiles
from pytest_isolate.plugin.options import BUDGETS, DEFAULT_TOP, GITHUB, INI, KEEP, LIVE, MISSING, everywhere
from pytest_isolate.plugin.settings import Settings

if TYPE_CHECKING:
    from pytest_isolate.plugin.baselines import Asked

__all__ = ["Reader", "read"]

MOST_RUNS: Final = 1000

_COMMAND_LINE: Final = "command line"


def read(config: pytest.Config) -> Settings:
    """Everything.

    Raises:
        pytest.UsageError: with one argument per thing that is wrong.
    """
    reader = Reader(config)
    settings = reader.settings()
    errors = [*reader.errors, *_unknown_ini(config), *_ignored_toml(config)]
    if errors:
        raise pytest.UsageError(*dict.fromkeys(errors))
    return settings


class Reader:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.profiles, self.budgets, self.errors = profiles.load(config.rootpath)
        self.nearer = 0
        self.file = config.inipath.name if config.inipath else _COMMAND_LINE
        self.outputs: dict[str, str] = {}
        self.overridden = {text.partition("=")[0] for text in config.getoption("override_ini", None) or ()}

    @property
    def listing(self) -> bool:
        """Tests are only listed: nothing of them is left at the end."""
        return bool(self.config.option.collectonly or self.config.option.isolate_plan)

    @property
    def reports(self) -> bool:
        """This process makes something of the run at its end."""
        return not (self.listing or hasattr(self.config, "workerinput"))

    def settings(self) -> Settings:
        isolate_all = bool(self.config.getoption("isolate_all"))
        place = "--isolate-all" if isolate_all else ""
        if not isolate_all and self.ini("isolate_all"):
            isolate_all, place = True, f"isolate_all of {self.place('isolate_all')}"
        return Settings(
            isolate_all=isolate_all,
            no_isolate=bool(self.config.getoption("no_isolate")),
            missing=self.choice("isolate_missing", MISSING),
            top=self.top(),
            keep=(keep := self.choice("isolate_keep", KEEP)),
            keep_to=self.keep_to(keep),
            cgroup=self.cgroup(),
            uplink=self.choice("isolate_uplink", UPLINKS),
            store=self.store(),
            preload=tuple(self.ini("isolate_preload") or ()),
            plan=bool(self.config.getoption("isolate_plan")),
            all_place=place,
            sample=self.sample(),
            live=self.choice("isolate_live", LIVE),
            json=self.output("isolate_json"),
            metrics=self.output("isolate_metrics"),
            github=self.choice("isolate_github", GITHUB),
            repeat=self.repeat,
            baselines=(asked := self.baselines()),
            instructions=self.instructions(asked),
            html=self.html(),
            layers=self.layers(),
            profiles=self.profiles,
            nearer=self.nearer,
            budgets=self.budgets,
            over=self.choice("isolate_budgets", BUDGETS),
        )

    def ini(self, name: str) -> Any:
        """The value, None where it isn't set or can't be read."""
        try:
            return self.config.getini(name)
        except (TypeError, ValueError, pytest.UsageError) as error:
            # pytest reads it as the type that addini was told. Before 9.2 it lets the conversion's own error pass.
            as_text = ", as a string" if (9,) <= pytest.version_tuple < (9, 2) else ""
            self.errors.append(f"{self.place(name)}: {name}: {error}; accepted: {self.accepted(name)}{as_text}")
            return None

    def accepted(self, name: str) -> str:
        forms = {f"isolate_{key.name}": key.form(text=True) for key in everywhere()}
        others = {
            "isolate_all": "true or false",
            "isolate_top": "a whole number, at least 0",
            "isolate_repeat": "a whole number, at least 1",
            "isolate_instructions": "true or false",
            "isolate_missing": ", ".join(MISSING),
            "isolate_uplink": ", ".join(UPLINKS),
            "isolate_keep": ", ".join(KEEP),
            "isolate_budgets": ", ".join(BUDGETS),
            "isolate_github": ", ".join(GITHUB),
            "isolate_live": ", ".join(LIVE),
        }
        return {**forms, **others}.get(name, "text")

    def place(self, name: str) -> str:
        return f"{_COMMAND_LINE} (-o)" if name in self.overridden else self.file

    def either(self, name: str) -> tuple[Any, str, str]:
        """Option before ini: value, place and name as typed; None where neither is given."""
        if (value := self.config.getoption(name)) is not None:
            return value, _COMMAND_LINE, "--" + name.replace("_", "-")
        return self.ini(name), self.place(name), name

    def choice(self, name: str, choices: Sequence[str]) -> Any:
        """One of `choices`; the first of them where nothing is given."""
        value, place, typed = self.either(name)
        if value is None or value in choices:
            return value or choices[0]
        self.errors.append(f"{place}: {typed}: {value!r} is not accepted; accepted: {', '.join(choices)}")
        return choices[0]

    def top(self) -> int:
        value, place, typed = self.either("isolate_top")
        if value is None:
            return DEFAULT_TOP
        if (number := whole_number(text := str(value))) is not None:
            return number
        self.errors.append(f"{place}: {typed}: {text!r} is not a whole number; accepted: 0 (all) or the number of tests to show")
        return DEFAULT_TOP

    @cached_property
    def repeat(self) -> int:
        """How often each isolated test runs."""
        value, place, typed = self.either("isolate_repeat")
        if value is None:
            return 1
        if (number := whole_number(text := str(value))) is not None and 1 <= number <= MOST_RUNS:
            return number
        self.errors.append(f"{place}: {typed}: {text!r} is not accepted; accepted: how often each test runs, 1 to {MOST_RUNS}")
        return 1

    def baselines(self) -> Asked | None:
        """Those to save and to compare with; None where none is named."""
        names = ("isolate_compare", "isolate_compare_fail")
        if self.config.getoption("isolate_save") is None and all(self.either(name)[0] is None for name in names):
            return None
        from pytest_isolate.plugin.baselines import asked

        return asked(self)

    def instructions(self, asked: Asked | None) -> bool:
        """Whether they are counted; an error where they are to be and can't."""
        place, typed = "command line", "--isolate-instructions"
        if asked is not None and "instructions" in asked.limits:
            _, place, typed = self.either("isolate_compare_fail")
        elif not self.config.getoption("isolate_instructions"):
            place, typed = self.place("isolate_instructions"), "isolate_instructions"
            if not self.ini("isolate_instructions"):
                return False
        if self.reports and not self.config.option.no_isolate:
            self.errors += _uncounted(f"{place}: {typed}")
        return True

    def sample(self) -> float:
        """Seconds; 0 where nothing is to be sampled."""
        value, place, typed = self.either("isolate_sample")
        if value is None:
            return 0.0
        from pytest_isolate.model.samples import LEAST_INTERVAL
        from pytest_isolate.model.units import parse_duration

        try:
            if (seconds := parse_duration(value)) >= LEAST_INTERVAL:
                return seconds
            problem = f"{value!r} is shorter than the builder can keep up with"
        except ValueError:
            problem = f"{value!r} is not an interval"
        self.errors.append(f"{place}: {typed}: {problem}; accepted: an interval of 10ms or more, as in 100ms, 1s")
        return 0.0

    def keep_to(self, keep: str) -> str:
        """Where to keep files, tried out now: a test that has run can't be asked again. Empty where none are kept."""
        if keep == "none" or self.config.option.no_isolate or self.listing:
            return ""
        value, place, typed = self.either("isolate_keep_to")
        if value is not None:
            base = self.config.invocation_params.dir if place == _COMMAND_LINE else self.base()
            directory = os.path.normpath(os.path.join(base, os.path.expanduser(value)))
        elif (cache := private.cache_directory(self.config)) is not None:
            _, place, typed = self.either("isolate_keep")
            directory = str(cache / "d" / "isolate-keep")
        else:
            self.errors.append(
                f"{self.either('isolate_keep')[1]}: isolate_keep needs pytest's cache; accepted: --isolate-keep-to=DIR"
            )
            return ""
        from pytest_isolate.sandbox.kept_directories import refusal

        if why := refusal(directory):
            accepted = "--isolate-keep-to=DIR with a directory that you can write, on a file system like ext4, xfs or tmpfs"
            self.errors.append(f"{place}: {typed}: {directory} can't take what is kept: {why}; accepted: {accepted}")
        return directory

    def cgroup(self) -> str | None:
        value, place, typed = self.either("isolate_cgroup")
        if value is None or (value.strip("/") and "\0" not in value and ".." not in value.split("/")):
            return None if value is None else str(value)
        self.errors.append(
            f"{place}: {typed}: {value!r} names no cgroup directory; accepted: a path relative to each hierarchy's mount point"
        )
        return None

    def store(self) -> str | None:
        value, _place, typed = self.either("isolate_store")
        return None if value is None else self.path(value, typed)

    def path(self, value: str, typed: str) -> str:
        """Relative to the working directory, or to the ini file that names it."""
        base = self.config.invocation_params.dir if typed.startswith("--") else self.base()
        return str(os.path.normpath(base / os.path.expanduser(value)))

    def output(self, name: str) -> str:
        """The path of a file to be written at the end, tried out now: the tests can't be asked to run again. Empty: none."""
        value, place, typed = self.either(name)
        if value is None or not self.reports:
            return ""
        from pytest_isolate.report.files import is_stream, refusal

        path = self.path(value, typed)
        if why := refusal(path) if value else "no file":
            said = f"{path} can't be written: {why}" if value else "'' names no file"
            self.errors.append(f"{place}: {typed}: {said}; accepted: the path of a file in a directory that you can write")
        elif not is_stream(path) and (other := self.outputs.setdefault(path, typed)) != typed:
            self.errors.append(f"{place}: {typed}: {path} is what {other} writes; accepted: the path of another file")
        return path

    def html(self) -> str:
        """As `output`; and what draws the page is looked for now."""
        path = self.output("isolate_html")
        if path:
            from pytest_isolate.report.html.page import INSTALL, missing

            if why := missing():
                _, place, typed = self.either("isolate_html")
                self.errors.append(f"{place}: {typed}: {why}; to draw the page: {INSTALL}")
        return path

    def base(self) -> Path:
        """The directory that relative paths of ini values start at."""
        return self.config.inipath.parent if self.config.inipath else self.config.invocation_params.dir

    def layers(self) -> tuple[Layer, ...]:
        """Command line, its profile, ini, its profile."""
        options = {key.name: self.config.getoption(f"isolate_{key.name}") for key in everywhere()}
        lines = {key.name: self.ini(f"isolate_{key.name}") for key in everywhere()}
        found = [
            *self.read(options, str(self.config.invocation_params.dir), "--isolate-", lambda _name: _COMMAND_LINE),
            *self.profile(self.config.getoption("isolate_profile"), _COMMAND_LINE, "--isolate-profile"),
        ]
        self.nearer = len(found)
        found += [
            *self.read(lines, str(self.base()), "isolate_", lambda name: self.place(f"isolate_{name}")),
            *self.profile(self.ini("isolate_profile"), self.place("isolate_profile"), "isolate_profile"),
        ]
        self.errors += map(str, merge(found, partial=True).errors)
        return tuple(found)

    def read(self, given: Mapping[str, Any], base: str, prefix: str, place: Any) -> list[Layer]:
        """A layer for each value that is given."""
        layers = []
        for name, value in given.items():
            if value is None:
                continue
            try:
                checked = parse_key(name, value, base, text=True)
            except SpecError as error:
                self.errors.append(str(SpecError(prefix + name, error.problem, error.accepted, place(name))))
            else:
                layers.append(Layer(f"{prefix}{name} of {place(name)}", {name: checked}))
        return layers

    def profile(self, name: str | None, place: str, typed: str) -> list[Layer]:
        if name is None:
            return []
        if name in self.profiles:
            return [self.profiles[name]]
        problem, accepted = profiles.unknown_profile(name, self.profiles)
        self.errors.append(f"{place}: {typed}: {problem}; accepted: {accepted}")
        return []


def _uncounted(place: str) -> list[str]:
    """An error where this machine counts no instructions: a figure that nobody measured would pass for one that didn't grow."""
    from pytest_isolate.machine.counters import uncounted

    if (cause := uncounted()) is None:
        return []
    return [
        f"{place}: instructions can't be counted: {cause.why}; remedy: {cause.remedy}; accepted: the figures cpu and wall instead"
    ]


def _names() -> set[str]:
    return {f"isolate_{key.name}" for key in everywhere()} | {name for name, _, _ in INI}


def _unknown_ini(config: pytest.Config) -> list[str]:
    """Keys ``isolate_…`` that nobody declared. pytest would warn, and the cap that was meant would be missing."""
    place = config.inipath.name if config.inipath else _COMMAND_LINE
    unknown = [name for name in sorted(private.ini_names(config)) if name.startswith("isolate_") and not _declared(config, name)]
    return [f"{place}: {name}: no such ini key; accepted: {_close(name)}" for name in unknown]


def _declared(config: pytest.Config, name: str) -> bool:
    """Whether we or another plugin declared it."""
    try:
        config.getini(name)
    except ValueError as error:
        return "unknown configuration value" not in str(error)
    except (TypeError, pytest.UsageError):
        return True
    return True


def _close(name: str) -> str:
    names = sorted(_names())
    return ", ".join(difflib.get_close_matches(name, names) or names)


def _ignored_toml(config: pytest.Config) -> list[str]:
    """pytest 9 reads ``[tool.pytest]`` and pytest.toml; older ones don't, and don't say so."""
    if pytest.version_tuple >= (9,):
        return []
    found = []
    for name, tables in (("pyproject.toml", ("tool", "pytest")), ("pytest.toml", ("pytest",)), (".pytest.toml", ("pytest",))):
        try:
            values: Any = profiles.document(config.rootpath / name)
        except ValueError:
            continue  # not TOML, and not read by this pytest
        for table in tables:
            values = values.get(table, {}) if isinstance(values, Mapping) else {}
        where = f"[{'.'.join(tables)}]"
        found += [
            f"{name}: {key} in {where} has no effect on pytest {pytest.__version__}, which doesn't read this table; "
            "accepted: [tool.pytest.ini_options] of pyproject.toml with the value as a string, or pytest 9"
            for key in (values if isinstance(values, Mapping) else ())
            if key.startswith("isolate_")
        ]
    return found
