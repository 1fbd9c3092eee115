"""The run's way out, against a host and an outside world in namespaces of their own (tests/support/world.py)."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities import requires
from tests.support.world import HOST4, HOST6, WORLD4, WORLD6, World

pytestmark = [requires("root", "nft")]

SEEN = f'[run.fetch(address, udp=udp) for address in ("{WORLD4}", "{WORLD6}") for udp in (False, True)]'
REACHED = [HOST4, HOST4, HOST6, HOST6]
TRY = f"""
run = Run()
tell({{"kind": run.uplink.kind, "notes": run.uplink.notes, "seen": {SEEN}}})
run.end()
"""
HOLD = f"""
run = Run()
tell({{"kind": run.uplink.kind, "run": run.name, "subnet": str(run.subnet), "seen": {SEEN}}})
for command in sys.stdin:
    tell(eval(command))
run.end()
"""
"""As `TRY`, then evaluates the lines that it is sent until there are no more."""

REFUSED = """
try:
    Run({})
except MissingCapability as error:
    tell({{"why": error.why, "hint": error.hint}})
"""


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def told(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise AssertionError(process.communicate()[1])
    return json.loads(line)


def ask(process: subprocess.Popen[str], code: str) -> Any:
    assert process.stdin is not None
    process.stdin.write(code + "\n")
    process.stdin.flush()
    return told(process)


def end(process: subprocess.Popen[str]) -> None:
    _out, error = process.communicate(timeout=20)
    assert process.returncode == 0, error


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def legacy(tmp_path: Path) -> str:
    """A directory with iptables as the older one, for PATH."""
    for name in ("iptables", "ip6tables"):
        (tmp_path / name).symlink_to(f"/usr/sbin/{name}-legacy")
    return str(tmp_path)


def tables_have_owners() -> bool:
    """Since Linux 5.12; before, tables wait for the next run."""
    done = subprocess.run(["unshare", "-n", "nft", "add table inet tried { flags owner; }"], capture_output=True, check=False)
    return done.returncode == 0


# As root: a veth pair


def test_root_gets_a_veth_pair_and_the_world_sees_the_hosts_address(world: World):
    before = world.state()
    got = world.run(TRY)
    assert (got["kind"], got["seen"]) == ("veth", REACHED)
    assert any("net.ipv4.conf.eth0.forwarding" in note for note in got["notes"])
    assert world.state() == before


def test_everything_on_the_host_is_named_after_the_run(world: World):
    process = world.start(HOLD)
    run = told(process)["run"]
    assert f"alias {run}" in world.on_host("ip -d link show type veth")
    assert world.on_host("nft list tables").split() == ["table", "inet", run]
    end(process)


def test_rules_and_interface_vanish_with_a_killed_holder_and_the_next_run_puts_forwarding_back(world: World):
    before = world.state()
    process = world.start(HOLD)
    told(process)
    killed(process)
    world.wait_until_gone(": isolate")
    assert (world.on_host("nft list tables") == "") is tables_have_owners()
    # Settings can't vanish by themselves; they wait for the next run.
    assert world.on_host("cat /proc/sys/net/ipv4/conf/eth0/forwarding").strip() == "1"
    assert world.run(TRY)["seen"] == REACHED
    assert world.state() == before


def test_two_runs_reach_the_world_and_not_each_other_and_the_one_that_ends_leaves_the_other_its_forwarding(world: World):
    before = world.state()
    one, two = world.start(HOLD), world.start(HOLD)
    first, second = told(one), told(two)
    assert first["seen"] == second["seen"] == REACHED
    assert first["subnet"] != second["subnet"]
    assert ask(one, SEEN) == ask(two, SEEN) == REACHED
    there = second["subnet"].replace(".0/24", ".9")
    assert ask(one, f"run.fetch({there!r}, timeout=0.5)") == "TimeoutError"  # refused, were it let through
    end(one)
    assert ask(two, SEEN) == REACHED
    end(two)
    assert world.state() == before


def test_survivor_puts_back_what_a_killed_run_set(world: World):
    before = world.state()
    one, two = world.start(HOLD), world.start(HOLD)
    told(one), told(two)
    killed(one)
    end(two)
    world.wait_until_gone(": isolate")
    if not tables_have_owners():
        world.run(TRY)
    world.on_host("rm -f /run/lock/pytest-isolate-subnets/*")  # of the killed one; the next claim would
    assert world.state() == before


def test_table_of_a_dead_run_that_an_older_kernel_kept_is_removed_by_the_next_run(world: World):
    stale = f"pytest-isolate-{os.getpid()}-1-0.{os.stat('/proc/self/ns/pid').st_ino}"  # a process of another start time
    world.on_host(f"nft 'add table inet {stale}; add table inet mine'")
    world.run(TRY)
    assert world.on_host("nft list tables").split() == ["table", "inet", "mine"]


def test_forwarding_that_was_on_is_not_touched_and_not_mentioned(world: World):
    world.on_host("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    before = world.state()
    got = world.run(TRY)
    assert (got["seen"], got["notes"]) == (REACHED, [])
    assert world.state() == before


def test_forwarding_that_somebody_turned_on_meanwhile_stays_on(world: World):
    process = world.start(HOLD)
    told(process)
    world.on_host("sysctl -q -w net.ipv4.ip_forward=1")  # as Docker does when it starts
    end(process)
    assert world.on_host("cat /proc/sys/net/ipv4/conf/eth0/forwarding").strip() == "1"


OLDER = """
import os.path
exists = os.path.exists
os.path.exists = lambda path: exists(path) and "force_forwarding" not in str(path)
"""
"""A kernel before 6.17, as far as `forwarding` looks."""


def test_older_kernel_forwards_ipv6_on_the_whole_host_while_the_run_lasts(world: World):
    before = world.state()
    got = world.run(OLDER + TRY)
    assert got["seen"] == REACHED
    assert "set to 1 while the run lasts: net.ipv6.conf.all.forwarding" in got["notes"]
    assert world.state() == before


ANNOUNCE = """
import socket, struct
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as out:
    out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    advertisement = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    out.sendto(advertisement, ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))
