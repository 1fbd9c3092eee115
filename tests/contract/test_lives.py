"""Processes: what ends with what, and that nothing is left, whoever is killed. As root and as a user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.callers import Caller, caller
from tests.support.capabilities import requires

__all__ = ["caller"]


_AS_FD_3 = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True); os.execvp(sys.argv[2], sys.argv[2:])"


def test_background_processes_end_with_the_sandbox(caller: Caller) -> None:
    reaper = caller.reaper()
    left, alive = caller.run(
        """
with box() as opened:
    opened.run(["sh", "-c", "setsid sleep 1001 >/dev/null 2>&1 & sleep 1002 >/dev/null 2>&1 & sleep 0.3"])
    left = [str(info) for info in opened.processes()]
    opened.kill()
    until = time.monotonic() + 5
    while opened.alive() and time.monotonic() < until: time.sleep(0.01)
    tell([sorted(left), opened.processes() + [opened.alive()]])
""",
        begin=reaper.begin,
    )
    assert len(left) == 2
    assert left[0].startswith("sleep (pid ")
    assert left[0].endswith("sleep 1001")
    assert alive == [False]
    assert not reaper.left()


def test_killed_builder_ends_every_sandbox_and_pool_close_cleans_up(caller: Caller) -> None:
    reaper = caller.reaper()
    code, message, again = caller.run(
        """
with box() as opened:
    process = opened.popen(["sleep", "1003"])
    os.kill(POOL._builder.pid, signal.SIGKILL)
    code = process.wait(10)
    try:
        with box(): message = "built"
    except SandboxGone as error: message = str(error)
tell([code, message, inside("tell(1)")])
""",
        begin=reaper.begin,
    )
    assert code == -signal.SIGKILL
    assert "signal 9" in message
    assert again == 1
    assert not reaper.left()


def test_killed_caller_leaves_nothing(caller: Caller) -> None:
    reaper = caller.reaper()
    done = caller.process(
        """
with box() as opened:
    opened.popen(["sleep", "1004"])
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
""",
        begin=reaper.begin,
    )
    assert done.returncode == -signal.SIGKILL
    assert not reaper.left()


def test_killed_caller_with_killed_builder_is_swept_by_the_next_run(caller: Caller) -> None:
    killed, sweeping = caller.reaper(), caller.reaper()
    done = caller.process(
        """
