"""`isolate_factory`: its sandboxes work alike in fixtures, plain tests and isolated ones; what goes wrong is told."""

from __future__ import annotations

import time

import pytest

from tests.support.capabilities import requires
from tests.support.isolated_runs import EVERY_WAY, run

FIXTURES = """
import os, signal, subprocess, sys, threading, time
import pytest
from pytest_isolate.model.errors import IsolateError, NotListening, SandboxGone, SpecError

PYTHON = sys.executable
SERVER = "import socket, time; s = socket.create_server(('127.0.0.1', 7000)); print('listening', flush=True); time.sleep(600)"

both = pytest.mark.parametrize("where", [pytest.param("inside", marks=pytest.mark.isolate), "outside"])

@pytest.fixture(scope="module")
def db(isolate_factory):
    return isolate_factory("db", hostname="database")

@pytest.fixture
def box(isolate_factory):
    return isolate_factory()

def python(code):
    return [PYTHON, "-I", "-S", "-c", code]

def eventually(true):
    deadline = time.monotonic() + 10
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found
"""

SUITE = (
    FIXTURES
    + """
@both
def test_run(where, db):
    done = db.run(["sh", "-c", "hostname; echo err >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr) == (3, b"database\\n", b"err\\n")
    assert done.args == ["sh", "-c", "hostname; echo err >&2; exit 3"]
    assert db.run(["cat"], input=b"\\0\\xff" * 500_000).stdout == b"\\0\\xff" * 500_000
    assert db.run(["pwd"], cwd="/usr").stdout == b"/usr\\n"
    assert db.run([b"printf", b"%s", b"\\xff"]).stdout == b"\\xff"
    with pytest.raises(subprocess.TimeoutExpired) as timed_out:
        db.run(["sh", "-c", "echo begun; exec sleep 60"], timeout=0.5)
    assert timed_out.value.output == b"begun\\n"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        db.run(["sh", "-c", "echo out; exit 4"], check=True)
    assert (failed.value.returncode, failed.value.output) == (4, b"out\\n")
    with pytest.raises(FileNotFoundError) as missing:
        db.run(["no-such-program"])
    assert missing.value.filename == "no-such-program"
    with pytest.raises(TypeError, match="are a list"):
        db.run("true")

@both
def test_popen_and_logs(where, box):
    program = box.popen(["sh", "-c", "echo one; echo two >&2; read line; echo $line; exec sleep 60"], input=b"three\\n")
    assert eventually(lambda: program.logs() == "one\\ntwo\\nthree\\n")
    assert program.poll() is None and program.returncode is None
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(timeout=0.05)
    other = box.popen(["echo", "other"])
    assert other.wait(timeout=10) == 0 == other.returncode
    assert box.logs() == "one\\ntwo\\nthree\\nother\\n"
    program.terminate()
    assert program.wait() == -signal.SIGTERM
    os.kill(os.getpid(), 0)

@both
def test_wait_for_port(where, box):
    with pytest.raises(NotListening, match=r"nothing listens on port 7000/tcp of sandbox 'box\\d+' after 0.1 s: no program"):
        box.wait_for_port(7000, timeout=0.1)
    box.popen(python("print('about to'); " + SERVER))
    box.wait_for_port(7000, timeout=20)
    begun = time.monotonic()
    box.popen(["sh", "-c", "echo oops; exit 4"])
    with pytest.raises(NotListening, match=r"(?s)port 7001/udp.*, and nothing will: sh -c echo oops; exit 4: exit status 4.*    oops"):
        box.wait_for_port(7001, timeout=60, protocol="udp")
    assert time.monotonic() - begun < 30

@both
def test_pause_and_resume(where, box):
    box.popen(python("import time\\nwhile True: print('.', flush=True); time.sleep(0.005)"))
    for _ in range(2):
        assert eventually(box.logs)
        box.pause()
        box.pause()
        size = len(box.logs())
        time.sleep(0.2)
        assert len(box.logs()) == size
        with pytest.raises(IsolateError, match="is paused"):
            box.run(["true"])
        box.resume()
        assert eventually(lambda: len(box.logs()) > size)
    box.resume()

@both
def test_kill(where, isolate_factory):
    first = isolate_factory("again")
    program = first.popen(["sh", "-c", "echo said; exec sleep 60"])
    assert eventually(first.logs)
    used = first.usage()
    first.kill()
    assert program.poll() == -signal.SIGKILL
    assert first.logs() == "said\\n"
    assert first.usage().to_json().keys() >= used.to_json().keys() - {"memory_peak_bytes"}
    with pytest.raises(SandboxGone, match=r"sandbox 'again' has ended: killed by kill\\(\\) at test_suite.py:\\d+"):
        first.run(["true"])
    second = isolate_factory("again")
    assert second.run(["true"]).returncode == 0

@both
def test_usage(where, db):
    before = db.usage().cpu_seconds or 0.0
    db.run(python("sum(range(10**6))"))
    assert (db.usage().cpu_seconds or 1.0) > before

@both
def test_threads(where, box):
    begun = time.monotonic()
    codes = []
    threads = [threading.Thread(target=lambda: codes.append(box.run(["sleep", "1"]).returncode)) for _ in range(6)]
    for thread in threads: thread.start()
    assert box.run(["true"]).returncode == 0
    for thread in threads: thread.join(30)
    assert codes == [0] * 6
    assert time.monotonic() - begun < 5

@both
def test_values_reach_both_sides(where, db):
    assert db.name == "db" and db.spec.hostname == "database" and db.ip is None
    with pytest.raises(LookupError, match="isn't published"):
        db.port(80)

@both
def test_net_container(where, isolate_factory):
    server = isolate_factory("server")
    server.popen(python(SERVER))
    server.wait_for_port(7000)
    client = isolate_factory("client", net="container:server")
    assert client.run(python("import socket; socket.create_connection(('127.0.0.1', 7000))")).returncode == 0

@both
def test_errors(where, isolate_factory, db, request):
    here = r"isolate_factory at test_suite.py:\\d+: "
    with pytest.raises(SpecError, match=here + "memroy: no such key"):
        isolate_factory(memroy="1MiB")
    with pytest.raises(SpecError, match=here + "memory: unknown unit"):
        isolate_factory(memory="64m")
    with pytest.raises(SpecError, match=here + "disk.memory: disk"):
        isolate_factory(memory="64MiB", disk="1GiB")
    with pytest.raises(SpecError, match=here + "timeout: it says how a test runs"):
        isolate_factory(timeout="5s")
    with pytest.raises(SpecError, match=here + "profile: no profile 'none'"):
        isolate_factory(profile="none")
    with pytest.raises(SpecError, match=here + "name: 'a b' is not a sandbox's name"):
        isolate_factory("a b")
    with pytest.raises(SpecError, match=here + r"name: there is a sandbox 'db' already.*\\(of module fixture 'db' made the other one\\)"):
        isolate_factory("db")
    with pytest.raises(IsolateError, match='net="container:nobody": no sandbox of the run has that name'):
        isolate_factory(net="container:nobody")
    with pytest.raises(IsolateError, match="no bridge network"):
        db.partition(isolate_factory("other"))
    with pytest.raises(ValueError, match="itself"):
        db.partition(db)
    with pytest.raises(TypeError):
        db.partition("db")
"""
)


