"""What the HTML page of a large run costs: time from a fresh interpreter on, and size."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench.measure import Row, timed
from tests.bench.peers import ROOT
from tests.support.documents import compared, run_document

if TYPE_CHECKING:
    from tests.bench.scenarios import Bench

__all__ = ["html"]

_COUNT: Final = 5000


def html(bench: Bench) -> Row:
    """5,000 tests with budgets, a comparison and some samples; the interpreter's start and the reading of the JSON included."""
    python = bench.pythons["ours"]
    timed([python, "-m", "pip", "install", "-q", f"{ROOT}[html]"], bench.work)
    document: Path = bench.work / "run.json"
    page = bench.work / "page.html"
    document.write_text(json.dumps(compared(run_document(_COUNT, sampled=200))), encoding="utf-8")
    seconds = []
    for _ in range(bench.rounds):
        begun = time.perf_counter()
        timed([python, "-m", "pytest_isolate", "report", str(document), "-o", str(page)], bench.work)
        seconds.append(time.perf_counter() - begun)
    median, size = statistics.median(seconds), page.stat().st_size
    figures = {"made in": f"{median:.2f} s", "size": f"{size / 1e6:.2f} MB"}
    return Row(
        "HTML page of 5,000 tests", figures, f"{median:.2f} s, {size / 1e6:.2f} MB", "≤ 3 s, ≤ 5 MB", median <= 3 and size <= 5e6
    )
