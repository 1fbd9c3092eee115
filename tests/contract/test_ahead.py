"""Sandboxes made ahead of need: what changed on the host meanwhile. As root and as a user."""

from __future__ import annotations

import pytest

from tests.support.callers import Caller, caller

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
