"""The figures of a test: `isolate.*` among the properties of its last report, plain numbers, plausible, absent where unknown."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_isolate.model.usage import Usage
from tests.support.capabilities import requires
from tests.support.isolated_runs import Run, run
from tests.support.unprivileged import cgroup_options, delegated_cgroup, pytest_as_user, user_directory

MIB = 1 << 20
NAMES = {f"isolate.{field.name}" for field in fields(Usage)}
ALWAYS = {"isolate.cpu_seconds", "isolate.wall_seconds", "isolate.setup_seconds", "isolate.leaked_processes"}
"""What needs no cgroup."""

Isolated = Callable[..., Run]


@pytest.fixture
def isolated(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Isolated:
    """Runs a test file's text."""

    def start(text: str, *args: str) -> Run:
        pytester.makepyfile(test_it=text)
        return run(pytester, monkeypatch, *args)

    return start


def figures(done: Run, name: str) -> dict[str, float]:
    """The isolate.* properties of a test's last report, without the prefix."""
    properties = done.of(name, "teardown").properties
    return {key.removeprefix("isolate."): value for key, value in properties.items() if key in NAMES}


ENDS = """
import os, pytest

@pytest.mark.isolate
def test_passes(): pass

@pytest.mark.isolate
def test_fails(): assert 0

@pytest.mark.isolate
def test_skips(): pytest.skip("no")

@pytest.mark.isolate
@pytest.mark.xfail
def test_xfails(): assert 0

@pytest.fixture
def broken(): assert 0

@pytest.mark.isolate
def test_setup_fails(broken): pass

@pytest.fixture
def breaks_later():
    yield
    assert 0

@pytest.mark.isolate
def test_teardown_fails(breaks_later): pass

@pytest.mark.isolate
def test_exits(): os._exit(3)

def test_plain(): pass
"""


@pytest.mark.parametrize("args", [[], ["-p", "xdist", "-n", "2"]], ids=["plain", "xdist"])
def test_however_a_test_ends_its_last_report_alone_has_plain_numbers(isolated: Isolated, args: list[str]) -> None:
    done = isolated(ENDS, *args)
    names = {report.name for report in done}
    assert len(names) == 8
    for name in names:
        *earlier, last = [report for report in done if report.name == name]
        assert last.when == "teardown"
        assert all(not NAMES & set(report.properties) and report.isolate is None for report in earlier)
        if name == "test_plain":
            assert last.isolate is None
            assert not NAMES & set(last.properties)
            continue
        given = {key: value for key, value in last.properties.items() if key.startswith("isolate.")}
        assert ALWAYS <= set(given) <= NAMES
        assert all(type(value) in (int, float) and value >= 0 for value in given.values()), given
        assert last.isolate is not None
        assert {f"isolate.{key}": value for key, value in last.isolate["usage"].items()} == given
        assert last.isolate["nodeid"].endswith(name)


def test_properties_of_the_test_itself_stay_beside_ours(isolated: Isolated) -> None:
    done = isolated("""
        import pytest

        @pytest.mark.isolate
        def test_it(record_property):
            record_property("mine", "a")
        """)
    assert done.of("test_it", "teardown").properties["mine"] == "a"
    assert set(done.of("test_it", "teardown").properties) >= ALWAYS


def test_cpu_seconds_agree_with_the_tests_own_clock(isolated: Isolated) -> None:
    done = isolated("""
        import os, pytest, subprocess, sys, time

        @pytest.mark.isolate
        def test_busy(record_property):
            while time.process_time() < 0.3:
                pass
            subprocess.run([sys.executable, "-S", "-c", "import time\\nwhile time.process_time() < 0.2: pass"], check=True)
            times = os.times()
            record_property("own", times.user + times.system + times.children_user + times.children_system)
        """)
    own = done.of("test_busy", "teardown").properties["own"]
    used = figures(done, "test_busy")
    assert own >= 0.45
    assert own - 0.05 <= used["cpu_seconds"] <= own + 0.3
    assert used["cpu_seconds"] <= used["wall_seconds"] * os.cpu_count() + 0.05
    if "cpu_user_seconds" in used:
        assert used["cpu_user_seconds"] + used["cpu_system_seconds"] == pytest.approx(used["cpu_seconds"], abs=0.1)


