"""Sandboxes made ahead of need: what changed on the host meanwhile. As root and as a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.callers import Caller, caller
from tests.support.capabilities import requires
from tests.support.unprivileged import USER_ID, find_python, package_tree, user_directory

__all__ = ["caller"]

AHEAD = """
LISTING = "import os, sys; print(*sorted(os.listdir(sys.argv[1]))); open(sys.argv[1] + '/inside', 'w').close()"
path = os.path.join(os.getcwd(), "build")
def listed(what, spec):
    # the sandbox for `spec`, ordered before `what` happened and answered by then
    pool = Pool(cgroup=CGROUP, depth=2)
    try:
        pool.expect([spec, Spec(hostname="after")])
        pool.acquire(Spec(hostname="after")).release()  # orders are worked off one by one
        what()
        with Sandbox(spec, pool=pool) as opened:
            done = opened.run([PYTHON, "-I", "-S", "-c", LISTING, path])
            return done.stdout.decode() or done.stderr.decode(), sorted(os.listdir(path))
    finally:
        pool.close()
"""


@pytest.mark.parametrize("key,expected", [("writable", ["new\n", ["inside", "new"]]), ("hide", ["\n", ["new"]])])
def test_path_made_after_the_order_is_there(caller: Caller, key: str, expected: list[object]) -> None:
    code = """
def make():
    os.mkdir(path)
    open(path + "/new", "w").close()
tell(listed(make, Spec(KEY=(path,))))
"""
    assert caller.run(AHEAD + code.replace("KEY", key)) == expected


def test_path_made_anew_after_the_order_is_the_new_one(caller: Caller) -> None:
    code = """
os.mkdir(path)
open(path + "/old", "w").close()
def replace():
    os.rename(path, path + ".old")
    os.mkdir(path)
    open(path + "/new", "w").close()
tell(listed(replace, Spec(writable=(path,))))
"""
    assert caller.run(AHEAD + code) == ["new\n", ["inside", "new"]]


def test_link_that_points_elsewhere_after_the_order_is_followed_anew(caller: Caller) -> None:
    code = """
for name in "ab":
    os.mkdir(f"{path}-{name}")
    open(f"{path}-{name}/{name}", "w").close()
os.symlink(path + "-a", path)
def turn():
    os.unlink(path)
    os.symlink(path + "-b", path)
tell(listed(turn, Spec(writable=(path,))))
"""
    assert caller.run(AHEAD + code) == ["b\n", ["b", "inside"]]


SPLIT = """
set -e
mount --make-rprivate /
mount -t tmpfs none {base}
cd {base}
mkdir mounted stays goes
mount -t tmpfs none mounted
touch late
head -c 100000 /dev/zero > large
chmod 777 . stays goes mounted
chown -R {user}:{user} .
exec setpriv --reuid {user} --regid {user} --clear-groups env -i PATH=/usr/bin:/bin PYTHONPATH={tree} HOME={base} TMPDIR=/tmp {python} -c "$1"
"""

VANISHING = """
import json, os
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Pool, Sandbox
pool = Pool(depth=0)
seen = []
for step in (None, lambda: os.rmdir("goes"), lambda: os.unlink("large")):
    if step: step()
    with Sandbox(Spec(), pool=pool) as box:
        done = box.run(["sh", "-c", "touch stays/x && ls"], cwd=os.getcwd(), check=True)
        seen.append(done.stdout.decode().split())
pool.close()
print(json.dumps(seen))
"""


@requires("root", "unprivileged-user", "userns")
def test_what_vanishes_from_a_tree_with_mounts_below_it_ends_no_test() -> None:
    """As /tmp is, where something is mounted in it: it had to be taken apart, and its directories come and go."""
    with user_directory() as base:
        script = SPLIT.format(base=base, user=USER_ID, tree=package_tree(), python=find_python())
        command = ["unshare", "--mount", "sh", "-c", script, "sh", VANISHING]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second, third = json.loads(done.stdout)
    assert "goes" in first
    assert {"stays", "mounted", "late"} <= set(second) & set(third)


UNMOUNTED = """
import json, os, subprocess, sys
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Pool, Sandbox

place = sys.argv[1]
os.mkdir(place)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
pool = Pool(depth=0)
seen = []
for after in (["umount", place], ["rmdir", place], ["true"]):
    with Sandbox(Spec(), pool=pool) as box:
        seen.append(box.run(["sh", "-c", f"touch '{place}/x' 2>/dev/null; echo $?"], check=True).stdout.decode().strip())
    subprocess.run(after, check=True)
pool.close()
print(json.dumps(seen))
"""


@requires("root")
def test_mount_of_the_host_that_ends_with_its_directory_ends_no_test(tmp_path: Path) -> None:
    """As those of container engines do: the host was captured while it was there."""
    command = ["unshare", "--mount", "--propagation=private", sys.executable, "-c", UNMOUNTED, str(tmp_path / "comes and goes")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == "0"
    assert json.loads(done.stdout)[2] != "0"
