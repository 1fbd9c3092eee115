"""In the process that reports: how a breach is shown while tests run, and what is kept of the run for the next one's text.

Registered with the first report that has to do with a budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_isolate.plugin.collected import BREACH
from pytest_isolate.plugin.history import remember

if TYPE_CHECKING:
    from pytest_isolate.plugin.collected import Collected

__all__ = ["BudgetStatus"]


class BudgetStatus:
    def __init__(self, config: pytest.Config, collected: Collected) -> None:
        self._config = config
        self._collected = collected

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """The category stays pytest's: what counts failures, by whatever plugin, counts it."""
        if report.failed and hasattr(report, BREACH):
            return "failed" if report.when == "call" else "error", "B", "OVER BUDGET"
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if (run := self._collected.finished()) is not None:
            remember(self._config, (record for record in run.tests if record.budget))