"""


def test_older_kernel_keeps_the_router_that_announced_itself_and_says_that_ipv6_leads_nowhere(world: World):
    world.on_host("ip -6 route del default")
    world.in_world(f"python3 -c '{ANNOUNCE}'")
    world.on_host("sleep 0.2; ip -6 route show default | grep 'proto ra'")
    got = world.run(OLDER + TRY)
    assert got["seen"][:2] == REACHED[:2]
    assert HOST6 not in got["seen"]
    assert any("router advertisements" in note for note in got["notes"])
    world.on_host("ip -6 route show default | grep 'proto ra'")


def test_host_that_forwards_for_us_forwards_nothing_else(world: World):
    world.on_host(
        "ip link add other type veth peer name far; ip link set other up; ip link set far up; ip addr add 198.18.0.1/24 dev other"
    )
    process = world.start(HOLD)
    subnet = told(process)["subnet"]
    world.in_world(f"ip route add {subnet} via {HOST4}; ip route add 198.18.0.0/24 via {HOST4}")
    client = subnet.replace(".0/24", ".9")
    asked = f"""
import socket
def out(to):
    with socket.socket() as s:
        s.settimeout(0.5)
        try: s.connect((to, 22))
        except OSError as e: return type(e).__name__
print(out("{client}"), out("198.18.0.2"))
"""
    assert world.in_world(f"python3 -c '{asked}'").split() == ["TimeoutError", "TimeoutError"]
    assert world.on_host("ip neigh show dev other") == ""
    assert ask(process, SEEN) == REACHED
    end(process)
    world.on_host("sysctl -q -w net.ipv4.ip_forward=1")
    world.in_world(f"python3 -c '{asked}'")
    assert "198.18.0.2" in world.on_host("ip neigh show dev other")  # so it is looked for where it is forwarded


def test_without_nf_tables_iptables_does_it_and_the_next_run_removes_what_a_killed_one_left(world: World, tmp_path: Path):
    path = legacy(tmp_path)
    tables = """
