"""Where the kernel refuses a user an overlay, fuse-overlayfs serves it: here of a directory on overlays stacked two deep."""

from __future__ import annotations

import inspect
import json
import subprocess
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import file_changes
from tests.support.capabilities import requires
from tests.support.unprivileged import USER_ID, find_python, package_tree, user_directory

pytestmark = requires("root", "unprivileged-user", "userns", "fuse-overlayfs")

NESTED = """
set -e
mount --make-rprivate /
mount -t tmpfs none {base}
cd {base}
chmod 755 .
mkdir lower upper work once second '{name}'
echo lower > lower/file
chown -R {user}:{user} lower upper
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work once
mount -t tmpfs none second
mkdir second/upper second/work
chown {user}:{user} second/upper
mount -t overlay overlay -o lowerdir=once,upperdir=second/upper,workdir=second/work '{name}'
mknod fuse c 10 229
chmod 666 fuse
mount --bind fuse /dev/fuse
cd '{name}'
exec setpriv --reuid {user} --regid {user} --clear-groups env -i PATH=/usr/bin:/bin PYTHONPATH={tree} HOME='{base}/{name}' TMPDIR=/tmp {python} -c "$1"
"""

CASE = """
import json, os, signal, sys, time
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Pool, Sandbox
def words(pid, of):
    try: return open(f"/proc/{pid}/{of}", "rb").read().split(bytes(1))
    except OSError: return [b""]
def servers():
    # Those of this case: others may run at the same time.
    home = b"HOME=" + os.fsencode(os.environ["HOME"])
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and words(pid, "cmdline")[0].endswith(b"/fuse-overlayfs") and home in words(pid, "environ")]
pool = Pool(depth=0)
"""


@pytest.fixture
def in_nested() -> Iterator[Any]:
    """Runs a case as the user, in a working directory that the kernel lets nobody overlay.

    Not below /tmp, which would have to be taken apart: beside a busy one the directory would be one too many.
    """

    def run(code: str, name: str = "twice") -> Any:
        script = NESTED.format(base=base, name=name, user=USER_ID, tree=package_tree(), python=find_python())
        command = ["unshare", "--mount", "sh", "-c", script, "sh", CASE + textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    with user_directory() as base:
        yield run


@pytest.mark.parametrize("name", ["twice", "t:w,i\\c e"])
def test_writes_are_thrown_away_as_with_the_kernels(in_nested: Any, name: str) -> None:
    code = """
        with Sandbox(Spec(), pool=pool) as box:
            script = "cat file; echo changed > file; echo new > new; cat file new; rm file; ls; grep ' fuse.fuse-overlayfs ' /proc/self/mountinfo"
            done = box.run(["sh", "-c", script], cwd=os.getcwd(), check=True)
        pool.close()
        *output, mounts = done.stdout.decode().splitlines()
        print(json.dumps([output, mounts, [sorted(os.listdir()), open("file").read()], servers()]))
    """
    output, mounts, after, left = in_nested(code, name)
    assert output == ["lower", "changed", "new", "new"]
    assert f"/{name} ".replace("\\", r"\134").replace("c e", r"c\040e") in mounts
    assert after == [["file"], "lower\n"]
    assert left == []


def test_full_disk_is_told_to_the_writer(in_nested: Any) -> None:
    status, message, full = in_nested("""
        with Sandbox(Spec(disk=4 << 20), pool=pool) as box:
            done = box.run(["dd", "if=/dev/zero", "of=big", "bs=64k", "count=200"], cwd=os.getcwd())
            full = box.events().disk_full
        pool.close()
        print(json.dumps([done.returncode, done.stderr.decode(), full]))
    """)
    assert status == 1
    assert "No space left on device" in message
    assert full


def test_servers_are_out_of_sight_and_end_with_their_sandbox(in_nested: Any) -> None:
    running, inside, after = in_nested("""
        first, second = Sandbox(Spec(), pool=pool), Sandbox(Spec(), pool=pool)
        with first:
            with second:
                running = [len(servers()), len(second.processes())]
                inside = second.run(["sh", "-c", "cat /proc/[0-9]*/comm"]).stdout.decode().split()
            second_gone = servers()
            deadline = time.monotonic() + 5
            while len(servers()) > 1 and time.monotonic() < deadline: time.sleep(0.01)
            after = [len(servers())]
        pool.close()
        print(json.dumps([running, inside, after + [len(servers())]]))
    """)
    assert running == [2, 0]
    assert "fuse-overlayfs" not in inside
    assert after == [1, 0]


def test_servers_end_with_a_killed_builder(in_nested: Any) -> None:
    before, after = in_nested("""
        box = Sandbox(Spec(), pool=pool).__enter__()
        before = len(servers())
        os.kill(pool.launch().pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while servers() and time.monotonic() < deadline: time.sleep(0.01)
        print(json.dumps([before, len(servers())]))
        pool.close()
    """)
    assert (before, after) == (1, 0)


def test_plan_says_which_trees_are_served(in_nested: Any) -> None:
    notes = in_nested("""
        from pytest_isolate.kernel.namespaces import CLONE_NEWNS
        from pytest_isolate.rootfs.host import HostRoot
        from pytest_isolate.sandbox.identity import enter_run_namespace
        from pytest_isolate.kernel.mounts import mount, MS_REC, MS_PRIVATE
        import tempfile
        here, workspace = os.getcwd(), tempfile.mkdtemp()
        enter_run_namespace()
        mount("none", "/", "", MS_REC | MS_PRIVATE)
        root = HostRoot.prepare(workspace, rootless=True, places=(), trees=[here])
        print(json.dumps(root.plan(Spec()).describe()))
        os.chdir("/")
    """)
    assert any(line.startswith("fuse-overlayfs ") and "/twice " in line for line in notes)
    assert any("/twice is served by fuse-overlayfs, which is slower" in line for line in notes)


def test_changes_are_read_as_it_writes_them(in_nested: Any) -> None:
    expected, told = in_nested(f"""
        exec({inspect.getsource(file_changes)!r})
        make(Path("tree"))
        with Sandbox(Spec(), pool=pool) as box:
            done = box.run([sys.executable, "-I", "-S", "-c", PROGRAM, os.getcwd() + "/tree", "every way"])
            assert done.returncode == 0, done.stderr.decode()
            told = box.changes().to_json()["changes"]
        pool.close()
        print(json.dumps([json.loads(done.stdout), told]))
    """)
    # It shows one of two hard links of the host's as it was, although it has copied up what was written to it.
    assert [change for change in told if change not in expected] == [["C", told[0][1].partition("/tree/")[0] + "/tree/first", 3]]
    assert [change for change in expected if change not in told] == []
