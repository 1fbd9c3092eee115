"""What bridge networks cost: per test, against net="none"; and their throughput, against a plain veth pair."""

from __future__ import annotations

import json
import statistics
import subprocess
from typing import TYPE_CHECKING, Final

from tests.bench.measure import Row, interleaved
from tests.bench.peers import OURS

if TYPE_CHECKING:
    from tests.bench.scenarios import Bench

__all__ = ["NETS", "bridge", "container", "crowd", "row", "throughput"]

NETS: Final = ("none", "bridge,internal")


def bridge(bench: Bench) -> Row:
    """200 empty tests on a bridge, each with a link of its own, against net="none"."""
    directory = bench.suite("empty")
    times = interleaved({net: bench.pytest(OURS, directory, f"--isolate-net={net}") for net in NETS}, bench.rounds)
    return row("200 empty tests on a bridge", times)


def container(bench: Bench) -> Row:
    """200 empty tests in one sandbox's network, against net="none" with that sandbox beside them."""
    directory = bench.suite("joined")
    nets = (NETS[0], "container:owner")
    times = interleaved({net: bench.pytest(OURS, directory, f"--isolate-net={net}") for net in nets}, bench.rounds)
    return row("200 empty tests in the network of another sandbox", times)


def row(what: str, times: dict[str, float]) -> Row:
    """The ratio of the two nets."""
    none, other = times.values()
    ratio = other / none
    figures = {name: f"{value:.2f} s" for name, value in times.items()}
    return Row(what, figures, f"{ratio:.2f} × none", "≤ 1.5 × none", ratio <= 1.5)


_CROWD: Final = """
import json, time
from contextlib import ExitStack
from pytest_isolate.model.net import Net
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Pool, Sandbox

pool = Pool(depth=0)
spec = Spec(net=Net("bridge", network="n", internal=True))
took = []
with ExitStack() as stack:
    for _ in range(100):
        begun = time.perf_counter()
        stack.enter_context(Sandbox(spec, pool=pool))
        took.append(time.perf_counter() - begun)
pool.close()
print(json.dumps([sum(took[1:11]) / 10, sum(took[90:]) / 10]))
"""


def crowd(bench: Bench) -> Row:
    """100 sandboxes alive on one bridge: what the last ten cost against the second to eleventh."""
    ratios = []
    for _ in range(bench.rounds):
        argv = [bench.pythons["ours"], "-c", _CROWD]
        first, last = json.loads(subprocess.run(argv, cwd=bench.work, capture_output=True, text=True, check=True).stdout)
        ratios.append(last / first)
    ratio = statistics.median(ratios)
    return Row("the hundredth sandbox on a bridge against the first", {"median": f"{ratio:.2f} ×"}, f"{ratio:.2f} ×")


_STREAMS: Final = 4
"""Of two seconds, per round: one alone is a quarter faster or slower than the next on a machine with two cores."""

_THROUGHPUT: Final = """
import json, subprocess, sys
from pytest_isolate.model.net import Net
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Pool, Sandbox

IPERF = ["iperf3", "-J", "-t", "2"]

def rate(server, client, address):
    one = server(["iperf3", "-s", "-1"])
    try:
        for _ in range(50):
            out = client([*IPERF, "-c", address])
            found = json.loads(out)
            if "error" not in found: return found["end"]["sum_received"]["bits_per_second"]
    finally:
        one.send_signal(9); one.wait()

def sandboxes():
    spec = Spec(net=Net("bridge", network="n", internal=True))
    with Sandbox(spec, pool=POOL) as a, Sandbox(spec, pool=POOL) as b:
        return rate(lambda argv: a.popen(argv, stdout=subprocess.DEVNULL), lambda argv: b.run(argv).stdout, a.address.ip)

def veth():
    with subprocess.Popen(["unshare", "-n", "sleep", "60"]) as a, subprocess.Popen(["unshare", "-n", "sleep", "60"]) as b:
        try:
            import time; time.sleep(0.2)
            def run(*argv): subprocess.run(argv, check=True)
            run("nsenter", "-n", f"-t{a.pid}", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(b.pid))
            for pid, address in ((a.pid, "10.1.1.1/24"), (b.pid, "10.1.1.2/24")):
                run("nsenter", "-n", f"-t{pid}", "ip", "address", "add", address, "dev", "eth0")
                run("nsenter", "-n", f"-t{pid}", "ip", "link", "set", "eth0", "up")
            enter = lambda pid: ["nsenter", "-n", f"-t{pid}"]
            return rate(
                lambda argv: subprocess.Popen([*enter(a.pid), *argv], stdout=subprocess.DEVNULL),
                lambda argv: subprocess.run([*enter(b.pid), *argv], capture_output=True).stdout, "10.1.1.1",
            )
        finally:
            a.kill(); b.kill()

POOL = Pool(depth=0)
rates = {"veth pair": [], "sandboxes": []}
for _ in range(int(sys.argv[1])):
    rates["veth pair"].append(veth())
    rates["sandboxes"].append(sandboxes())
POOL.close()
print(json.dumps(rates))
"""


def throughput(bench: Bench) -> Row:
    """iperf3 from sandbox to sandbox on one bridge, against a plain veth pair."""
    argv = [bench.pythons["ours"], "-c", _THROUGHPUT, str(_STREAMS * bench.rounds)]
    done = subprocess.run(argv, cwd=bench.work, capture_output=True, text=True, check=True)
    rates = {name: statistics.median(values) for name, values in json.loads(done.stdout).items()}
    ratio = rates["sandboxes"] / rates["veth pair"]
    figures = {name: f"{value / 1e9:.1f} Gbit/s" for name, value in rates.items()}
    return Row("TCP from sandbox to sandbox", figures, f"{ratio:.2f} × a veth pair", "≥ 0.9 ×", ratio >= 0.9)
