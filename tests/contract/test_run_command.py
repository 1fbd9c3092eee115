"""`python -m pytest_isolate run`, as root and as an unprivileged user."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.support.callers import ROOT, Caller, caller
from tests.support.capabilities import requires

__all__ = ["caller"]

RUN = ("-m", "pytest_isolate", "run")


def test_output_input_and_exit_status_pass_through(caller: Caller) -> None:
    done = caller.python(*RUN, "--", "sh", "-c", "cat; echo err >&2; exit 5", stdin="hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (5, "hello\n", "err\n")


def test_signal_becomes_128_plus_its_number(caller: Caller) -> None:
    assert caller.python(*RUN, "--", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM


def test_every_key_reaches_the_sandbox(caller: Caller) -> None:
    (caller.directory / "out").mkdir()
    (caller.directory / "secret").write_text("s")
    if not caller.is_root:
        os.chmod(caller.directory / "out", 0o777)
    keys = ["--cpu=50%", "--memory=64MiB", "--swap=0", "--pids=20", "--disk=1MiB", "--net=none", "--timeout=20s", "--rootfs=host"]
    more = ["--writable=out", "--hide=secret", "--env=GREETING=hi", "--hostname=box", "--user=self", "--leak=report"]
    script = "hostname; echo $GREETING; cat secret; touch out/made; ls /sys/class/net"
    cgroup = [f"--cgroup={caller.cgroup}"] if caller.cgroup else []
    done = caller.python(*RUN, *keys, *more, *cgroup, "--", "sh", "-c", script)
    assert done.stderr == ""
    assert done.stdout.split() == ["box", "hi", "lo"]
    assert (caller.directory / "out" / "made").exists()


@requires("cgroup-memory")
def test_usage_goes_to_standard_error(caller: Caller) -> None:
    cgroup = [f"--cgroup={caller.cgroup}"] if caller.cgroup else []
    done = caller.python(*RUN, "--usage", *cgroup, "--", "true")
    figures = dict(line.split() for line in done.stderr.splitlines())
    assert done.stdout == ""
    assert float(figures["isolate.wall_seconds"]) > 0
    assert int(figures["isolate.memory_peak_bytes"]) > 0
    assert int(figures["isolate.leaked_processes"]) == 0


def test_timeout_kills_everything_with_124(caller: Caller) -> None:
    done = caller.python(*RUN, "--timeout=300ms", "--", "sh", "-c", "setsid sleep 100 & sleep 100")
    assert done.returncode == 124
    assert "300 ms" in done.stderr


def test_leftovers_are_named_and_fail_with_leak_fail(caller: Caller) -> None:
    script = "setsid sleep 1010 >/dev/null 2>&1 & sleep 0.3"
    done = caller.python(*RUN, "--leak=fail", "--", "sh", "-c", script)
    assert done.returncode == 1
    assert "left behind: sleep (pid " in done.stderr
    assert caller.python(*RUN, "--", "sh", "-c", script).returncode == 0


@pytest.mark.parametrize(
    "option,named",
    [
        ("--memory=64megs", "megs"),
        ("--pids=0", "pids"),
        ("--net=bridged", "none, host, container:NAME"),
        ("--writable=/", "writable"),
        ("--env=NOVALUE", "NAME=VALUE"),
    ],
)
def test_bad_value_names_key_and_accepted_form(caller: Caller, option: str, named: str) -> None:
    done = caller.python(*RUN, option, "--", "true")
    assert done.returncode == 2
    assert named in done.stderr
    assert "accepted:" in done.stderr


@pytest.mark.parametrize("program,status", [("/no/such/program", 127), ("/etc/passwd", 126)])
def test_program_that_cannot_start_is_named(caller: Caller, program: str, status: int) -> None:
    done = caller.python(*RUN, "--", program)
    assert done.returncode == status
    assert program in done.stderr


@requires("root")
def test_termination_is_forwarded_and_nothing_remains() -> None:
    process = subprocess.Popen(
        [sys.executable, *RUN, "--", "sh", "-c", "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == "got it\n"
    assert process.wait(10) == 3
    process.stdout.close()


@requires("root")
def test_interactive_shell_has_job_control_on_the_terminal() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, *RUN, "--", "sh", "-i"])
    seen = b""
    os.write(terminal, b"echo in-$((40+2)); sleep 100\n")
    deadline = time.monotonic() + 15
    while b"in-42" not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096)
    assert b"in-42" in seen
    time.sleep(0.3)
    os.write(terminal, b"\x03")  # Ctrl-C ends the sleep, not the shell
    os.write(terminal, b"exit 6\n")
    _pid, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 6


def test_bridge_says_where_it_is_and_where_its_ports_are(caller: Caller) -> None:
    script = "import socket; print([name for _, name in socket.if_nameindex()], socket.gethostbyname('box'))"
    done = caller.python(
        *RUN, "--net=bridge,internal", "--hostname=box", "--publish=8080", "--publish=:53/udp", "--", sys.executable if caller.is_root else "python3", "-c", script
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    where, tcp, udp = done.stderr.splitlines()
    address = re.fullmatch(r"pytest-isolate: (\S+) on network bridge", where)
    assert address is not None
    assert done.stdout == f"['lo', 'eth0'] {address[1]}\n"
    assert re.fullmatch(r"pytest-isolate: published 127\.0\.0\.1:\d+ -> 8080/tcp", tcp)
    assert re.fullmatch(r"pytest-isolate: published 127\.0\.0\.1:\d+ -> 53/udp", udp)
