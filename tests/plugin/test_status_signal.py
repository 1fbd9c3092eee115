"""SIGUSR1: what runs is printed to standard error, from wherever pytest is; whoever else has a use for the signal keeps it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.capabilities import requires
from tests.support.isolated_runs import ROOT
from tests.support.terminals import on_terminal
from tests.support.unprivileged import USER_ID, find_python, package_tree, user_directory

SLOW = """
import os, subprocess, time, pytest

def test_before(): print("BEFORE")

@pytest.mark.isolate(memory="64MiB", cpu="50%", pids=10, timeout="60s")
def test_takes_long():
    print("SAID")
    held = bytearray(b"x") * (20 << 20)
    sleeper = subprocess.Popen(["sleep", "61"])
    open("runs-" + os.environ.get("PYTEST_XDIST_WORKER", ""), "w").close()
    while not os.path.exists("go"):
        time.sleep(0.05)
    sleeper.kill()
    sleeper.wait()
    assert os.path.exists("go")

def test_after(): pass
"""


class Started:
    """A run of pytest with both its streams in files, or in one."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.output, self.errors = directory / "output", directory / "errors"

    def wait_for(self, text: str, path: Path | None = None) -> str:
        path = path or self.output
        deadline = time.monotonic() + 30
        while text not in (found := path.read_text(errors="replace")):
            assert time.monotonic() < deadline, f"{text!r} isn't in {found!r}; output: {self.output.read_text()}"
            assert self.process.poll() is None, self.output.read_text() + self.errors.read_text()
            time.sleep(0.02)
        return found

    def wait_until_it_runs(self, *workers: str) -> None:
        """The test that takes long, in each of these workers of xdist."""
        deadline = time.monotonic() + 30
        while not all((self.directory / f"runs-{worker}").exists() for worker in workers or ("",)):
            assert time.monotonic() < deadline, self.output.read_text() + self.errors.read_text()
            assert self.process.poll() is None, self.output.read_text() + self.errors.read_text()
            time.sleep(0.02)
        time.sleep(0.2)

    def ask(self) -> str:
        """Send the signal; what is new in standard error once it has ended lines."""
        before = len(self.errors.read_bytes())
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 20
        while not self.errors.read_bytes()[before:].endswith(b"\n"):
            assert time.monotonic() < deadline, self.output.read_text() + self.errors.read_text()
            assert self.process.poll() is None, f"ended by {self.process.returncode}"
            time.sleep(0.02)
        time.sleep(0.3)  # another worker's may follow
        return self.errors.read_bytes()[before:].decode()

    def finish(self) -> str:
        (self.directory / "go").touch()
        self.process.wait(60)
        return self.output.read_text()


@contextmanager
def started(directory: Path, *args: str, user: bool = False, together: bool = False) -> Iterator[Started]:
    """Args: `together`: standard error goes where standard output does."""
    python, tree = (str(find_python()), str(package_tree())) if user else (sys.executable, str(ROOT))
    base = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    whole = {
        **base,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": tree,
        "COLUMNS": "100",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        python,
        "-m",
        "pytest",
        "-p",
        "pytest_isolate.plugin",
        "-p",
        "no:cacheprovider",
        "--isolate-writable=.",
        "--isolate-all",
        *args,
    ]
    ids = {"user": USER_ID, "group": USER_ID, "extra_groups": []} if user else {}
    with (directory / "output").open("wb") as out, (directory / "errors").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=directory, env=whole, stdin=subprocess.DEVNULL, stdout=out, stderr=out if together else err, **ids
        )  # type: ignore[call-overload]
    try:
        yield Started(process, directory)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "test_it.py").write_text(SLOW)
    return tmp_path


BLOCK = (
    r"isolate: test_it\.py::test_takes_long \(call, [\d.]+ m?s, timeout in [\d.]+ s\)\n"
    r"  cpu [\d.]+ m?s \(\d+% of one CPU\), cap 50%; (throttled [\d.]+ m?s; )?memory \d\d\.\d MiB, cap 64\.0 MiB; pids 2, cap 10\n"
    r"  \S+ \(pid \d+\): .*-m pytest.*\n"
    r"  sleep \(pid \d+\): sleep 61\n"
)


@requires("cgroup-memory", "cgroup-cpu", "cgroup-pids")
@pytest.mark.parametrize("args", [(), ("-s",), ("--capture=sys",), ("-p", "no:terminal")], ids=str)
def test_signal_prints_the_running_test_and_the_run_goes_on(place: Path, args: tuple[str, ...]) -> None:
    with started(place, *args) as run:
        run.wait_until_it_runs()
        for _ in range(2):
            assert re.fullmatch(BLOCK, run.ask())
        text = run.finish()
        assert run.process.returncode == 0
        if "no:terminal" not in args:
            assert re.search(r"3 passed in", text)
            assert "isolate: test_it" not in text


