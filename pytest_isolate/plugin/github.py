"""GitHub Actions is told of a run with isolated tests: annotations on the output, a summary of the step.

Registered before the first test, where the variables of a step are set. The document comes from `outputs`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from pytest_isolate.plugin.settings import settings_key

__all__ = ["GitHub", "register"]


def register(config: pytest.Config) -> None:
    """To be called once, in the process that reports, before the document is made."""
    config.pluginmanager.register(GitHub(config.stash[settings_key].top), "isolate-github")


class GitHub:
    """
    Args:
        top: as many of the heaviest tests in the summary; 0: all.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._lines: list[str] = []
        self._path = os.environ.get("GITHUB_STEP_SUMMARY", "")
        self._summary = b""

    def make(self, document: dict[str, Any]) -> None:
        """All of it, in memory; the annotations wait for the terminal's turn."""
        from pytest_isolate.report.github import LIMIT, commands, summary

        self._lines = commands(document, os.environ.get("GITHUB_WORKSPACE", ""))
        if self._path:
            # One file for all commands of the step.
            size = os.path.getsize(self._path) if os.path.isfile(self._path) else 0
            self._summary = summary(document, self._top, LIMIT - size)

    def write(self) -> None:
        """The summary."""
        if self._summary:
            try:
                with open(self._path, "ab") as file:
                    file.write(self._summary)
            except OSError as error:
                self._lines.append(f"isolate: the step's summary {self._path} could not be written: {error.strerror}")

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.ensure_newline()
        for line in self._lines:
            terminalreporter.write_line(line)