from pytest_isolate.network.veth_uplink import VethUplink
Run.open = lambda self, wanted: VethUplink(self.host, self.inside, self.outside, self.name, "iptables")
"""
    world.on_host("iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP")
    before = world.state()
    process = world.start(tables + HOLD, path=path)
    got = told(process)
    assert (got["kind"], got["seen"]) == ("veth", REACHED)
    killed(process)
    assert got["run"] in world.on_host("iptables-legacy-save")
    assert world.run(tables + TRY, path=path)["seen"] == REACHED
    world.wait_until_gone(": isolate")
    assert world.state() == before


# Firewalls of the host

FIREWALLS = {
    "docker": (
        "iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER",
        "Docker's nft chain ip filter FORWARD (policy drop)",
    ),
    "ufw": (
        "iptables-nft -P FORWARD DROP; iptables-nft -N ufw-before-forward; iptables-nft -A FORWARD -j ufw-before-forward",
        "ufw's nft chain ip filter FORWARD (policy drop)",
    ),
    "legacy": ("iptables-legacy -P FORWARD DROP", "iptables-legacy -P FORWARD DROP"),
    "firewalld": (
        "nft 'table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; reject with icmpx admin-prohibited; }; }'",
        "firewalld's nft chain inet firewalld filter_FORWARD (policy accept)",
    ),
}


@pytest.mark.parametrize("name", FIREWALLS)
def test_firewall_that_drops_is_named_and_the_typed_remedy_helps(world: World, name: str):
    command, named = FIREWALLS[name]
    world.on_host(command)
    before = world.state()
    got = world.run(REFUSED.format("'veth'"))
    assert named in got["why"]
    assert world.state() == before
    world.on_host(got["hint"].replace("iptables -", "iptables-nft -"))
    assert world.run(TRY.replace("Run()", "Run('veth')"))["seen"][:2] == REACHED[:2]


@requires("pasta")
def test_behind_a_firewall_root_falls_to_pasta_and_says_why(world: World):
    world.on_host(FIREWALLS["docker"][0])
    before = world.state()
    got = world.run(TRY)
    assert (got["kind"], got["seen"]) == ("pasta", REACHED)
    assert "Docker's" in got["notes"][0]
    assert "DOCKER-USER" in got["notes"][0]
    assert world.state() == before


# Without touching the host: pasta, slirp4netns

HELPERS = [
    pytest.param(program, user, marks=requires(program, *(["unprivileged-user", "userns"] if user else [])))
    for program in ("pasta", "slirp4netns")
    for user in (False, True)
]


@pytest.mark.parametrize(("program", "user"), HELPERS)
def test_helper_passes_on_what_the_world_sees_as_the_hosts_and_the_host_is_not_changed(world: World, program: str, user: bool):
    before = world.state()
    process = world.start(HOLD.replace("Run()", f"Run({program!r})"), user=user)
    got = told(process)
    assert (got["kind"], got["seen"]) == (program, REACHED)
    now = world.state()
    end(process)
    assert [line for line in now if line not in before and "-subnets/" not in line] == []
    assert world.state() == before


@pytest.mark.parametrize(("program", "user"), HELPERS)
def test_loopback_of_the_host_is_closed_and_its_other_addresses_are_not(world: World, program: str, user: bool):
    code = f"""
run = Run({program!r})
addresses = {{address for route in run.inside.get_default_routes(family=socket.AF_INET) for address in [route.get_attr("RTA_GATEWAY")]}}
tell([run.fetch(address, 8080, timeout=1) for address in sorted(addresses) + ["{HOST4}"]] + [run.fetch("{HOST4}", 8081)])
run.end()
"""
    *closed, other = world.run(code, user=user)
    assert HOST4 not in closed
    assert "127.0.0.1" not in closed
    assert other == HOST4


@pytest.mark.parametrize(("program", "user"), HELPERS)
def test_helper_dies_with_a_killed_holder(world: World, program: str, user: bool):
    process = world.start(HOLD.replace("Run()", f"Run({program!r})"), user=user)
    told(process)
    helpers = [os.pidfd_open(pid) for pid in children(process.pid)]
    assert helpers
    killed(process)
    try:
        assert [select.select([helper], [], [], 3)[0] for helper in helpers] == [[helper] for helper in helpers]
    finally:
        for helper in helpers:
            os.close(helper)


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


@requires("unprivileged-user", "userns")
def test_without_either_program_the_package_to_install_is_named(world: World):
    code = "import pytest_isolate.network.helper_uplink as module\nmodule.installed = lambda program: None\n"
    got = world.run(code + REFUSED.format(""), user=True)
    assert got["why"] == "pasta isn't installed; slirp4netns isn't installed"
    assert got["hint"] == "apt install passt"


@requires("pasta", "unprivileged-user", "userns")
def test_device_that_only_root_may_open_is_named(world: World):
    world.on_host("chmod 600 /dev/net/tun")
    got = world.run(REFUSED.format("'pasta'"), user=True)
    assert "/dev/net/tun" in got["why"]
    assert "chmod 0666 /dev/net/tun" in got["hint"]


@requires("slirp4netns", "pasta")
def test_host_without_a_default_route(world: World):
    world.on_host("ip route del default; ip -6 route del default")
    assert world.run(TRY)["seen"] == [HOST4, HOST4, HOST6, HOST6]  # on the host's link all the same
    got = world.run(REFUSED.format("'pasta'"))
    assert got["why"] == "the host has no IPv4 default route, and pasta needs one"
    assert "'internal': True" in got["hint"]
    world.on_host("ip link del eth0")
    alone = world.run(TRY)
    assert alone["notes"] == ["the host has no IPv4 route to anywhere else"]
    assert HOST4 not in alone["seen"]


@requires("unprivileged-user", "userns")
def test_veth_pair_for_a_user_is_refused(world: World):
    assert "takes root" in world.run(REFUSED.format("'veth'"), user=True)["why"]