@requires("root", "unprivileged-user", "userns")
def test_signal_to_a_users_run_without_cgroups_tells_the_processes() -> None:
    with user_directory({"test_it.py": SLOW}) as place:
        for name in ("output", "errors"):
            (place / name).touch()
        with started(place, "--isolate-missing=weaken", "--isolate-cgroup=none/of/mine", user=True) as run:
            run.wait_until_it_runs()
            found = run.ask()
            assert re.match(
                r"isolate: test_it\.py::test_takes_long \(call, [\d.]+ m?s, timeout in [\d.]+ s\)\n  no cgroup: no figures\n",
                found,
            )
            assert "sleep 61" in found
            run.finish()
            assert run.process.returncode == 0


@requires("cgroup-memory", "cgroup-cpu", "cgroup-pids")
def test_answer_stands_on_lines_of_its_own_and_the_progress_goes_on_behind_it(place: Path) -> None:
    with started(place, together=True) as run:
        run.wait_until_it_runs()
        run.process.send_signal(signal.SIGUSR1)
        run.wait_for("sleep 61")
        text = run.finish()
        assert run.process.returncode == 0
    assert re.search(rf"^test_it\.py \.\n{BLOCK}test_it\.py \.\.\. +\[100%\]$", text, re.MULTILINE)


@requires("cgroup-memory", "cgroup-cpu", "cgroup-pids", "plugin-pytest-xdist")
def test_controller_of_xdist_passes_the_signal_on_and_every_worker_answers(tmp_path: Path) -> None:
    for name in ("test_a", "test_b"):
        (tmp_path / f"{name}.py").write_text(SLOW.replace("def test_after(): pass", ""))
    with started(tmp_path, "-p", "xdist", "-n2", "--dist=loadfile") as run:
        run.wait_until_it_runs("gw0", "gw1")
        found = run.ask()
        text = run.finish()
        assert run.process.returncode == 0
    assert sorted(re.findall(r"isolate \[(gw\d)\]: (test_\w)\.py::test_takes_long \(call", found)) in (
        [("gw0", "test_a"), ("gw1", "test_b")], [("gw0", "test_b"), ("gw1", "test_a")],
    )  # fmt: skip
    assert found.count("sleep 61") == 2
    assert "4 passed" in text


def test_controller_of_xdist_answers_before_a_worker_has_begun(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        """
import os, time, pytest
def pytest_collection_modifyitems():  # a long collection
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) is not None:
        open(f"runs-{worker}", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.05)
"""
    )
    (tmp_path / "test_it.py").write_text("def test_first(): pass")
    with started(tmp_path, "-p", "xdist", "-n", "1") as run:
        run.wait_until_it_runs("gw0")
        assert run.ask() == "isolate: no worker has begun an isolated test\n"
        assert "1 passed" in run.finish()


def test_on_a_terminal_the_line_goes_for_the_answer_and_comes_back(place: Path) -> None:
    with on_terminal(place, "--isolate-writable=.", size=(220, 40)) as terminal:
        terminal.expect("call 1 s")
        os.kill(terminal.pid, signal.SIGUSR1)
        terminal.expect("sleep 61")
        terminal.expect("test_it.py .")
        terminal.expect("call ")
        (place / "go").touch()
        assert terminal.end() == 0
        lines = terminal.lines()
    answer = next(number for number, line in enumerate(lines) if re.match(r"isolate: test_it\.py::test_takes_long \(call", line))
    assert lines[answer - 1] == "test_it.py ."
    assert re.match(r"test_it\.py \.\.\. +\[100%\]$", lines[answer + 4])
    assert not any("  call " in line for line in lines)


def test_between_tests_and_in_wide_fixtures_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import os, time, pytest
def test_first(): pass
@pytest.fixture(scope="module")
def slow():
    while not os.path.exists("go"): time.sleep(0.05)
def test_second(slow): pass
"""
    )
    with started(tmp_path) as run:
        run.wait_for("test_it.py .")
        time.sleep(0.3)
        assert run.ask() == "isolate: no isolated test is running\n"
        run.finish()
        assert run.process.returncode == 0


@requires("cgroup-memory")
def test_sandboxes_of_the_factory_are_told_as_well(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import os, time, pytest
@pytest.fixture(scope="module")
def db(isolate_factory):
    box = isolate_factory("db", memory="128MiB")
    box.popen(["sleep", "62"])
    return box
def test_uses(db):
    open("runs", "w").close()
    while not os.path.exists("go"): time.sleep(0.05)
"""
    )
    with started(tmp_path) as run:
        deadline = time.monotonic() + 30
        while not (tmp_path / "runs").exists():
            assert time.monotonic() < deadline, run.output.read_text() + run.errors.read_text()
            time.sleep(0.05)
        found = run.ask()
        run.finish()
        assert run.process.returncode == 0
    assert re.search(
        r"^  sandbox db\n    cpu .*memory [\d.]+ \w+, cap 128\.0 MiB; pids 1\n    sleep \(pid \d+\): sleep 62$",
        found,
        re.MULTILINE,
    )


