"""Every set-up step refused once, by strace's fault injection: it fails closed, says so, and leaves nothing.

strace makes the Nth call of a system call in the builder (or in whoever enters) return an error. What the
command inside would print proves where it ran; a run outside the sandbox it asked for is the failure.
"""

from __future__ import annotations

import errno as errno_module
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.callers import ROOT
from tests.support.capabilities import requires
from tests.support.reaper import Reaper

pytestmark = requires("root", "strace")

CASE = """
import json, os, sys
from pytest_isolate.model.errors import IsolateError
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Pool, Sandbox
WRAPPER = sys.argv[1]
NAMES = ("user", "pid", "mnt", "net", "uts", "ipc", "cgroup")
python = sys.executable
if WRAPPER:
    sys.executable = WRAPPER
pool = Pool(depth=0)
outside = {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMES}
answers = []
try:
    for attempt in range(2):
        try:
            with Sandbox(Spec(memory=64 << 20, hostname="box", hide=("/srv",), writable=(os.getcwd(),)), pool=pool) as box:
                done = box.run([python, "-I", "-S", "-c", "import json, os; print(json.dumps({n: os.readlink('/proc/self/ns/' + n) for n in %r}))" % (NAMES,)])
                inside = json.loads(done.stdout)
                answers.append("ran inside" if not set(inside.values()) & set(outside.values()) else f"ESCAPED {inside}")
        except IsolateError as error:
            answers.append(f"{type(error).__name__}: {error}")
        except OSError as error:
            answers.append(f"OSError: {error}")
finally:
    pool.close()
print(json.dumps(answers))
"""

# What the builder calls while it makes a sandbox, and the errno the kernel would give.
BUILDER = [
    ("unshare", "ENOSPC", 1), ("unshare", "ENOSPC", 2), ("clone", "ENOSPC", 1), ("pivot_root", "EINVAL", 1),
    ("sethostname", "EPERM", 1), ("open_tree", "ENOSYS", 1), ("move_mount", "EINVAL", 1), ("mount_setattr", "EPERM", 1),
    ("setsid", "EPERM", 1), ("ioctl", "EPERM", 1), ("memfd_create", "ENOSYS", 1),
    *(("mount", "EPERM", number) for number in (1, 2, 3, 5, 8, 11, 13, 16, 19, 22, 25, 28)),
    *(("mkdir", "EACCES", number) for number in (1, 2, 4, 6, 8, 10)),
    ("umount2", "EINVAL", 1), ("chdir", "ENOENT", 1), ("execveat", "EACCES", 1), ("prctl", "EINVAL", 1), ("dup3", "EBADF", 1), ("socket", "EPERM", 1),
]  # fmt: skip
# What the process that enters calls.
ENTERING = [("setns", "EPERM", number) for number in (1, 2, 3)] + [
    ("keyctl", "EDQUOT", 1), ("capset", "EPERM", 1), ("setpgid", "EPERM", 1), ("prctl", "EPERM", 3),
]  # fmt: skip


def _run(tmp_path: Path, *command: str) -> list[str]:
    reaper = Reaper(sys.executable, tmp_path)
    done = subprocess.run(
        [*reaper.begin, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert not reaper.left()
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert not [answer for answer in answers if answer.startswith("ESCAPED")]
    return answers


@pytest.mark.parametrize("call,errno,number", BUILDER, ids=str)
def test_refused_step_in_the_builder_fails_closed(tmp_path: Path, call: str, errno: str, number: int) -> None:
    log = tmp_path / "strace.log"
    wrapper = tmp_path / "python"
    wrapper.write_text(
        f'#!/bin/sh\nexec strace -f -o {log} -e trace={call} -e inject={call}:error={errno}:when={number} {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)
    answers = _run(tmp_path, sys.executable, "-c", CASE, str(wrapper))
    injected = log.read_text().count("(INJECTED)")
    assert injected, f"{call} is called less than {number} times: the case tests nothing"
    for answer in answers:
        kind = answer.partition(":")[0]
        assert kind in ("ran inside", "SetupError", "MissingCapability")
        if kind != "ran inside":
            assert errno in answer or os.strerror(getattr(errno_module, errno)) in answer


@pytest.mark.parametrize("call,errno,number", ENTERING, ids=str)
def test_refused_step_of_entering_fails_closed(tmp_path: Path, call: str, errno: str, number: int) -> None:
    log = tmp_path / "strace.log"
    # Only the caller and what it forks: the builder, a separate program, is let go.
    command = ["strace", "-f", "-o", str(log), "-e", f"trace={call}", "-e", f"inject={call}:error={errno}:when={number}"]
    answers = _run(tmp_path, *command, sys.executable, "-c", CASE, "")
    assert "(INJECTED)" in log.read_text()
    assert {answer.partition(":")[0] for answer in answers} <= {"ran inside", "SetupError", "MissingCapability"}
