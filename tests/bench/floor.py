"""What nobody gets below on this machine: pytest-forked's own way, and each test in a sandbox.

The variants differ by where the process of a test is born, and in nothing else: one fork of the pytest process, the whole of pytest's
protocol in it, the reports back through a pipe, and pytest goes on when it has ended, as pytest-forked does it. Nothing is measured, judged or
relayed. Sandboxes are made before the clock starts and stay, or, in the last variant, are made and removed by the builder meanwhile.
"""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Final

from tests.bench.measure import Row
from tests.bench.peers import FORKED, OURS, Peer

if TYPE_CHECKING:
    from tests.bench.scenarios import Bench

__all__ = ["CONFTEST", "floor"]

CONFTEST: Final = """
    import json, os, time
    from pathlib import Path
    from _pytest.runner import runtestprotocol

    BORN = os.environ.get("BORN")
    TIMES = []

    def take():
        pass  # no sandbox

    def pytest_collection_finish(session):
        global take
        if BORN in ("kept", "fresh", "made"):
            from pytest_isolate.model.spec import Spec
            from pytest_isolate.sandbox import Pool
            pool = session.config.floor = Pool(depth=3 if BORN == "made" else 0)
            spec = Spec(cpu=1.0, memory=1 << 30, pids=512)
            if BORN == "made":
                pool.expect([spec] * len(session.items))
                take = lambda: pool.acquire(spec)
            elif BORN == "fresh":
                take = [pool.acquire(spec) for _ in session.items].pop
            else:
                kept = pool.acquire(spec)
                take = lambda: kept

    def pytest_runtest_logstart():
        TIMES.append(time.perf_counter())

    def pytest_runtest_logfinish():
        TIMES.append(time.perf_counter())

    def pytest_unconfigure(config):
        Path(os.environ["FIGURES"]).write_text(json.dumps(TIMES[-1] - TIMES[0]))
        if hasattr(config, "floor"):
            config.floor.close()

    if BORN:
        def pytest_runtest_protocol(item, nextitem):
            hook = item.ihook
            hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            readable, writable = os.pipe()
            box = take()
            pid = box.fork(print) if box else os.fork()
            if pid == 0:
                reports = runtestprotocol(item, log=False, nextitem=nextitem)
                data = [item.config.hook.pytest_report_to_serializable(config=item.config, report=report) for report in reports]
                with open(writable, "w") as file:
                    json.dump(data, file)
                os._exit(0)
            os.close(writable)
            with open(readable) as file:
                data = json.load(file)
            os.waitpid(pid, 0)
            if BORN == "made":
                box.release()
            for one in data:
                report = item.config.hook.pytest_report_from_serializable(config=item.config, data=one)
                hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            return True
    """


def floor(bench: Bench) -> Row:
    """200 empty tests, from the first one's start to the last one's end."""
    directory = bench.suite("floor")
    plain = Peer(OURS.name, options=("-p", "no:isolate_sandbox"))
    variants: dict[str, tuple[Peer, str]] = {
        "forked": (FORKED, ""),
        "nowhere": (plain, "forked"),
        "in one sandbox": (plain, "kept"),
        "each in a fresh one": (plain, "fresh"),
        "made meanwhile": (plain, "made"),
        "ours": (OURS, ""),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    report = bench.work / "figures.json"
    for number in range(bench.rounds + 1):
        for name, (peer, born) in variants.items():
            bench.pytest(peer, directory, env={"FIGURES": str(report), "BORN": born})()
            if number:
                seconds[name].append(json.loads(report.read_text(encoding="utf-8")))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["forked"]
    return Row(
        "floor of 200 empty tests",
        {name: f"{value:.2f} s ({value / base:.2f} ×)" for name, value in medians.items()},
        f"{medians['made meanwhile'] / base:.2f} × forked",
    )
