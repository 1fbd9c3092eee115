"""Programs with their output in files, and the ports that they listen on, as root and as an unprivileged user."""

from __future__ import annotations

from tests.support.callers import Caller, caller

__all__ = ["caller"]

PRELUDE = """
from pytest_isolate.sandbox.logged import Logged
from pytest_isolate.sandbox.ports import listens

def python(opened, code, **how):
    return Logged(opened, [PYTHON, "-I", "-S", "-c", code], **how)

def eventually(true):
    deadline = time.monotonic() + 10
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found
"""


def test_output_is_read_while_the_program_runs_and_after_it(caller: Caller) -> None:
    running, text, ended, tail = caller.run(
        PRELUDE
        + """
with box() as opened:
    program = python(opened, "import os, sys; os.write(1, b'out'); os.write(2, b'err'); sys.stdin.read(); os.write(1, b'end')")
    code = "import os, time; os.write(1, b'first'); time.sleep(0.3); os.write(2, b'second')"
    slow = python(opened, code)
    running = eventually(lambda: slow.output() == b"first" and slow.process.poll() is None)
    slow.reaped(10)
    program.reaped(10)
    tell([running, slow.output().decode(), str(slow), program.tail(6).decode()])
"""
    )
    assert running
    assert text == "firstsecond"
    assert ended.endswith(": exit status 0")
    assert tail == "errend"


def test_streams_are_apart_where_they_are_not_joined_and_input_is_read(caller: Caller) -> None:
    out, err, code = caller.run(
        PRELUDE
        + """
with box() as opened:
    program = python(opened, "import os, sys; os.write(1, sys.stdin.buffer.read()); os.write(2, b'err'); sys.exit(3)", data=b"in" * 100000, joined=False)
    program.reaped(10)
    tell([len(program.output()), program.errors().decode(), program.process.returncode])
"""
    )
    assert (out, err, code) == (200000, "err", 3)


def test_program_that_opens_its_standard_output_anew_appends_to_the_log(caller: Caller) -> None:
    text = caller.run(
        PRELUDE
        + """
with box() as opened:
    program = Logged(opened, ["sh", "-c", "echo first; echo second >> /dev/stdout; echo third"])
    program.reaped(10)
    tell(program.output().decode())
"""
    )
    assert text == "first\nsecond\nthird\n"


def test_log_is_not_charged_to_the_memory_of_the_sandbox(caller: Caller) -> None:
    size, ended = caller.run(
        PRELUDE
        + """
with box(memory=32 << 20) as opened:
    program = python(opened, "import os\\nfor _ in range(96): os.write(1, b'x' * (1 << 20))")
    program.reaped(60)
    tell([len(program.output()), str(program)])
"""
    )
    assert size == 96 << 20
    assert ended.endswith("exit status 0")


def test_signal_that_ended_a_program_is_named(caller: Caller) -> None:
    text = caller.run(
        PRELUDE
        + """
with box() as opened:
    program = Logged(opened, ["sleep", "100"])
    program.kill(10)
    tell(str(program))
"""
    )
    assert text == "sleep 100: ended by SIGKILL"


def test_ports_are_seen_when_something_listens_and_no_sooner(caller: Caller) -> None:
    seen = caller.run(
        PRELUDE
        + """
code = '''
import socket, sys
tcp, six, udp = socket.socket(), socket.socket(socket.AF_INET6), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
tcp.bind(("127.0.0.1", 7001)); six.bind(("::1", 7002)); udp.bind(("0.0.0.0", 7003))
sys.stdin.readline(); tcp.listen(); six.listen(); print("up", flush=True); sys.stdin.readline()
'''
PORTS = [(7001, "tcp"), (7002, "tcp"), (7003, "udp"), (7001, "udp"), (7003, "tcp")]
def look(): return [listens(opened.init_pid, *port) for port in PORTS]
with box() as opened:
    seen = [look()]
    program = opened.popen([PYTHON, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    eventually(lambda: listens(opened.init_pid, 7003, "udp"))
    seen.append(look())
    program.stdin.write(b"\\n")
    program.stdout.readline()
    seen.append(look())
    program.stdin.close()
    program.wait()
    seen.append(look())
    init = opened.init_pid
seen.append([listens(init, *PORTS[0])])
tell(seen)
"""
    )
    none = [False] * 5
    assert seen == [none, [False, False, True, False, False], [True, True, True, False, False], none, [False]]
