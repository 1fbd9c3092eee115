"""What is measured, each scenario against the target of the project's second issue."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from tests.bench import floor, images, layers, networks, pages
from tests.bench.measure import Command, Row, interleaved, timed
from tests.bench.peers import CAPS, FORKED, OURS, PEERS, PLAIN, PYTEST, ROOT, Peer
from tests.bench.suites import HEAVY, write_suite
from tests.downstream.suites import CLICK
from tests.support import unprivileged

__all__ = ["SCENARIOS", "Bench"]

_QUIET: Final = ("-q", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Bench:
    """Where things are, and how often."""

    work: Path
    rounds: int

    @cached_property
    def pythons(self) -> dict[str, str]:
        return {peer.name: peer.install(self.work) for peer in PEERS}

    def pytest(self, peer: Peer, cwd: Path, *options: str, env: dict[str, str] | None = None) -> Command:
        argv = [self.pythons[peer.name], "-m", "pytest", *_QUIET, *peer.options, *options]
        return partial(timed, argv, cwd, env)

    def suite(self, name: str) -> Path:
        return write_suite(name, self.work)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _ratio_row(what: str, times: dict[str, float], target: float | None, base: str = "forked") -> Row:
    ratio = times["ours"] / times[base]
    return Row(
        what,
        {name: f"{_ms(value)} ({value / times[base]:.2f} ×)" for name, value in times.items()},
        f"{ratio:.2f} × {base}",
        f"≤ {target} × {base}" if target else "",
        ratio <= target if target else None,
    )


def empty(bench: Bench) -> Row:
    """200 empty tests."""
    directory = bench.suite("empty")
    times = interleaved({peer.name: bench.pytest(peer, directory) for peer in PEERS}, bench.rounds)
    return _ratio_row("200 empty tests", times, 1.2)


def click(bench: Bench) -> Row:
    """A real suite."""
    directory = CLICK.fetch(bench.work)
    # Without the other project's plugin: it fails some of click's tests, and can take ten minutes for it.
    times = interleaved({peer.name: _whatever_comes_out(bench, peer, directory) for peer in (PLAIN, FORKED, OURS)}, bench.rounds)
    return _ratio_row(f"click {CLICK.version}'s suite", times, 1.1)


def _whatever_comes_out(bench: Bench, peer: Peer, directory: Path) -> Command:
    argv = [bench.pythons[peer.name], "-m", "pytest", *_QUIET, *peer.options]

    def command() -> None:
        done = subprocess.run(argv, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode not in ((0, 1) if peer is not OURS else (0,)):
            print(done.stdout)
            done.check_returncode()

    return command


def imports(bench: Bench) -> Row:
    """50 tests that import heavy modules in their bodies; with and without isolate_preload."""
    directory = bench.suite("imports")
    commands = {peer.name: bench.pytest(peer, directory) for peer in (PLAIN, FORKED)}
    commands["without preload"] = bench.pytest(OURS, directory)
    commands["ours"] = bench.pytest(OURS, directory, "-o", f"isolate_preload={' '.join(HEAVY)}")
    return _ratio_row("50 tests importing heavy modules, isolate_preload set", interleaved(commands, bench.rounds), None)


def resident(bench: Bench) -> Row:
    """100 empty tests in a process of 200 MB."""
    directory = bench.suite("resident")
    times = interleaved({peer.name: bench.pytest(peer, directory) for peer in (PLAIN, FORKED, OURS)}, bench.rounds)
    return _ratio_row("100 empty tests at 200 MB resident", times, 1.15)


def sleep(bench: Bench) -> Row:
    """30 tests that sleep 100 ms: what quiet moments cost."""
    directory = bench.suite("sleep")
    times = interleaved({peer.name: bench.pytest(peer, directory) for peer in (PLAIN, FORKED, OURS)}, bench.rounds)
    added = (times["ours"] - times["plain"]) / 30
    figures = {name: _ms(value) for name, value in times.items()}
    return Row("30 tests that sleep 100 ms", figures, f"{added * 1000:.1f} ms added per test", "≤ 15 ms", added <= 0.015)


@contextmanager
def _user_venv(bench: Bench) -> Iterator[tuple[str, Path]]:
    """A venv that the unprivileged user can run, with ours and pytest-forked, and its own copy of the empty suite."""
    base = unprivileged.interpreter()
    directory = bench.work / "venv-user"
    python = str(directory / "bin/python")
    if not (directory / "done").exists():
        subprocess.run([base, "-m", "venv", "--clear", str(directory)], check=True)
        timed([python, "-m", "pip", "install", "-q", PYTEST, FORKED.requirement, str(ROOT)], bench.work)
        (directory / "done").touch()
    timed([python, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", str(ROOT)], bench.work)
    suite = bench.suite("empty")
    with unprivileged.user_directory(
        {path.name: path.read_text(encoding="utf-8") for path in suite.iterdir() if path.is_file()}
    ) as own:
        yield python, own


def rootless(bench: Bench) -> Row:
    """200 empty tests by an unprivileged user, with delegated cgroups."""
    with _user_venv(bench) as (python, directory), unprivileged.delegated_cgroup() as group:
        env = {"PATH": os.defpath, "HOME": str(directory), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}

        def command(plugin: str, *options: str) -> Command:
            argv = [python, "-m", "pytest", *_QUIET, "-p", f"no:{plugin}", *options]
            return partial(timed, argv, directory, env, unprivileged.USER_ID)

        times = interleaved(
            {
                "plain": command("isolate_sandbox", "-p", "no:pytest_forked"),
                "forked": command("isolate_sandbox", *FORKED.options),
                "ours": command("pytest_forked", "--isolate-all", *CAPS, *unprivileged.cgroup_options(group)),
            },
            bench.rounds,
        )
    return _ratio_row("200 empty tests, rootless", times, 2.0)


def bridge_rootless(bench: Bench) -> Row:
    """200 empty tests on a bridge by an unprivileged user, against net="none"."""
    with _user_venv(bench) as (python, directory), unprivileged.delegated_cgroup() as group:
        env = {"PATH": os.defpath, "HOME": str(directory), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        options = ("-p", "no:pytest_forked", "--isolate-all", *CAPS, *unprivileged.cgroup_options(group))
        commands = {
            net: partial(
                timed, [python, "-m", "pytest", *_QUIET, *options, f"--isolate-net={net}"], directory, env, unprivileged.USER_ID
            )
            for net in networks.NETS
        }
        times = interleaved(commands, bench.rounds)
    return networks.row("200 empty tests on a bridge, rootless", times)


_IDLE: Final = """
import statistics
from pathlib import Path
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Pool

