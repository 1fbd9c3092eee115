"""Ends of a test that plain pytest would not survive: each is one failed phase, and the next test runs."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.capabilities import requires
from tests.support.isolated_runs import EVERY_WAY, Run, run

PHASES = ("setup", "call", "teardown")

IN_PHASES = """
import ctypes, os, pytest, signal, sys, time

def die(way):
    {ways}

@pytest.fixture(params=["setup", "call", "teardown"])
def phase(request):
    return request.param

@pytest.fixture(params={names})
def way(request):
    return request.param

@pytest.fixture
def fixture(phase, way):
    if phase == "setup":
        die(way)
    yield
    if phase == "teardown":
        die(way)

@pytest.mark.isolate
def test_dies(fixture, phase, way):
    if phase == "call":
        die(way)

@pytest.mark.isolate
def test_next():
    pass
"""


def in_phases(**ways: str) -> str:
    body = "\n    ".join(f"if way == {name!r}: {code}" for name, code in ways.items())
    return IN_PHASES.format(ways=body, names=list(ways))


def names_of(way: str) -> dict[str, str]:
    return {phase: f"test_dies[{phase}-{way}]" for phase in PHASES}


def assert_only_that_phase_failed(done: Run, way: str) -> None:
    for phase, name in names_of(way).items():
        expected = {(name, phase)}
        assert {pair for pair in done.failed() if pair[0] == name} == expected, done.output


@EVERY_WAY
def test_signal_in_any_phase_fails_that_phase_with_name_and_stack(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(
        in_phases(
            segv="ctypes.string_at(0)",
            abort="os.abort()",
            kill="os.kill(os.getpid(), signal.SIGKILL)",
            term="os.kill(os.getpid(), signal.SIGTERM)",
        )
    )
    done = run(pytester, monkeypatch, how=how)
    for way, number in (("segv", 11), ("abort", 6), ("kill", 9), ("term", 15)):
        assert_only_that_phase_failed(done, way)
        for phase, name in names_of(way).items():
            report = done.of(name, phase)
            assert report.text.startswith(f"signal {signal.Signals(number).name} in {phase}")
            assert done.problems(name) == [("SIGNAL", True)]
            if way in ("segv", "abort"):
                assert "test_signal_in_any_phase_fails_that_phase_with_name_and_stack.py" in report.text
                assert " in die" in report.text
                assert "/_pytest/" not in report.text
    assert done.of("test_next", "call").outcome == "passed"
    assert "Fatal Python error" not in done.result.stderr.str()


@EVERY_WAY
def test_os_exit_in_any_phase_fails_that_phase_with_its_code(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(in_phases(zero="os._exit(0)", three="os._exit(3)", libc="ctypes.CDLL(None).exit(7)"))
    done = run(pytester, monkeypatch, how=how)
    for way, code in (("zero", 0), ("three", 3), ("libc", 7)):
        assert_only_that_phase_failed(done, way)
        for phase, name in names_of(way).items():
            assert done.of(name, phase).first_line.startswith(f"exit status {code} in {phase}: ")
            assert done.problems(name) == [("EXIT", True)]
    assert done.of("test_next", "call").outcome == "passed"


def test_stack_overflow_in_c_is_named_and_its_stack_is_short(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import ctypes, pytest, resource, sys

        CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int)

        def deeper():
            return again()

        again = CALLBACK(deeper)

        @pytest.mark.isolate
        def test_overflow():
            # Python >= 3.12 counts calls through C and raises in time, on a stack of the usual size.
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 19, resource.getrlimit(resource.RLIMIT_STACK)[1]))
            sys.setrecursionlimit(10**8)
            deeper()

        @pytest.mark.isolate
        def test_next():
            pass
        """
    )
    done = run(pytester, monkeypatch)
    report = done.of("test_overflow", "call")
    assert "recursion without end" in report.first_line
    assert len(report.text.splitlines()) < 20
    assert done.of("test_next", "call").outcome == "passed"


