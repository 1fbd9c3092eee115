"""``--isolate-sample``: memory and CPU over the time of each test, read by the builder, in the test's record and the document."""

from __future__ import annotations

import os
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

import pytest

from pytest_isolate.kernel.cgroup import Group, Moment, read_moment
from pytest_isolate.plugin import sampling
from pytest_isolate.plugin.sampling import Sampling
from pytest_isolate.sandbox import Sandbox
from tests.plugin.test_json import by_name, checked
from tests.support.capabilities import requires
from tests.support.isolated_runs import EVERY_WAY, run
from tests.support.plugin_runs import Pytest, plugin
from tests.support.unprivileged import pytest_as_user, user_directory

__all__ = ["plugin"]

MIB = 1 << 20
COLUMNS = ["seconds", "memory_bytes", "cpu_seconds", "cpu_throttled_seconds", "oom_kills"]

SUITE = """
import time, pytest

def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end: pass

@pytest.mark.isolate
def test_steps():
    held = []
    for _ in range(4):
        held.append(bytearray(b"x") * (10 << 20))
        time.sleep(0.25)

@pytest.mark.isolate(memory="48MiB")
def test_runs_out_of_memory():
    time.sleep(0.2)
    held = bytearray(b"x") * (100 << 20)

@pytest.mark.isolate(cpu="5%")
def test_is_throttled():
    spin(0.15)

@pytest.mark.isolate
def test_is_short(): pass

def test_plain(): pass
"""


def columns(test: dict[str, Any]) -> tuple[list[float], list[int], list[float], list[float], list[int]]:
    samples = test["samples"]
    assert samples["columns"] == COLUMNS
    times, memory, cpu, throttled, kills = (list(column) for column in zip(*samples["rows"], strict=True))
    return times, memory, cpu, throttled, kills