pool = Pool(depth=1)
boxes = [pool.acquire(Spec(memory=1 << 30, pids=512, cpu=1.0)) for _ in range(50)]
def private(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))
print(statistics.median(private(box.init_pid) for box in boxes), max(private(box.init_pid) for box in boxes))
for box in boxes:
    box.release()
pool.close()
"""


def idle(bench: Bench) -> Row:
    """Private memory of an idle sandbox's only process."""
    argv = [bench.pythons["ours"], "-c", _IDLE]
    text = subprocess.run(argv, cwd=bench.work, capture_output=True, text=True, check=True).stdout
    median, most = (float(part) for part in text.split())
    figures = {"median of 50": f"{median:.0f} kB", "largest": f"{most:.0f} kB"}
    return Row("private memory of an idle sandbox", figures, f"{median:.0f} kB", "≤ 1 MB", median <= 1000)


def unused(bench: Bench) -> Row:
    """What an installed but unused plugin adds to a collection."""
    directory = bench.suite("one")
    argv = ("-m", "pytest", *_QUIET, "--collect-only")
    python = bench.pythons["ours"]
    times = interleaved(
        {
            "without": partial(timed, [python, *argv, "-p", "no:isolate_sandbox"], directory),
            "with": partial(timed, [python, *argv], directory),
        },
        max(25, bench.rounds),
    )
    added = times["with"] - times["without"]
    figures = {name: f"{value * 1000:.1f} ms" for name, value in times.items()}
    return Row("unused plugin, pytest --collect-only", figures, f"{added * 1000:.1f} ms added", "≤ 5 ms", added <= 0.005)


def long(bench: Bench) -> Row:
    """2,000 tests: the cost of the last hundred against tests 50 to 150, file descriptors and cgroups at both places."""
    directory = bench.suite("long")
    figures: dict[str, list[float]] = {"forked": [], "ours": []}
    constant = True
    held = ""
    for _ in range(max(1, bench.rounds // 2)):
        for peer in (FORKED, OURS):
            report = bench.work / "figures.json"
            bench.pytest(peer, directory, env={"FIGURES": str(report)})()
            steps = json.loads(report.read_text(encoding="utf-8"))
            figures[peer.name].append(_pace(steps, 1900) / _pace(steps, 50))
            if peer is OURS:
                fds, groups = ({steps[at][index] for at in (100, 1000, 1999)} for index in (1, 2))
                constant = constant and len(fds) == 1 and max(groups) - min(groups) <= 3
                held = f"fds {sorted(fds)}, cgroups {sorted(groups)} at tests 100, 1,000 and 2,000"
    growth = {name: statistics.median(values) for name, values in figures.items()}
    return Row(
        "test 2,000 against test 100",
        {name: f"{value:.3f} ×" for name, value in growth.items()} | {"held": held},
        f"{growth['ours']:.3f} ×",
        "0.95 to 1.05 ×, fds and cgroups constant",
        constant and growth["ours"] <= 1.05,
    )


def _pace(steps: list[list[float]], first: int) -> float:
    """Median seconds per test of a hundred tests."""
    return statistics.median(
        after[0] - before[0] for before, after in zip(steps[first : first + 99], steps[first + 1 :], strict=False)
    )


SCENARIOS: Final[dict[str, Callable[[Bench], Row]]] = {
    "empty": empty,
    "click": click,
    "imports": imports,
    "resident": resident,
    "sleep": sleep,
    "rootless": rootless,
    "idle": idle,
    "unused": unused,
    "long": long,
    "bridge": networks.bridge,
    "bridge-rootless": bridge_rootless,
    "container": networks.container,
    "crowd": networks.crowd,
    "throughput": networks.throughput,
    "layers": layers.depth,
    "state": layers.state,
    "import": images.plain,
    "import-gzip": images.gzipped,
    "html": pages.html,
    "floor": floor.floor,
}