def test_wall_seconds_are_those_of_the_test_and_sleep_costs_no_cpu(isolated: Isolated) -> None:
    done = isolated("""
        import pytest, time

        @pytest.fixture
        def slow():
            time.sleep(0.1)
            yield
            time.sleep(0.1)

        @pytest.mark.isolate
        def test_sleeps(slow):
            time.sleep(0.2)
        """)
    used = figures(done, "test_sleeps")
    assert 0.4 <= used["wall_seconds"] < 2
    assert used["cpu_seconds"] < 0.3
    assert 0 < used["setup_seconds"] < 2


@requires("cgroup-cpu")
def test_time_held_back_by_the_cpu_cap_is_throttled_time(isolated: Isolated) -> None:
    done = isolated("""
        import pytest, time

        @pytest.mark.isolate(cpu="20%")
        def test_busy():
            end = time.process_time() + 0.15
            while time.process_time() < end:
                pass

        @pytest.mark.isolate
        def test_free():
            pass
        """)
    used = figures(done, "test_busy")
    assert used["wall_seconds"] > 0.4
    assert used["cpu_throttled_seconds"] > 0.2
    assert figures(done, "test_free").get("cpu_throttled_seconds", 0) == 0


@requires("cgroup-memory")
def test_memory_peak_is_what_the_test_touched_not_what_pytest_holds(isolated: Isolated) -> None:
    done = isolated("""
        import pytest

        held = bytearray(b"x") * (100 << 20)

        @pytest.mark.isolate
        def test_50_mib():
            block = bytearray(b"x") * (50 << 20)
            assert block[-1] == 120

        @pytest.mark.isolate
        def test_nothing():
            pass
        """)
    assert 50 * MIB <= figures(done, "test_50_mib")["memory_peak_bytes"] < 80 * MIB
    assert figures(done, "test_nothing")["memory_peak_bytes"] < 30 * MIB


@requires("cgroup-memory")
def test_oom_kill_is_counted(isolated: Isolated) -> None:
    done = isolated("""
        import pytest, subprocess, sys

        @pytest.mark.isolate(memory="64MiB")
        def test_child_is_killed():
            done = subprocess.run([sys.executable, "-S", "-c", "bytearray(b'x') * (200 << 20)"])
            assert done.returncode == -9

        @pytest.mark.isolate(memory="64MiB")
        def test_nothing():
            pass
        """)
    used = figures(done, "test_child_is_killed")
    assert used["oom_kills"] == 1
    assert 60 * MIB <= used["memory_peak_bytes"] <= 64 * MIB
    assert figures(done, "test_nothing")["oom_kills"] == 0


@requires("cgroup-pids")
def test_pids_peak_counts_processes_and_threads(isolated: Isolated) -> None:
    done = isolated("""
        import pytest, subprocess, threading

        @pytest.mark.isolate
        def test_five():
            wait = threading.Event()
            threads = [threading.Thread(target=wait.wait) for _ in range(2)]
            for thread in threads:
                thread.start()
            children = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
            for child in children:
                child.kill()
                child.wait()
            wait.set()
        """)
    # Kernels before 6.1 have no pids.peak on v1: then the figure is absent.
    assert figures(done, "test_five").get("pids_peak", 5) in (5, 6)


def test_disk_written_is_the_size_of_the_writable_layer(isolated: Isolated) -> None:
    done = isolated("""
        import pytest

        @pytest.mark.isolate
        def test_writes():
            with open("file", "wb") as file:
                file.write(b"x" * (8 << 20))

        @pytest.mark.isolate
        def test_nothing():
            pass
        """)
    assert 8 * MIB <= figures(done, "test_writes")["disk_written_bytes"] < 9 * MIB
    assert figures(done, "test_nothing")["disk_written_bytes"] < MIB