with box() as opened:
    opened.popen(["sleep", "1005"])
    os.kill(POOL._builder.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
""",
        begin=killed.begin,
    )
    assert done.returncode == -signal.SIGKILL
    caller.run("tell(inside('tell(1)'))", begin=sweeping.begin)
    assert not killed.left() | sweeping.left()


def test_killed_init_ends_its_own_sandbox_only(caller: Caller) -> None:
    codes = caller.run(
        """
with box() as first, box() as second:
    one, two = first.popen(["sleep", "1006"]), second.popen(["sleep", "0.3"])
    if os.geteuid() == 0 or True: os.kill(first.init_pid, signal.SIGKILL)
    tell([one.wait(10), two.wait(10)])
"""
    )
    assert codes == [-signal.SIGKILL, 0]


def test_orphans_are_reaped_inside(caller: Caller) -> None:
    zombies = caller.run(
        '''
tell(inside("""
import time
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.wait()
time.sleep(0.2)
states = [open(f"/proc/{n}/stat").read().rpartition(")")[2].split()[0] for n in os.listdir("/proc") if n.isdigit()]
tell(states.count("Z"))
"""))'''
    )
    assert zombies == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_streams_exit_status_and_input_pass_through(caller: Caller, stream: str) -> None:
    number = {"stdout": 1, "stderr": 2}[stream]
    assert caller.run(
        f"""
with box() as opened:
    done = opened.run(["sh", "-c", "cat >&{number}; exit 7"], input=b"x" * 300000)
    tell([done.returncode, len(done.{stream})])
"""
    ) == [7, 300000]


def test_run_timeout_kills_the_program(caller: Caller) -> None:
    assert caller.run(
        """
with box() as opened:
    try: opened.run(["sleep", "1007"], timeout=0.2)
    except Exception as error: tell([type(error).__name__, opened.processes()])
"""
    ) == ["TimeoutExpired", []]


def test_missing_program_is_an_os_error_with_its_name(caller: Caller) -> None:
    assert (
        caller.run(
            """
with box() as opened:
    try: opened.run(["/no/such/program"])
    except FileNotFoundError as error: tell(error.filename)
"""
        )
        == "/no/such/program"
    )


def test_threaded_caller_with_many_fds_and_odd_tmpdir(caller: Caller) -> None:
    code = """
odd = os.path.join(os.getcwd(), "a:b,c\\\\d e")
os.mkdir(odd)
os.environ["TMPDIR"] = odd
stop = threading.Event()
threads = [threading.Thread(target=stop.wait) for _ in range(4)]
for thread in threads: thread.start()
fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(500)]
seen = inside("tell(len(os.listdir('/proc/self/fd')))")
stop.set()
for thread in threads: thread.join()
tell([seen, os.listdir(odd)])
POOL.close()
tell([seen, os.listdir(odd)])
"""
    seen, left = caller.run(code)
    assert seen < 20, "close-on-exec fds reached the program"
    assert left == []


def test_deleted_working_directory_stays_deleted(caller: Caller) -> None:
    assert (
        caller.run(
            """
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
with box() as opened:
    pid = opened.fork(print)
    if pid == 0:
        try: os.getcwd(); os._exit(1)
        except FileNotFoundError: os._exit(42)
    tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
        )
        == 42
    )


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "POSIX"}])
def test_locale_without_utf8(caller: Caller, locale: dict[str, str]) -> None:
    code = """
name = os.fsencode(os.getcwd()) + b"/caf\\xc3\\xa9"
os.mkdir(name)
tell(inside("open(os.path.join(os.fsencode(sys.argv[1]), b'x'), 'w').close(); tell(1)", os.fsdecode(name), writable=(os.fsdecode(name),)))
assert os.listdir(name) == [b"x"]
"""
    assert caller.run(code, env=locale) == 1


def test_hundred_sandboxes_at_once_and_constant_fds(caller: Caller) -> None:
    code = """
def fds(): return len(os.listdir("/proc/self/fd"))
with box(): before = fds()
for _ in range(30):
    with box() as opened: pass
after = fds()
boxes = [POOL.acquire(Spec()) for _ in range(100)]
processes = [opened.popen(["true"]) for opened in boxes]
codes = {process.wait() for process in processes}
for opened in boxes: opened.release()
tell([after - before, list(codes), fds() - before])
"""
    # `with box()` counted its own pidfd in `before`.
    assert caller.run(code) == [-1, [0], -1]


@requires("root")
def test_idle_sandbox_costs_less_than_a_megabyte() -> None:
    from pytest_isolate.sandbox import Sandbox

    with Sandbox() as box:
        time.sleep(0.2)
        lines = Path(f"/proc/{box.init_pid}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    assert private < 1024


@requires("qemu-aarch64")
def test_init_program_of_the_other_architecture_runs_in_an_emulator() -> None:
    """The aarch64 code, under qemu-user: it stays while the builder lives and ends with it."""
    from pytest_isolate.sandbox.init import program

    image = os.memfd_create("init", 0)
    os.write(image, program("aarch64") or b"")
    builder = subprocess.Popen(["sleep", "0.5"])
    pidfd = os.pidfd_open(builder.pid)
    os.set_inheritable(image, True)
    started = time.monotonic()
    init = subprocess.Popen(
        [sys.executable, "-c", _AS_FD_3, str(pidfd), "qemu-aarch64-static", f"/proc/self/fd/{image}"], pass_fds=(pidfd, image)
    )
    assert init.wait(20) == 0
    assert time.monotonic() - started > 0.3
    builder.wait()
    os.close(pidfd)
    os.close(image)
