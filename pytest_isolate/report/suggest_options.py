"""The command line's `budgets suggest`: which recorded runs, which figures, how much headroom."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence

from pytest_isolate.model.figures import parse_figure
from pytest_isolate.report.baseline import DIRECTORY, Baseline, BaselineError, is_name, names, path_of, read
from pytest_isolate.report.suggestion import DEFAULT_FIGURES, Suggestion, added_to, suggest

__all__ = ["Refused", "suggestion", "with_table"]


class Refused(Exception):
    """What was asked for can't be meant, or can't be done; the message says what is accepted."""


def suggestion(options: argparse.Namespace, cwd: str) -> tuple[Suggestion, str]:
    """The budgets, and their TOML.

    Raises:
        Refused
        OSError: with its `filename`.
    """
    headroom = _headroom(options.headroom)
    figures = _figures(options.figures)
    directory = os.path.join(cwd, options.baselines or DIRECTORY)
    runs = [_read(run, directory, cwd) for run in options.runs or names(directory)]
    if not runs:
        raise Refused(
            f"there is no baseline in {directory}; accepted: files of --isolate-json, or baselines (--isolate-save=NAME)"
        )
    made = suggest([run.tests for run in runs], figures=figures, headroom=headroom, by=options.by)
    if not made.entries:
        raise Refused(f"{', '.join(run.path for run in runs)}: no test passed there with a figure of {', '.join(figures)}")
    origin = ", ".join(run.name for run in runs)
    return made, made.toml(f"From {origin}, with headroom of {headroom * 100:g}% (python -m pytest_isolate budgets suggest)")


def with_table(path: str, table: str) -> str:
    """The content of a pyproject.toml with `table` added.

    Raises:
        Refused: it can't be added without harm.
        OSError
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return added_to(file.read(), table)
    except FileNotFoundError:
        raise Refused(f"there is no {path}; accepted: --write in the directory that has one, which is pytest's rootdir") from None
    except ValueError as error:
        raise Refused(f"{path}: {error}; run it without --write, and put in by hand what it prints") from None


def _headroom(text: str) -> float:
    if match := re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,4})?)\s*%", text.strip(), re.ASCII):
        return float(match[1]) / 100
    raise Refused(f"--headroom: {text!r} is not accepted; accepted: percent that are added: 30%")


def _figures(text: str) -> Sequence[str]:
    if not text:
        return DEFAULT_FIGURES
    try:
        return list(dict.fromkeys(parse_figure(name.strip()).name for name in text.split(",")))
    except ValueError as error:
        raise Refused(f"--figures: {error}") from None


def _read(run: str, directory: str, cwd: str) -> Baseline:
    path = path_of(run, directory) if is_name(run) else os.path.join(cwd, run)
    try:
        return read(run, path)
    except FileNotFoundError:
        there = ", ".join(names(directory)) or "none"
        raise Refused(f"there is no {path}; accepted: a file of --isolate-json, or a baseline in {directory}: {there}") from None
    except (BaselineError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: {error}") from None
