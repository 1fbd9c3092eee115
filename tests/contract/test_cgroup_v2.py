"""What is v2's own: the leaf, the scope that systemd gives, pressure, and what is said where there is nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_isolate.kernel.cgroup import Caps, Hierarchy, read_moment, read_usage
from pytest_isolate.kernel.cgroup_v2_base import LEAF, give_back, make_room
from pytest_isolate.kernel.cgroup_v2_place import hand_down_hint
from pytest_isolate.model.errors import SetupError
from tests.support.callers import CALLERS, Caller, caller
from tests.support.capabilities import on_layout, requires
from tests.support.cgroups import allocate, burn, inside, own_hierarchy
from tests.support.pytest_process import ROOT

__all__ = ["caller"]

MIB = 1 << 20
on_v2 = on_layout("v2")
as_root = requires("root")


@pytest.fixture
def hierarchy() -> Iterator[Hierarchy]:
    with own_hierarchy() as hierarchy:
        yield hierarchy


# --- the leaf: membership in the v2 tree is the same where it has no controllers, as on a hybrid host --------------------------


@pytest.fixture
def base() -> Iterator[Path]:
    point = next(
        path for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")) if (path / "cgroup.controllers").exists()
    )
    path = point / f"h-base-{os.getpid()}"
    path.mkdir()
    yield path
    for directory in (path / LEAF, path):
        if directory.exists():
            directory.rmdir()


IN_BASE = """
import os, sys, json
from pytest_isolate.kernel.cgroup_v2_base import *
base = sys.argv[1]
open(base + "/cgroup.procs", "w").write("0")
def where():
    return next(line for line in open("/proc/self/cgroup") if line.startswith("0::")).strip().rpartition("/")[2]
"""


def in_base(base: Path, code: str) -> subprocess.CompletedProcess[str]:
    """A process that is in `base`, and its children."""
    return subprocess.run(
        [sys.executable, "-c", IN_BASE + code, str(base)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=30
    )


@as_root
@on_layout("hybrid", "mixed", "v2")
def test_command_that_is_told_hands_a_controller_down(base: Path) -> None:
    root = base.parent
    (inner := base / "in it").mkdir()
    enabled = (root / "cgroup.subtree_control").read_text().split()
    name = (root / "cgroup.controllers").read_text().split()[0]
    try:
        assert name not in (inner / "cgroup.controllers").read_text().split()
        subprocess.run(["sh", "-c", hand_down_hint(str(inner), name)], check=True)
        assert name in (inner / "cgroup.controllers").read_text().split()
    finally:
        inner.rmdir()
        base.rmdir()
        if name not in enabled:
            (root / "cgroup.subtree_control").write_text(f"-{name}")


@as_root
@on_layout("hybrid", "mixed", "v2")
def test_family_moves_to_a_leaf_and_back(base: Path) -> None:
    done = in_base(
        base,
        """