@requires("cgroup-io", "disk")
def test_io_is_what_went_to_and_came_from_the_device(isolated: Isolated, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    done = isolated(f"""
        import mmap, os, pytest

        @pytest.mark.isolate(writable=[{str(tmp_path / "shared")!r}])
        def test_io():
            path = {str(tmp_path / "shared" / "file")!r}
            block = mmap.mmap(-1, 4 << 20)
            block.write(b"x" * (4 << 20))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
            os.pwrite(fd, block, 0)
            os.fsync(fd)
            os.preadv(fd, [block], 0)
            os.preadv(fd, [block], 0)
            os.close(fd)
        """)
    assert done.of("test_io", "call").outcome == "passed", done.output
    used = figures(done, "test_io")
    assert 4 * MIB <= used["io_write_bytes"] < 8 * MIB
    assert 8 * MIB <= used["io_read_bytes"] < 16 * MIB


def test_processes_left_behind_are_counted_and_none_is_zero(isolated: Isolated) -> None:
    done = isolated("""
        import pytest, subprocess

        @pytest.mark.isolate
        def test_leaves_two():
            for _ in range(2):
                subprocess.Popen(["sleep", "60"], start_new_session=True)

        @pytest.mark.isolate
        def test_leaves_none():
            subprocess.run(["true"])
        """)
    assert figures(done, "test_leaves_two")["leaked_processes"] == 2
    assert figures(done, "test_leaves_none")["leaked_processes"] == 0


TWO = """
import pytest

@pytest.mark.isolate
@pytest.mark.parametrize("number", range(4))
def test_isolated(number):
    block = bytearray(b"x") * (20 << 20)

def test_plain():
    pass
"""


def junit(path: Path) -> dict[str, dict[str, str]]:
    """The isolate.* properties of each test case."""
    cases: dict[str, dict[str, str]] = {}
    for case in ET.parse(path).iter("testcase"):
        name = case.get("name", "")
        assert name not in cases
        found = [(each.get("name", ""), each.get("value", "")) for each in case.iter("property")]
        assert len(dict(found)) == len(found), f"{name} has a property twice"
        cases[name] = {key.removeprefix("isolate."): value for key, value in found if key in NAMES}
    return cases


@pytest.mark.parametrize("args", [[], ["-p", "xdist", "-n", "2"]], ids=["plain", "xdist"])
def test_junit_xml_has_each_figure_once(isolated: Isolated, pytester: pytest.Pytester, args: list[str]) -> None:
    done = isolated(TWO, "--junitxml=out.xml", *args)
    done.result.assert_outcomes(passed=5)
    cases = junit(pytester.path / "out.xml")
    assert cases.pop("test_plain") == {}
    assert set(cases) == {f"test_isolated[{number}]" for number in range(4)}
    for name, properties in cases.items():
        assert {key: float(value) for key, value in properties.items()} == figures(done, name)


CONTROLLERS = {"memory_peak_bytes", "pids_peak", "io_read_bytes", "io_write_bytes", "cpu_throttled_seconds", "oom_kills"}


@requires("unprivileged-user", "userns")
def test_user_without_cgroups_gets_no_figure_that_needs_one() -> None:
    with user_directory({"test_it.py": TWO}) as directory:
        done = pytest_as_user("--junitxml=out.xml", "-p", "no:cacheprovider", cwd=directory)
        assert done.returncode == 0, done.stdout + done.stderr
        given = junit(directory / "out.xml")["test_isolated[0]"]
    assert {"cpu_seconds", "wall_seconds", "setup_seconds", "leaked_processes"} <= set(given)
    assert not CONTROLLERS & set(given)


@requires("root", "unprivileged-user", "userns", "cgroup-memory")
def test_user_with_a_delegated_cgroup_gets_its_figures() -> None:
    with delegated_cgroup() as name, user_directory({"test_it.py": TWO}) as directory:
        done = pytest_as_user("--junitxml=out.xml", *cgroup_options(name), "-p", "no:cacheprovider", cwd=directory)
        assert done.returncode == 0, done.stdout + done.stderr
        given = junit(directory / "out.xml")["test_isolated[0]"]
    assert 20 * MIB <= int(given["memory_peak_bytes"]) < 50 * MIB
