"""Documents of runs that never were: of any size, with everything that a page can show, the same for the same arguments."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["HOSTILE", "compared", "run_document"]

_STARTED: Final = 1_790_000_000.0
_OUTCOMES: Final = ("passed",) * 88 + ("failed",) * 5 + ("skipped",) * 3 + ("error", "xfailed", "xpassed", "rerun")
_PROBLEMS: Final = (
    ("oom", "out of memory: the cap is 64.0 MiB, the peak 64.0 MiB\nkilled: python (pid 2): python -m pytest"),
    ("timeout", 'timeout: still running after 2.00 s\n  File "test_it.py", line 7, in test_it\n    time.sleep(60)'),
    ("leak", "1 process left behind: sleep (pid 4): sleep 60"),
    ("signal", "signal 11 (SIGSEGV) in call"),
)  # fmt: skip

HOSTILE: Final = (
    "t.py::test[</script><script>alert(1)</script>]",
    "t.py::test[<!--<script>]",
    "t.py::test['\"&lt;b&gt;`${1}\\u2028\u2028]",
    "t.py::test[\udcff\udcfe\ud83d]",
    "t.py::test[\x00\x1b[31m\u202e]",
    "t.py::test[" + "very-long-" * 400 + "]",
    "t.py::test[<img src=x onerror=alert(1)>]",
    "",
)
"""Ids of tests, of which some are no text that a file can hold."""


def run_document(count: int, *, workers: int = 4, sampled: int = 8, seed: int = 6) -> dict[str, Any]:
    """A run of `count` tests, `sampled` of them with samples."""
    chance = random.Random(seed)
    tests = list(_tests(count, workers, sampled, chance))
    outcomes: dict[str, int] = {}
    for test in tests:
        if test["outcome"] != "rerun":
            outcomes[test["outcome"]] = outcomes.get(test["outcome"], 0) + 1
    sums = ("cpu_seconds", "wall_seconds", "setup_seconds", "io_write_bytes", "oom_kills")
    totals = {name: sum(test["usage"][name] for test in tests) for name in sums if tests}
    ends = [test["started"] + test["usage"]["wall_seconds"] for test in tests]
    return {
        "version": 1,
        "tool": {"name": "pytest-isolate-sandbox", "version": "0.5.0", "pytest": "9.2.0"},
        "run": {
            "started": _STARTED, "seconds": max(ends, default=_STARTED) - _STARTED + 0.4, "exit_status": 1 if count else 5, "interrupted": False,
            "arguments": ["-n", str(workers), "--isolate-all", "-k", "not slow"], "rootdir": "/home/you/project",
            "commit": "0123456789abcdef0123456789abcdef01234567",
        },
        "machine": {
            "name": "builder-7", "architecture": "x86_64", "processor": "AMD EPYC 7B13", "cpus": workers, "memory_bytes": 8 << 30, "kernel": "6.18.0",
            "distribution": "Debian GNU/Linux 12 (bookworm)", "container": "docker", "cgroup_layout": "v2",
            "controllers": ["cpu", "io", "memory", "pids"], "uid": 1000, "python": "3.13.1",
        },
        "tests": tests,
        "plain_tests": 3,
        "totals": {"tests": count, "attempts": count, "outcomes": outcomes, "usage": totals | ({"memory_peak_bytes": max(test["usage"]["memory_peak_bytes"] for test in tests)} if tests else {})},
        "weakened": {},
        "notes": ["50 tests import asyncio themselves: isolate_preload = asyncio saves 1.2 s"] if count else [],
        "capabilities": [
            {"name": "userns", "state": "works", "why": "", "remedy": "", "cause": ""},
            {"name": "cgroup-io", "state": "missing", "why": "io is not in cgroup.controllers", "remedy": "systemd-run --user --scope -p Delegate=yes pytest", "cause": "not-delegated"},
            {"name": "overlay", "state": "weaker", "why": "fuse-overlayfs instead of the kernel's", "remedy": "", "cause": ""},
        ],
    }  # fmt: skip


def _tests(count: int, workers: int, sampled: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    free = [_STARTED + 0.3] * workers
    for number in range(count):
        worker = free.index(min(free))
        wall = math.exp(chance.gauss(-3.5, 1.4))
        setup = chance.uniform(0.002, 0.006)
        outcome = chance.choice(_OUTCOMES)
        peak = int(math.exp(chance.gauss(15.6, 0.9)))
        cap = chance.choice((None, 64 << 20, 64 << 20, 256 << 20))
        problems = (
            [chance.choice(_PROBLEMS)] if outcome in ("failed", "error") else [_PROBLEMS[2]] if chance.random() < 0.01 else []
        )
        if problems and problems[0][0] == "oom":
            cap = peak = 64 << 20
        if cap:
            peak = min(peak, cap)
        started = free[worker] + setup
        free[worker] = started + wall + 0.001
        cpu = wall * min(1.6, chance.betavariate(2, 2) * 1.3)
        test: dict[str, Any] = {
            "attempt": 1,
            "nodeid": f"tests/package_{number // 400}/test_module_{number // 40}.py::TestThings::test_does_what_it_should[{number % 40}]",
            "outcome": outcome,
            "worker": f"gw{worker}" if workers > 1 else "",
            "started": started,
            "usage": {
                "cpu_seconds": cpu, "cpu_user_seconds": cpu * 0.8, "cpu_system_seconds": cpu * 0.2, "cpu_throttled_seconds": 0.0,
                "memory_peak_bytes": peak, "pids_peak": chance.randint(1, 6), "io_read_bytes": 0, "io_write_bytes": chance.choice((0, 4096, 1 << 20)),
                "disk_written_bytes": chance.choice((0, 2048)), "wall_seconds": wall, "setup_seconds": setup,
                "oom_kills": int(bool(problems) and problems[0][0] == "oom"), "leaked_processes": int(bool(problems) and problems[0][0] == "leak"),
            },
            "spec": {**({"memory": cap} if cap else {}), **({"timeout": 2.0} if number % 3 == 0 else {})},
            "problems": [{"kind": kind, "text": text, "failed": kind != "leak"} for kind, text in problems],
            "weakened": [],
            "notes": [],
        }  # fmt: skip
        if number % 5 == 0:
            allowed = 32 << 20
            test["budget"] = [
                {"figure": "memory", "used": peak, "allowed": allowed, "verdict": "over" if peak > allowed else "within", "place": "pyproject.toml"},
                {"figure": "wall", "used": wall, "allowed": 1.0, "verdict": "over" if wall > 1 else "within", "place": "marker"},
            ]  # fmt: skip
        if number < sampled:
            test["samples"] = _samples(wall, peak, cpu, chance)
            test["spec"]["cpu"] = 0.5
        yield test


def _samples(wall: float, peak: int, cpu: float, chance: random.Random) -> dict[str, Any]:
    rows: list[list[Any]] = []
    spent = held = 0.0
    for step in range(41):
        share = step / 40
        spent += cpu / 40 * chance.uniform(0.4, 1.6)
        held += wall / 40 * 0.3 if 0.3 < share < 0.6 else 0.0
        memory = int(peak * min(1.0, 0.25 + share * chance.uniform(0.7, 1.1)))
        rows.append([round(wall * share, 5), None if step == 7 else memory, spent, held, int(share > 0.8)])
    return {
        "interval": wall / 40,
        "columns": ["seconds", "memory_bytes", "cpu_seconds", "cpu_throttled_seconds", "oom_kills"],
        "rows": rows,
    }


def compared(document: dict[str, Any], *, seed: int = 6) -> dict[str, Any]:
    """The same document with a comparison: the first test has grown, of one the baseline knows nothing, one is gone."""
    chance = random.Random(seed)
    rows = []
    for number, test in enumerate(document["tests"]):
        for figure, name, noise in (("memory", "memory_peak_bytes", 0.02), ("cpu", "cpu_seconds", 0.08)):
            after = test["usage"][name]
            change = 0.5 if number == 0 else chance.gauss(0, noise * 0.8)
            verdict = _verdict(change, noise, clear=number % 17 != 3)
            rows.append(_change(test["nodeid"], figure, after / (1 + change), after, change, noise, verdict))
        rows[-1] |= {"limit": "20%", "exceeded": number == 0}
    if len(rows) > 2:
        rows[2] |= {"before": None, "change": None, "noise": None, "verdict": "new"}
    rows.append(_change("tests/test_old.py::test_gone", "memory", 1 << 20, None, None, None, "gone"))
    for test in document["tests"][:1]:
        test["repetitions"] = [{name: value * scale for name, value in test["usage"].items()} for scale in (0.5, 0.75, 1)]
    baseline = {
        "name": "main",
        "path": "/home/you/project/.isolate/main.json",
        "commit": "fedcba9876543210",
        "created": _STARTED - 86400,
        "machine": document["machine"],
    }
    unlike = [{"fact": "kernel", "before": "6.1.0", "after": "6.18.0"}]
    about = {"unlike": unlike, "unjudged": ["instructions"], "unmeasured": [], "failed": ["tests/test_other.py::test_failed"]}
    return {**document, "comparison": {"baseline": baseline, "tests": rows, **about}}


def _verdict(change: float, noise: float, *, clear: bool) -> str:
    if abs(change) > noise * 1.5:
        return "grown" if change > 0 else "shrunk"
    return "same" if clear else "unclear"


def _change(
    nodeid: str, figure: str, before: float | None, after: float | None, change: float | None, noise: float | None, verdict: str
) -> dict[str, Any]:
    return {
        "nodeid": nodeid, "figure": figure, "before": before, "after": after, "change": change, "noise": noise, "verdict": verdict,
    }  # fmt: skip
