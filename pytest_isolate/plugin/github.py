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

    def take(self, document: dict[str, Any]) -> None:
        """Writes the summary now; the annotations wait for the terminal's turn."""
        from pytest_isolate.report.github import LIMIT, commands, summary

        self._lines = commands(document, os.environ.get("GITHUB_WORKSPACE", ""))
        if path := os.environ.get("GITHUB_STEP_SUMMARY"):
            try:
                # One file for all commands of the step.
                with open(path, "ab") as file:
                    file.write(summary(document, self._top, LIMIT - os.fstat(file.fileno()).st_size))
            except OSError as error:
                self._lines.append(f"isolate: the step's summary {path} could not be written: {error.strerror}")

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.ensure_newline()
        for line in self._lines:
            terminalreporter.write_line(line)