child = os.fork()
if child == 0:
    with locked(base): make_room(base)
    there = where()
    give_back(base)
    print(json.dumps([there, where()]), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(json.dumps([where(), os.path.exists(f"{base}/{LEAF}")]))
""",
    )
    assert done.returncode == 0, done.stderr
    inside_child, after = map(json.loads, done.stdout.splitlines())
    assert inside_child == [LEAF, base.name]
    assert after == [base.name, False]


@as_root
@on_layout("hybrid", "mixed", "v2")
def test_somebody_elses_process_stays_where_it_is_and_is_named(base: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (base / "cgroup.procs").write_text(str(stranger.pid))
        with pytest.raises(OSError, match=rf"aren't pytest's: sleep \(pid {stranger.pid}\)"):
            make_room(str(base))
        assert (base / "cgroup.procs").read_text().split() == [str(stranger.pid)]
    finally:
        stranger.kill()
        stranger.wait()


@as_root
@on_layout("hybrid", "mixed", "v2")
def test_leaf_stays_while_another_run_needs_it(base: Path) -> None:
    (base / LEAF).mkdir()
    other = base / "pytest-isolate-1-1-0.1"
    other.mkdir()
    give_back(str(base))
    assert (base / LEAF).is_dir()
    other.rmdir()
    give_back(str(base))
    assert not (base / LEAF).exists()


# --- files ---------------------------------------------------------------------------------------------------------------------


@as_root
@on_v2
@requires("cgroup-cpu", "cgroup-memory", "cgroup-pids")
def test_caps_are_written_as_the_kernel_spells_them(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(cpu=0.2, memory=64 * MIB, pids=7))
    found = {name: Path(group.v2, name).read_text().strip() for name in ("cpu.max", "memory.max", "pids.max")}
    assert found == {"cpu.max": "20000 100000", "memory.max": str(64 * MIB), "pids.max": "7"}
    swap = Path(group.v2, "memory.swap.max")
    assert not swap.exists() or swap.read_text() == "0\n"


@as_root
@on_v2
@requires("cgroup-memory", "cgroup-swap")
@pytest.mark.parametrize("swap", [None, 0, 8 * MIB])
def test_swap_is_capped_beside_memory(hierarchy: Hierarchy, swap: int | None) -> None:
    group = hierarchy.create("box", Caps(memory=64 * MIB, swap=swap))
    assert Path(group.v2, "memory.swap.max").read_text().strip() == str(swap or 0)


@as_root
@on_v2
@requires("cgroup-io")
def test_refused_cap_names_file_and_remedy_and_leaves_nothing(hierarchy: Hierarchy) -> None:
    from pytest_isolate.kernel.cgroup import IoCap

    with pytest.raises(SetupError, match=r"io\.max: ENODEV") as caught:
        hierarchy.create("box", Caps(io=(IoCap(4000, 1, None, 1),)))
    assert caught.value.hint
    assert [path for path in hierarchy.run_directories if os.path.exists(f"{path}/box")] == []


@as_root
@on_v2
@requires("cgroup-cpu")
def test_pressure_is_told_where_the_kernel_measures_it(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(cpu=0.2))
    inside(group, lambda: burn(1.0))
    usage = read_usage(group)
    if Path(group.v2, "cpu.pressure").exists():
        assert usage.cpu_pressure_seconds is not None
        assert usage.cpu_pressure_seconds > 0.2
        assert usage.memory_pressure_seconds is not None
    else:
        assert usage.cpu_pressure_seconds is None


@as_root
@on_v2
@requires("cgroup-cpu", "cgroup-memory")
def test_moment_has_what_is_charged_now_and_the_counters_of_the_usage(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(cpu=0.2, memory=64 * MIB))
    begun = read_moment(group)
    assert begun.memory_bytes is not None
    assert (begun.cpu_throttled_seconds, begun.oom_kills) == (0, 0)

    def hold() -> float:
        held = bytearray(b"x") * (32 * MIB)
        burn(1.0)
        now = read_moment(group).memory_bytes
        return (now or 0) / len(held)

    assert 1 <= inside(group, hold).result < 1.5
    inside(group, lambda: allocate(128 * MIB))
    ended, usage = read_moment(group), read_usage(group)
    assert ended.memory_bytes is not None
    assert ended.memory_bytes < 8 * MIB
    assert ended.oom_kills == 1
    assert ended.cpu_seconds == usage.cpu_seconds
    assert ended.cpu_throttled_seconds == usage.cpu_throttled_seconds
    assert ended.cpu_throttled_seconds is not None
    assert ended.cpu_throttled_seconds > 0.2


@on_v2
@requires("cgroup-memory")
def test_samples_of_the_builder_rise_with_what_a_program_holds(caller: Caller) -> None:
    rows = caller.run(
        """
import time
from pytest_isolate.model.samples import unpack
file = os.memfd_create("rows")
with box() as opened:
    opened.sample(file, since=time.monotonic(), interval=0.02)
    opened.run([sys.executable, "-c", "import time; held = bytearray(b'x') * (32 << 20); time.sleep(0.5)"])
tell(unpack(os.pread(file, 1 << 16, 0)))
"""
    )
    assert len(rows) > 10
    assert max(row[1] for row in rows) - rows[0][1] > 32 * MIB
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert rows[-1][2] > 0


@on_v2
@requires("cgroup-memory")
def test_inside_the_own_group_is_the_root_and_read_only(caller: Caller) -> None:
    own, cap, mounts, error = caller.run(
        """
tell(inside('''
try:
    open("/sys/fs/cgroup/memory.max", "w")
    error = 0
except OSError as refused:
    error = refused.errno
mounts = [line.split()[4] for line in open("/proc/self/mountinfo") if " - cgroup2 " in line]
tell([open("/proc/self/cgroup").read(), open("/sys/fs/cgroup/memory.max").read(), mounts, error])
''', memory=64 << 20))
"""
    )
    assert own == "0::/\n"
    assert int(cap) == 64 * MIB
    assert set(mounts) == {"/sys/fs/cgroup"}  # rootless the host's is there too, covered
    assert error in (13, 30)


# --- whose cgroup it is --------------------------------------------------------------------------------------------------------


@on_v2
@requires("cgroup-memory")
def test_pytest_moves_to_a_scope_of_its_own_that_goes_with_it(caller: Caller) -> None:
    before, during, controllers = json.loads(
        outside_of_scopes(
            caller,
            """
def own(): return open("/proc/self/cgroup").read().strip().removeprefix("0::")
before = own()
with box(memory=64 << 20) as opened:
    tell([before, own(), POOL.facts().controllers])
""",
        ).stdout
    )
    assert before != during
    scope, leaf = during.split("/")[-2:]
    assert scope.startswith("pytest-isolate-")
    assert scope.endswith(".scope")
    assert leaf == LEAF
    assert {"cpu", "memory", "pids"} <= set(controllers)
    wait_until_gone(scope)


def outside_of_scopes(caller: Caller, code: str) -> subprocess.CompletedProcess[str]:
    """A case of the caller's that doesn't begin in a scope of this test run."""
    begin = ["systemd-run", "--quiet", "--scope"] if caller.is_root else []
    return caller.process(code, begin=begin)


def wait_until_gone(name: str) -> None:
    """systemd removes a scope when it hears that it is empty."""
    deadline = time.monotonic() + 20
    while found := [path for path, names, _ in os.walk("/sys/fs/cgroup") if name in names]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@on_v2
@requires("cgroup-memory")
def test_nothing_is_left_of_a_scope_whose_processes_were_killed(caller: Caller) -> None:
    done = outside_of_scopes(
        caller,
        """
opened = box(memory=64 << 20).__enter__()
print(open("/proc/self/cgroup").read().split("/")[-2], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert done.returncode == -signal.SIGKILL
    wait_until_gone(done.stdout.strip())


@on_v2
@requires("unprivileged-user", "userns")
@pytest.mark.parametrize("caller", [CALLERS[1]], indirect=True)
def test_without_a_bus_the_error_has_the_command_to_type(caller: Caller) -> None:
    message = caller.process(
        """
try: inside("tell(1)", memory=1 << 26)
except MissingCapability as error: print(str(error))
""",
        env={"XDG_RUNTIME_DIR": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": ""},
    ).stdout
    assert "memory" in message
    assert "hasn't delegated it (no D-Bus at /nowhere/bus" in message
    assert "systemd-run --user --scope -p Delegate=yes " in message


@as_root
@on_v2
@requires("cgroup-memory")
def test_delegated_scope_is_used_and_given_back(tmp_path: Path) -> None:
    """As the remedy says to start pytest. Its own processes wait in a leaf meanwhile."""
    code = """
import os
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Pool, Sandbox
def own(): return open("/proc/self/cgroup").read().strip().removeprefix("0::")
print(own())
pool = Pool(depth=0)
with Sandbox(Spec(memory=64 << 20), pool=pool) as box:
    print(own())
    print(box.group.v2)
pool.close()
print(own())
print(sorted(name for name in os.listdir("/sys/fs/cgroup" + own()) if "isolate" in name))
print(open("/sys/fs/cgroup" + own() + "/cgroup.subtree_control").read().split())
"""
    command = ["systemd-run", "--quiet", "--scope", "-p", "Delegate=yes", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    before, during, group, after, left, handed_down = done.stdout.splitlines()
    assert during == f"{before}/{LEAF}"
    assert group.startswith(f"/sys/fs/cgroup{before}/pytest-isolate-")
    assert after == before
    assert left == "[]"
    assert handed_down == "[]"


@as_root
@on_v2
@requires("cgroup-memory")
def test_at_the_root_of_a_cgroup_namespace_everything_makes_room(tmp_path: Path) -> None:
    """As in a container: no systemd in sight, the own cgroup is /, and `docker exec` leaves processes of no family in it."""
    code = """
import os
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Pool, Sandbox
def own(pid="self"): return open(f"/proc/{pid}/cgroup").read().strip().removeprefix("0::")
print(own())
pool = Pool(depth=0)
with Sandbox(Spec(memory=64 << 20), pool=pool) as box:
    print(own())
    print(box.group.v2)
    box.run(["true"], check=True)
pool.close()
print(own())
print(sorted(name for name in os.listdir("/sys/fs/cgroup") if "isolate" in name))
"""
    hidden = "mount -t tmpfs none /run/systemd && umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"
    script = f'{hidden}; (setsid sleep 5 >/dev/null 2>&1 &); exec "$0" -c "$1"'
    command = ["systemd-run", "--quiet", "--scope", "-p", "Delegate=yes"]
    command += ["unshare", "--cgroup", "--mount", "--propagation", "private", "sh", "-c", script, sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    before, during, group, after, left = done.stdout.splitlines()
    assert (before, during, after, left) == ("/", f"/{LEAF}", "/", "[]")
    assert group.startswith("/sys/fs/cgroup/pytest-isolate-")
