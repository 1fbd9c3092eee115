"""`python -m tests.bench [--rounds N] [--only NAME …] [--work DIR] [--write]`, or `tox -e bench`.

Prints one line per scenario with its target and verdict; exits with 1 where a target is missed. `--write` puts the table into
`docs/explanation/performance.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.measure import Row
from tests.bench.peers import FORKED, OTHER, PYTEST, ROOT
from tests.bench.scenarios import SCENARIOS, Bench

PAGE: Final = ROOT / "docs/explanation/performance.md"
MARKS: Final = ("<!-- bench: begin -->", "<!-- bench: end -->")


def table(rows: Sequence[Row], rounds: int) -> str:
    """The result as Markdown."""
    versions = [requirement.replace("==", " ") for requirement in (PYTEST, FORKED.requirement, f"“other” {OTHER.requirement}")]
    machine = f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"
    lines = [
        f"Measured {time.strftime('%Y-%m-%d')} on {machine}, {', '.join(versions)}; variants took turns, medians of {rounds} rounds.",
        "",
        "| what | measured | result | target | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        figures = ", ".join(f"{name} {value}" for name, value in row.figures.items())
        lines.append(f"| {row.what} | {figures} | {row.result} | {row.target or '–'} | {row.verdict} |")
    return "\n".join(lines)


def write(text: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    begin, end = MARKS
    new = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)
    PAGE.write_text(new, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, at least 5 for a result to keep (default 7)")
    parser.add_argument(
        "--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="NAME", help=", ".join(SCENARIOS)
    )
    parser.add_argument("--work", type=Path, help="keep venvs and suites here (default: a temporary directory)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        os.chmod(directory, 0o755)  # the unprivileged user's venv is in it
        work = (options.work or Path(directory)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(work, options.rounds)
        rows = []
        for name in options.only:
            rows.append(SCENARIOS[name](bench))
            print(f"{name:9} {rows[-1].result:28} {rows[-1].target:28} {rows[-1].verdict:7} {dict(rows[-1].figures)}", flush=True)
    print("\n" + table(rows, options.rounds))
    if options.write:
        write(table(rows, options.rounds))
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