@EVERY_WAY
def test_handles_do_the_same_inside_and_outside(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pytester.makepyfile(test_suite=SUITE)
    run(pytester, monkeypatch, how=how).result.assert_outcomes(passed=20)


def test_profile_of_the_project_is_taken_without_what_is_about_tests(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyprojecttoml('[tool.pytest-isolate.profiles.small]\npids = 7\nhostname = "small"\ntimeout = "1s"\n')
    pytester.makepyfile("""
        def test(isolate_factory):
            box = isolate_factory(profile="small", hostname="other")
            assert (box.spec.pids, box.spec.hostname, box.spec.timeout) == (7, "other", None)
    """)
    run(pytester, monkeypatch).result.assert_outcomes(passed=1)


def test_run_without_isolated_tests_has_sandboxes_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(FIXTURES + "\ndef test_it(db): assert db.run(['hostname']).stdout == b'database\\n'")
    run(pytester, monkeypatch).result.assert_outcomes(passed=1)


def test_no_isolate_skips_what_needs_sandboxes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(FIXTURES + "\n@both\ndef test_it(where, db): pass\ndef test_other(): pass")
    seen = run(pytester, monkeypatch, "--no-isolate", "-rs")
    seen.result.assert_outcomes(skipped=2, passed=1)
    assert "isolate_factory makes no sandboxes with --no-isolate" in seen.output


@EVERY_WAY
def test_failing_tests_show_the_sandboxes_that_they_used(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
@pytest.fixture(scope="module")
def unused(isolate_factory):
    return isolate_factory("unused")

def test_before(unused): pass

@both
def test_fails(where, db, box, isolate_factory):
    db.popen(["sh", "-c", "for i in $(seq 100); do echo line $i; done"]).wait()
    db.popen(["sh", "-c", "kill -9 $$"]).wait()
    isolate_factory("own").kill()
    assert 0

@pytest.fixture
def bad_end(isolate_factory):
    own = isolate_factory("late")
    own.popen(["echo", "last words"]).wait()
    yield
    raise ValueError

@both
def test_teardown(where, bad_end): pass
"""
    )
    seen = run(pytester, monkeypatch, how=how)
    for where in ("inside", "outside"):
        text = seen.of(f"test_fails[{where}]", "call").section("isolate: sandboxes of isolate_factory")
        assert "sandbox 'db' (of module fixture 'db'): runs" in text
        assert "seq 100); do echo line $i; done: exit status 0" in text
        assert "sh -c kill -9 $$: ended by SIGKILL" in text
        assert "    line 100" in text
        assert "    line 99" in text
        assert "    line 50\n" not in text
        assert "(of function fixture 'box'): runs" in text
        assert (
            f"sandbox 'own' (of test_failing_tests_show_the_sandboxes_that_they_used.py::test_fails[{where}]): ended: killed by"
            in text
        )
        assert "unused" not in text
        late = seen.of(f"test_teardown[{where}]", "teardown").section("isolate: sandboxes of isolate_factory")
        assert (
            "sandbox 'late' (of function fixture 'bad_end'): ended: it was of function fixture 'bad_end', which is over" in late
        )
        assert "    last words" in late
    assert not any("fixtures set up outside" in title for report in seen for title, _ in report.sections)


def test_handle_that_outlives_its_fixture_says_whose_it_was(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
kept = []
def test_first(box): kept.append(box)
@both
def test_second(where):
    with pytest.raises(SandboxGone, match="sandbox 'box1' has ended: it was of function fixture 'box', which is over"):
        kept[0].run(["true"])

@pytest.mark.isolate
def test_made_inside(isolate_factory, tmp_path_factory):
    made = isolate_factory("inside")
    (tmp_path_factory.getbasetemp() / "pid").write_text(str(made.popen(["sleep", "600"]).pid))
def test_gone(tmp_path_factory):
    assert not os.path.exists("/proc/" + (tmp_path_factory.getbasetemp() / "pid").read_text())
"""
    )
    run(pytester, monkeypatch).result.assert_outcomes(passed=5)


def test_time_limit_of_the_test_ends_a_run_without_one(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
@pytest.mark.isolate(timeout="1s")
def test_waits(db): db.run(["sleep", "600"])
@pytest.mark.isolate
def test_after(db): assert db.run(["sh", "-c", "cat /proc/[0-9]*/comm"]).stdout.split()[1:] == [b"sh"]
"""
    )
    seen = run(pytester, monkeypatch)
    assert seen.failed() == {("test_waits", "call")}
    assert "timeout" in seen.of("test_waits", "call").first_line


def test_interrupt_ends_what_a_test_waits_for_and_its_teardown_can_still_ask(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
@pytest.fixture
def press(db):
    yield
    print("asked in teardown:", db.run(["echo", "yes"]).stdout)

@pytest.fixture(scope="module", autouse=True)
def pressed(tmp_path_factory):
    code = "import os, signal, sys, time\\nwhile not os.path.exists(sys.argv[2]): time.sleep(0.05)\\nos.kill(int(sys.argv[1]), signal.SIGINT)"
    there = tmp_path_factory.getbasetemp() / "there"
    with subprocess.Popen([PYTHON, "-c", code, str(os.getpid()), str(there)]) as process:
        yield there
        process.kill()
    (there.parent / "torn down").touch()

@pytest.mark.isolate
def test_waits(db, press, pressed):
    db.popen(["true"])
    pressed.touch()
    db.run(["sleep", "600"])
"""
    )
    begun = time.monotonic()
    seen = run(pytester, monkeypatch, "--basetemp=base", "-s")
    assert seen.result.ret == pytest.ExitCode.INTERRUPTED
    assert time.monotonic() - begun < 20
    assert "KeyboardInterrupt" in seen.output
    assert "asked in teardown: b'yes" in seen.output
    assert (pytester.path / "base" / "torn down").exists()


@requires("plugin-pytest-timeout")
def test_pytest_timeout_ends_a_run_that_an_isolated_test_waits_for(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
@pytest.mark.timeout(1)
@both
def test_waits(where, db): db.run(["sleep", "600"])
@both
def test_after(where, db): assert db.run(["true"]).returncode == 0
"""
    )
    seen = run(pytester, monkeypatch, "-p", "pytest_timeout")
    assert seen.failed() == {("test_waits[inside]", "call"), ("test_waits[outside]", "call")}


def test_caps_hold_and_their_victim_is_named(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
@pytest.mark.isolate
def test_it(isolate_factory):
    small = isolate_factory("small", memory="32MiB")
    assert small.run(python("x = b'x' * (64 << 20)")).returncode == 0
"""
    )
    seen = run(pytester, monkeypatch)
    assert "assert -9 == 0" in seen.of("test_it", "call").longrepr
    assert "killed by the memory cap" in seen.of("test_it", "call").section("isolate: sandboxes of isolate_factory")


@EVERY_WAY
def test_fixtures_inside_are_refused_at_collection(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
@pytest.mark.isolate(fixtures="inside")
def test_it(box): pass
"""
    )
    seen = run(pytester, monkeypatch, how=how)
    assert (
        'fixtures: "inside" sets up every fixture of test_it in its sandbox, and isolate_factory works in the pytest process; '
        'accepted: "shared" for tests with fixtures that ask for isolate_factory'
    ) in seen.output


def test_isolate_box_in_a_fixture_that_runs_outside_is_an_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
@pytest.fixture
def wrong(isolate_factory, isolate_box): pass
@both
def test_it(where, wrong): pass
"""
    )
    seen = run(pytester, monkeypatch)
    assert seen.failed() == {("test_it[inside]", "setup")}
    assert "isn't there yet" in seen.of("test_it[inside]", "setup").longrepr


def test_processes_forked_by_a_test_are_told_that_handles_are_not_theirs(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
@both
def test_it(where, db):
    pid = os.fork()
    if pid == 0:
        try:
            db.run(["true"])
        except IsolateError as error:
            os._exit(7 if "forked" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert db.run(["true"]).returncode == 0
"""
    )
    run(pytester, monkeypatch).result.assert_outcomes(passed=2)


def test_missing_capability_fails_skips_or_weakens_as_the_run_says(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
@both
def test_it(where, isolate_factory):
    assert isolate_factory("throttled", io={"write": "1MB/s", "path": "/proc"}).spec.io is None
"""
    )
    for how, outcomes in (("fail", {"failed": 2}), ("skip", {"skipped": 2}), ("weaken", {"passed": 2})):
        seen = run(pytester, monkeypatch, f"--isolate-missing={how}")
        seen.result.assert_outcomes(**outcomes)
    assert "sandbox 'throttled' is weaker than asked: io needs cgroup-io" in seen.output


def test_builder_killed_while_a_sandbox_lives_is_told_and_the_next_fixture_gets_another(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        FIXTURES
        + """
def builder():
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return next(int(pid) for pid in children if "sandbox.builder" in open(f"/proc/{pid}/cmdline").read())

def test_first(db):
    os.kill(builder(), signal.SIGKILL)
    assert eventually(lambda: gone(db))

def gone(box):
    try:
        box.wait_for_port(1, timeout=0)
    except SandboxGone as error:
        assert "its init was killed, or the builder" in str(error)
        return True
    except NotListening:
        return False

@both
def test_second(where, box): assert box.run(["true"]).returncode == 0
"""
    )
    run(pytester, monkeypatch).result.assert_outcomes(passed=3)