@requires("cgroup-memory")
@EVERY_WAY
def test_out_of_memory_names_figures_and_process(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pytester.makepyfile(
        """
        import os, pytest, subprocess, sys

        pytestmark = pytest.mark.isolate(memory="64MiB")

        def fill():
            kept = []
            while True:
                kept.append(bytearray(1 << 20))

        HOG = [sys.executable, "-c", "kept = []\\nwhile True: kept.append(bytearray(1 << 20))"]

        def test_itself():
            fill()

        def test_grandchild_checked():
            subprocess.run(HOG, check=True)

        def test_grandchild_ignored():
            subprocess.run(HOG)

        @pytest.fixture
        def late():
            yield
            fill()

        def test_teardown(late):
            pass

        def test_next():
            bytearray(16 << 20)
        """
    )
    done = run(pytester, monkeypatch, how=how)
    assert done.failed() == {("test_itself", "call"), ("test_grandchild_checked", "call"), ("test_teardown", "teardown")}
    for name, phase in (("test_itself", "call"), ("test_teardown", "teardown")):
        line = done.of(name, phase).first_line
        assert line.startswith("OOM: used 64.0 of 64 MiB, killed ")
        assert line.endswith("(the test process)") or "1 process" in line  # unprivileged: /dev/kmsg may be closed
        assert done.problems(name) == [("OOM", True)]
    checked = done.of("test_grandchild_checked", "call")
    assert "CalledProcessError" in checked.longrepr
    assert checked.section("isolate: out of memory").startswith("OOM: used 64.0 of 64 MiB, killed ")
    assert done.problems("test_grandchild_ignored") == [("OOM", False)]
    assert done.of("test_next", "call").outcome == "passed"


@EVERY_WAY
def test_timeout_in_any_phase_shows_the_stack_and_ends_everything_inside(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    mark = f"98765.{os.getpid()}"
    source = in_phases(sleep="subprocess.Popen(['sleep', MARK]); time.sleep(60)")
    source = source.replace("import ctypes", f"MARK = {mark!r}\nimport subprocess, ctypes")
    pytester.makepyfile(
        source.replace("@pytest.mark.isolate\ndef test_dies", '@pytest.mark.isolate(timeout="700ms")\ndef test_dies')
    )
    done = run(pytester, monkeypatch, how=how)
    assert_only_that_phase_failed(done, "sleep")
    for phase, name in names_of("sleep").items():
        report = done.of(name, phase)
        assert report.first_line == f"timeout of 700 ms in {phase}"
        assert " in die\n" in report.text
        assert "time.sleep(60)" in report.text
        assert f"sleep {mark}" in report.text
        assert done.problems(name) == [("TIMEOUT", True)]
    assert done.of("test_next", "call").outcome == "passed"
    assert not running(mark)


def test_timeout_ends_a_test_that_answers_no_signal(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import os, pytest, signal, time

        pytestmark = pytest.mark.isolate(timeout=0.5)

        def test_blocks_signals():
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(60)

        def test_stops():
            os.kill(os.getpid(), signal.SIGSTOP)

        def test_next():
            pass
        """
    )
    done = run(pytester, monkeypatch)
    for name in ("test_blocks_signals", "test_stops"):
        report = done.of(name, "call")
        assert report.first_line == "timeout of 500 ms in call"
        assert "no Python stack" in report.text
    assert done.of("test_next", "call").outcome == "passed"


@requires("cgroup-pids")
def test_pids_cap_hit_is_told_in_the_failing_report(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import pytest, subprocess

        @pytest.mark.isolate(pids=8)
        def test_forks():
            for _ in range(20):
                subprocess.Popen(["sleep", "60"])

        @pytest.mark.isolate(pids=8)
        def test_forks_and_copes():
            try:
                for _ in range(20):
                    subprocess.Popen(["sleep", "60"])
            except BlockingIOError:
                pass

        @pytest.mark.isolate(pids=8)
        def test_next():
            subprocess.run(["true"], check=True)
        """
    )
    done = run(pytester, monkeypatch)
    assert done.failed() == {("test_forks", "call")}
    report = done.of("test_forks", "call")
    assert "BlockingIOError" in report.text
    assert report.section("isolate: pids cap").startswith("pids cap of 8 hit ")
    assert ("PIDS", True) in done.problems("test_forks")
    assert ("PIDS", False) in done.problems("test_forks_and_copes")
    assert done.problems("test_next") == []


def test_full_disk_is_told_in_the_failing_report(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.isolate(disk="4MiB")
        def test_writes():
            with open("/var/tmp/big", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))

        @pytest.mark.isolate(disk="4MiB")
        def test_next():
            with open("/var/tmp/small", "wb") as file:
                file.write(bytes(1 << 20))
        """
    )
    done = run(pytester, monkeypatch)
    assert done.failed() == {("test_writes", "call")}
    report = done.of("test_writes", "call")
    assert "No space left on device" in report.text
    assert report.section("isolate: disk full").startswith("disk full: 4.0 of 4 MiB written")
    assert done.problems("test_writes") == [("DISK", True)]
    assert done.of("test_next", "call").outcome == "passed"


@requires("loop-device")
def test_full_disk_with_a_cap_is_told_as_a_full_tmpfs_is(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.isolate(disk="4MiB", upper="disk")
        def test_fills():
            with open("/var/filled", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

        @pytest.mark.isolate(disk="4MiB", upper="disk")
        def test_writes_more_at_once_than_there_is_room():
            with open("/var/filled", "wb", buffering=0) as file:
                file.write(bytes(3 << 20))
                while True:
                    file.write(bytes(1 << 20))

        @pytest.mark.isolate(disk="4MiB", upper="disk")
        def test_fits():
            with open("/var/filled", "wb") as file:
                file.write(bytes(4 << 20))
    """)
    done = run(pytester, monkeypatch, f"--isolate-store={pytester.path}/store")
    assert done.of("test_fills", "call").section("isolate: disk full").startswith("disk full: 4.")
    assert "of 4 MiB written, further writes were refused (ENOSPC)" in done.of("test_fills", "call").section("isolate: disk full")
    told = done.of("test_writes_more_at_once_than_there_is_room", "call").section("isolate: disk full")
    assert "ENOSPC" in told
    assert done.failed() == {("test_fills", "call"), ("test_writes_more_at_once_than_there_is_room", "call")}


@requires("root", "unprivileged-user", "userns")
def test_cap_of_a_disk_is_what_a_user_lacks(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate(disk="4MiB", upper="disk")
        def test_it():
            open("/var/tmp/x", "w").close()
    """)
    done = run(pytester, monkeypatch, how="user")
    assert 'disk needs loop-device: a cap on upper="disk" is a file system of that size' in done.of("test_it", "setup").longrepr
    run(pytester, monkeypatch, "--isolate-missing=weaken", how="user").result.assert_outcomes(passed=1)


def test_full_disk_is_told_after_the_test_cleaned_up(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import pytest, tempfile

        @pytest.mark.isolate(disk="4MiB")
        def test_writes():
            with tempfile.TemporaryFile(dir="/var/tmp", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
        """
    )
    done = run(pytester, monkeypatch)
    assert "the sandbox's disk holds 4.0 MiB" in done.of("test_writes", "call").section("isolate: disk full")


def test_closed_descriptors_and_faulthandler_off_are_coped_with(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import os, pytest

        pytestmark = pytest.mark.isolate

        def test_closes():
            os.closerange(3, 1000)

        def test_aborts():
            os.abort()

        def test_next():
            pass
        """
    )
    done = run(pytester, monkeypatch, "-p", "no:faulthandler")
    assert done.failed() == {("test_closes", "call"), ("test_aborts", "call")}
    assert "close descriptors" in done.of("test_closes", "call").first_line
    assert " in test_aborts" in done.of("test_aborts", "call").text
    assert done.of("test_next", "call").outcome == "passed"


def test_crash_is_placed_at_the_test_and_not_in_the_plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        test_it="""
        import os, pytest

        @pytest.mark.isolate
        def test_aborts():
            os.abort()
        """
    )
    done = run(pytester, monkeypatch, "--tb=line")
    done.result.stdout.fnmatch_lines(["*/test_it.py:3: Failed: signal SIGABRT in call*"])
    assert "traceback entries are hidden" not in done.output


@EVERY_WAY
def test_processes_left_behind_are_named_and_ended(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    mark = f"87654.{os.getpid()}"
    pytester.makepyfile(
        f"""
        import os, pytest, subprocess, time

        def leave():
            subprocess.Popen(["sleep", "{mark}"])

        def leave_daemon():
            executed, mine = os.pipe()  # close-on-exec
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execvp("sleep", ["sleep", "{mark}"])
                os._exit(0)
            os.wait()
            os.close(mine)
            os.read(executed, 1)

        @pytest.mark.isolate
        def test_reported():
            leave()

        @pytest.mark.isolate(leak="fail")
        def test_fails():
            leave()

        @pytest.mark.isolate(leak="fail")
        def test_daemon():
            leave_daemon()

        @pytest.mark.isolate(leak="fail")
        def test_fails_already():
            leave()
            assert 0

        @pytest.mark.isolate(leak="fail")
        def test_next():
            child = subprocess.Popen(["sleep", "{mark}"])
            child.kill()
            child.wait()
        """
    )
    done = run(pytester, monkeypatch, how=how)
    assert done.failed() == {
        ("test_fails", "teardown"),
        ("test_daemon", "teardown"),
        ("test_fails_already", "call"),
        ("test_fails_already", "teardown"),
    }
    assert done.problems("test_reported") == [("LEAK", False)]
    for name in ("test_fails", "test_daemon", "test_fails_already"):
        report = done.of(name, "teardown")
        assert report.first_line.startswith("1 process left behind: sleep (pid ")
        assert f"sleep {mark}" in report.text
        assert done.problems(name) == [("LEAK", True)]
        assert done.of(name, "teardown").properties["isolate.leaked_processes"] == 1
    assert done.problems("test_next") == []
    assert not running(mark)


def test_xfail_and_crash_keep_their_own_meaning(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash is a failure that `xfail` expects, as pytest-forked has it; a strict one is satisfied by it."""
    pytester.makepyfile(
        """
        import os, pytest

        @pytest.mark.isolate
        @pytest.mark.xfail(strict=True, reason="it does")
        def test_crash():
            os.abort()
        """
    )
    run(pytester, monkeypatch).result.assert_outcomes(xfailed=1)


def test_builder_killed_under_a_test_is_named_and_the_next_test_runs(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import os, pathlib, pytest, signal, threading, time

        @pytest.fixture(scope="session")
        def killer(tmp_path_factory):
            go = tmp_path_factory.mktemp("killer") / "go"
            def work():
                while not go.exists():
                    time.sleep(0.01)
                for task in os.listdir("/proc/self/task"):
                    for pid in open(f"/proc/self/task/{task}/children").read().split():
                        if "builder" in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
                            os.kill(int(pid), signal.SIGKILL)
            threading.Thread(target=work, daemon=True).start()
            return go

        @pytest.mark.isolate
        def test_gone(killer):
            killer.touch()
            time.sleep(30)

        @pytest.mark.isolate
        def test_next():
            pass
        """
    )
    done = run(pytester, monkeypatch)
    assert done.failed() == {("test_gone", "call")}, done.output
    assert done.of("test_gone", "call").first_line.startswith("sandbox gone in call: ")
    assert done.problems("test_gone") == [("GONE", True)]
    assert done.of("test_next", "call").outcome == "passed"


def test_fault_timeout_of_pytest_dumps_the_test_and_not_the_waiting_parent(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]\nfaulthandler_timeout = 0.3")
    pytester.makepyfile(
        """
        import pytest, time

        @pytest.mark.isolate
        def test_slow_failure():
            time.sleep(1)
            assert 0

        @pytest.mark.isolate
        def test_next():
            pass
        """
    )
    done = run(pytester, monkeypatch)
    assert done.failed() == {("test_slow_failure", "call")}
    assert "in test_slow_failure" in done.result.stderr.str()
    assert done.result.stderr.str().count("Timeout (") == 1
    assert done.of("test_next", "call").outcome == "passed"


def running(mark: str) -> list[str]:
    """Commands of processes that have `mark` among their arguments."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
        except OSError:
            continue
        if mark.encode() in arguments:
            found.append(b" ".join(arguments).decode())
    return found


KILLED_FIRST = """
import os, signal
from pytest_isolate.sandbox import Sandbox

entered = Sandbox.fork

def fork(self, failed):
    Sandbox.fork = entered
    os.kill(self.init_pid, signal.SIGKILL)
    assert self.ended(5)
    return entered(self, failed)

Sandbox.fork = fork
"""


def test_sandbox_that_ends_before_it_is_entered_fails_that_test_alone(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(KILLED_FIRST)  # the moment between finding it alive and entering it is too short to be met
    pytester.makepyfile("def test_first(): pass\ndef test_second(): pass\n")
    found = run(pytester, monkeypatch, "--isolate-all")
    found.result.assert_outcomes(errors=1, passed=1)
    assert "the sandbox ended before it was entered" in found.of("test_first", "setup").longrepr