@requires("cgroup-memory", "cgroup-cpu")
@EVERY_WAY
def test_rows_show_steps_of_memory_the_oom_kill_and_the_throttling(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(test_it=SUITE)
    done = run(pytester, monkeypatch, "--isolate-sample=50ms", "--isolate-json=run.json", how=how, keep=["run.json"])
    tests = by_name(checked(done.files["run.json"]))
    assert {name: test["outcome"] for name, test in tests.items()}["test_runs_out_of_memory"] == "failed"

    times, memory, cpu, _throttled, kills = columns(tests["test_steps"])
    assert tests["test_steps"]["samples"]["interval"] == 0.05
    assert len(times) > 8
    assert times == sorted(times)
    assert 0.9 < times[-1] == pytest.approx(tests["test_steps"]["usage"]["wall_seconds"], abs=1)
    levels = [sum(1 for value in memory if step * 10 * MIB < value < (step + 0.9) * 10 * MIB) for step in range(1, 5)]
    assert min(levels) > 0, memory
    assert max(memory) < 50 * MIB
    assert cpu == sorted(cpu)
    assert set(kills) == {0}

    _times, memory, _cpu, _throttled, kills = columns(tests["test_runs_out_of_memory"])
    assert kills[0] == 0
    assert kills[-1] == tests["test_runs_out_of_memory"]["usage"]["oom_kills"] == 1

    _times, _memory, cpu, throttled, _kills = columns(tests["test_is_throttled"])
    assert throttled == sorted(throttled)
    assert throttled[-1] > throttled[0] + 0.1
    assert throttled[-1] == pytest.approx(tests["test_is_throttled"]["usage"]["cpu_throttled_seconds"], abs=0.05)
    assert cpu[-1] == pytest.approx(tests["test_is_throttled"]["usage"]["cpu_seconds"], abs=0.05)

    assert 1 <= len(tests["test_is_short"]["samples"]["rows"]) <= 8
    # Also without a document: it is part of the record that the last report carries.
    assert done.of("test_steps", "teardown").isolate["samples"] == tests["test_steps"]["samples"]  # type: ignore[index]


@requires("cgroup-memory")
def test_long_test_has_500_rows_at_most(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("import time, pytest\n@pytest.mark.isolate\ndef test(): time.sleep(6.5)")
    plugin("--isolate-sample=10ms", "--isolate-json=run.json").assert_outcomes(passed=1)
    (test,) = checked((pytester.path / "run.json").read_text())["tests"]
    times, *_rest = columns(test)
    assert test["samples"]["interval"] in (0.01, 0.02)  # a machine that is busy with something else takes fewer rows
    assert 150 < len(times) <= 500
    gaps = [after - before for before, after in pairwise(times)]
    assert statistics.median(gaps) == pytest.approx(0.02, rel=0.5)


@requires("cgroup-memory", "cgroup-cpu")
def test_last_row_is_the_newest_though_the_builder_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a test the builder may append a row at any moment; here it does while the last one is read."""
    late: list[int] = []

    def read_while_the_builder_appends(group: Group) -> Moment:
        moment = read_moment(group)
        size = os.fstat(late[0]).st_size
        box.run([sys.executable, "-c", "sum(range(3_000_000))"])
        deadline = time.monotonic() + 10
        while os.fstat(late[0]).st_size == size:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return moment

    with Sandbox() as box:
        own = Sampling(None, box, 0.01)  # type: ignore[arg-type]
        late.append(os.dup(own._file))
        monkeypatch.setattr(sampling, "read_moment", read_while_the_builder_appends)
        samples = own.end()
        os.close(late[0])
    assert samples is not None
    times, _memory, cpu, _throttled, _kills = zip(*samples.rows, strict=True)
    assert list(times) == sorted(times)
    assert list(cpu) == sorted(cpu)


@pytest.mark.parametrize("extra", [("--isolate-repeat=3",), ("-p", "rerunfailures", "--reruns=1")], ids=["repeat", "reruns"])
@requires("cgroup-memory")
def test_each_attempt_has_samples_of_its_own_time(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        test_it="""
        import time, pytest
        @pytest.fixture
        def other(isolate_factory): return isolate_factory()
        @pytest.mark.isolate
        def test_takes_a_moment(other): time.sleep(0.1)
        @pytest.mark.isolate(timeout="200ms")
        def test_hangs(): time.sleep(60)
        """
    )
    done = run(pytester, monkeypatch, *extra, "--isolate-sample=10ms", "--isolate-json=run.json", keep=["run.json"])
    tests = checked(done.files["run.json"])["tests"]
    assert [test["outcome"] for test in tests if "hangs" in test["nodeid"]][-1] == "failed"
    assert len(tests) == (2 if "--isolate-repeat=3" in extra else 3)
    for test in tests:
        times, memory, *_rest = columns(test)
        assert times[0] < 0.05
        assert times == sorted(times)
        assert times[-1] == pytest.approx(test["usage"]["wall_seconds"], abs=0.1)
        assert len(times) >= 4
        assert max(memory) > 0


@requires("cgroup-cpu")
def test_sampling_is_not_charged_to_the_test(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(
        """
        import time, pytest
        @pytest.mark.isolate
        @pytest.mark.parametrize("turn", range(2))
        def test(turn): time.sleep(2)
        """
    )
    used = {}
    for option in ("--isolate-sample=10ms", "--isolate-live=auto"):
        plugin(option, "--isolate-json=run.json").assert_outcomes(passed=2)
        used[option] = [test["usage"]["cpu_seconds"] for test in checked((pytester.path / "run.json").read_text())["tests"]]
    sampled, plain = used.values()
    # 200 rows are 7 ms of work and more, and a sleeping test that was charged for them would have twice as much.
    assert min(sampled) < min(plain) + 0.004


@requires("root", "unprivileged-user", "userns")
def test_machine_without_such_figures_is_told_and_has_no_samples() -> None:
    files = {"test_it.py": SUITE.partition("@pytest.mark.isolate(memory")[0]}
    with user_directory(files) as place:
        env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "400"}
        done = pytest_as_user(
            "-p",
            "pytest_isolate.plugin",
            "--isolate-sample=50ms",
            "--isolate-json=run.json",
            "--isolate-cgroup=none/of/mine",
            cwd=place,
            env=env,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (test,) = checked((place / "run.json").read_text())["tests"]
    assert "samples" not in test
    (note,) = [line for line in done.stdout.splitlines() if line.startswith("note:")]
    assert "--isolate-sample has nothing to read here for memory (cgroup-memory: " in note
    assert "and CPU time (cgroup-cpu: " in note
    assert note.endswith("python -m pytest_isolate doctor has the remedy")


def test_without_the_option_nothing_is_sampled(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test(): pass")
    plugin("--isolate-json=run.json").assert_outcomes(passed=1)
    (test,) = checked((pytester.path / "run.json").read_text())["tests"]
    assert "samples" not in test


@requires("cgroup-memory")
def test_ini_key_means_the_same(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makeini("[pytest]\nisolate_sample = 20ms")
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test(): pass")
    plugin("--isolate-json=run.json").assert_outcomes(passed=1)
    (test,) = checked((pytester.path / "run.json").read_text())["tests"]
    assert test["samples"]["interval"] == 0.02


@pytest.mark.parametrize(
    ("value", "problem"),
    [("1ms", "'1ms' is shorter than the builder can keep up with"), ("often", "'often' is not an interval"),
     ("0", "'0' is not an interval"), ("-1s", "'-1s' is not an interval"), ("5 parsecs", "'5 parsecs' is not an interval")],
)  # fmt: skip
def test_interval_that_cannot_be_meant_is_an_error_before_any_test(
    pytester: pytest.Pytester, plugin: Pytest, value: str, problem: str
) -> None:
    pytester.makepyfile("def test(): open('ran', 'w')")
    result = plugin(f"--isolate-sample={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"*command line: --isolate-sample: {problem}; accepted: an interval of 10ms or more, as in 100ms, 1s"]
    )
    assert not (pytester.path / "ran").exists()
