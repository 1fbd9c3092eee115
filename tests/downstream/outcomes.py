"""A pytest plugin (`-p outcomes`) that writes down every report of a run, one JSON line each, to `$OUTCOMES`."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

FILE = os.environ["OUTCOMES"]  # read now: suites replace os.environ


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    line: dict[str, Any] = {"test": report.nodeid, "when": report.when, "outcome": report.outcome}
    if hasattr(report, "wasxfail"):
        line["xfail"] = report.wasxfail
    if report.skipped and isinstance(report.longrepr, tuple):
        line["reason"] = report.longrepr[2]
    if report.failed:
        line["text"] = report.longreprtext
    with open(FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