OWNERS = {
    "signal.signal": "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: open('heard', 'a').close())\n",
    "SIG_IGN": "import signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\n",
    "faulthandler.register": "import faulthandler, signal\nheard = open('heard', 'w')\nfaulthandler.register(signal.SIGUSR1, file=heard)\n",
    "faulthandler.register, later": (
        "import faulthandler, signal\nimport pytest\n"
        "@pytest.hookimpl(trylast=True)\ndef pytest_runtestloop():\n    global heard\n"
        "    heard = open('heard', 'w')\n    faulthandler.register(signal.SIGUSR1, file=heard)\n"
        "def pytest_unconfigure():\n    import os, time\n    os.kill(os.getpid(), signal.SIGUSR1)\n"
    ),
    "signal.signal, later": (
        "import signal\nimport pytest\n"
        "@pytest.fixture(scope='session', autouse=True)\ndef own():\n"
        "    signal.signal(signal.SIGUSR1, lambda *_: open('heard', 'a').close())\n"
        "@pytest.hookimpl(trylast=True)\ndef pytest_unconfigure():\n    import os\n    os.kill(os.getpid(), signal.SIGUSR1)\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("owner", OWNERS)
def test_signal_that_somebody_else_uses_stays_theirs(place: Path, owner: str) -> None:
    code = OWNERS[owner]
    if owner == "faulthandler.register, later":
        code = code.replace(
            "@pytest.hookimpl(trylast=True)\ndef pytest_runtestloop():",
            "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtestloop():",
        )
    (place / "conftest.py").write_text(code)
    with started(place) as run:
        run.wait_until_it_runs()
        run.process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        run.finish()
        assert run.process.returncode == 0
        assert run.errors.read_text() == ""
    if owner != "SIG_IGN":
        assert (place / "heard").exists()
    if "faulthandler" in owner:
        assert "most recent call first" in (place / "heard").read_text()


def test_off_leaves_the_signal_alone(place: Path) -> None:
    with started(place, "--isolate-live=off") as run:
        run.wait_until_it_runs()
        run.process.send_signal(signal.SIGUSR1)
        assert run.process.wait(20) == -signal.SIGUSR1


DISPOSITIONS = """
import ctypes, os, signal, subprocess, sys, threading, pytest

def caught(pid="self"):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("SigCgt"):
            return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)

def test_inside_it_is_the_default_again():
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert not caught()

def test_inside_it_kills():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    os.kill(pid, signal.SIGUSR1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGUSR1

def test_inside_a_test_has_it_for_itself():
    heard = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert heard == [1]

def test_no_descriptor_of_the_answer_is_inherited(outside):
    def names():
        found = []
        for fd in os.listdir("/proc/self/fd"):
            try: found.append(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError: pass
        return found
    assert sum("errors" in name for name in names()) == outside

@pytest.fixture(scope="module")
def outside():
    assert caught()
    # Standard error, and where pytest's capturing and faulthandler plugins keep it; one more is ours.
    return sum("errors" in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")) - 1

@pytest.fixture(scope="module")
def forked():
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"x")  # before that Python forgets signals that came since the fork
        signal.pause()
        os._exit(3)
    os.read(reading, 1)
    os.kill(pid, signal.SIGUSR1)
    return os.waitpid(pid, 0)[1]

def test_process_that_a_fixture_forked_is_killed_by_it_as_ever(forked):
    assert os.WIFSIGNALED(forked) and os.WTERMSIG(forked) == signal.SIGUSR1
"""


def test_test_processes_have_the_default_disposition(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(DISPOSITIONS)
    (tmp_path / "conftest.py").write_text(
        "import signal\ndef pytest_sessionfinish(session):\n    session.config.add_cleanup(lambda: print('AT LAST', signal.getsignal(signal.SIGUSR1)))\n"
    )
    with started(tmp_path) as run:
        run.process.wait(60)
        assert run.process.returncode == 0, run.output.read_text()
        assert "5 passed" in run.output.read_text()


def test_disposition_is_given_back_at_the_end(place: Path) -> None:
    code = """
import signal, sys, pytest
before = signal.getsignal(signal.SIGUSR1)
status = pytest.main(["-q", "-p", "pytest_isolate.plugin", "--isolate-all", "-k", "before"])
assert before is signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
sys.exit(status)
"""
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_run_without_isolated_tests_leaves_the_signal_alone(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import os, time\ndef test():\n    open('runs', 'w').close()\n    time.sleep(60)\n")
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin"]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (tmp_path / "runs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == -signal.SIGUSR1


def test_many_signals_disturb_nothing(place: Path) -> None:
    with started(place, "-v") as run:
        run.wait_until_it_runs()
        for _ in range(200):
            run.process.send_signal(signal.SIGUSR1)
            time.sleep(0.002)
        text = run.finish()
        assert run.process.returncode == 0
        assert "3 passed" in text
        assert run.errors.read_text().count("test_takes_long (call") > 50
        assert "Traceback" not in run.errors.read_text()
