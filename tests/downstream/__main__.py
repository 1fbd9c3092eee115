"""Run public suites plainly and with --isolate-all, and fail where a single test came out differently.

`python -m tests.downstream [--work DIR] [NAME …]`, or `tox -e downstream`. The interpreter's own environment is the one that is
tested in, so pytest and the plugin are those installed there; the suites' needs are installed into it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.downstream.suites import SUITES, Suite, pip

ROOT = Path(__file__).parents[2]


def run(suite: Suite, directory: Path, outcomes: Path, *options: str) -> tuple[list[dict[str, Any]], str]:
    """One run of a suite: its reports, and pytest's closing line."""
    outcomes.unlink(missing_ok=True)
    env = {**os.environ, "OUTCOMES": str(outcomes), "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), str(ROOT)))}
    argv = [sys.executable, "-m", "pytest", "-p", "outcomes", "-p", "no:cacheprovider", "-q", *options]
    done = subprocess.run(argv, cwd=directory, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if not outcomes.exists() or done.returncode not in (0, 1):
        sys.exit(f"{suite.title} {' '.join(options)}: no test ran\n{done.stdout}{done.stderr}")
    with outcomes.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file], done.stdout.rstrip().rpartition("\n")[2]


def by_test(reports: list[dict[str, Any]]) -> dict[str, list[tuple[Any, ...]]]:
    """What is compared: every report of a test in order, without the text of failures."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for report in reports:
        found.setdefault(report["test"], []).append(tuple(report.get(key) for key in ("when", "outcome", "xfail", "reason")))
    return found


def differences(plain: list[dict[str, Any]], isolated: list[dict[str, Any]]) -> Iterator[str]:
    before, after = by_test(plain), by_test(isolated)
    texts = {report["test"]: report["text"] for report in isolated if "text" in report}
    for test in dict.fromkeys((*before, *after)):
        if before.get(test) != after.get(test):
            yield f"{test}\n  plain:    {before.get(test)}\n  isolated: {after.get(test)}\n{texts.get(test, '')}"


def compare(suite: Suite, work: Path) -> int:
    """The number of tests that came out differently; prints them."""
    directory = suite.fetch(work)
    pip(sys.executable, "install", suite.requirement, *suite.needs)
    results, seconds = {}, {}
    for name, options in (("plain", ()), ("isolated", ("--isolate-all", *suite.isolate))):
        start = time.monotonic()
        results[name], closing = run(suite, directory, work / f"{suite.name}-{name}.jsonl", *options)
        seconds[name] = time.monotonic() - start
        print(f"{suite.title:14} {name:9} {closing}", flush=True)
    left_out = {name: [report for report in reports if report["test"] not in suite.differ] for name, reports in results.items()}
    found = list(differences(left_out["plain"], left_out["isolated"]))
    tests = Counter(
        report["outcome"] for report in left_out["plain"] if report["when"] == "call" or report["outcome"] == "skipped"
    )
    ratio = seconds["isolated"] / seconds["plain"]
    print(f"{suite.title:14} {sum(tests.values())} tests compared, {len(found)} differ, {ratio:.2f} × the time")
    for difference in found:
        print(difference)
    return len(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.downstream", description=__doc__)
    parser.add_argument("--work", type=Path, help="where to keep the sources (default: a temporary directory)")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(suite.name for suite in SUITES)}; default: all")
    options = parser.parse_args()
    chosen = [suite for suite in SUITES if not options.names or suite.name in options.names]
    if not chosen:
        parser.error("no such suite")
    with tempfile.TemporaryDirectory(prefix="downstream-") as directory:
        return min(1, sum(compare(suite, options.work or Path(directory)) for suite in chosen))


if __name__ == "__main__":
    sys.exit(main())
