"""``--isolate-save`` and ``--isolate-compare``: growth is caught, noise isn't, and where nothing can be told nothing is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_isolate.kernel import perf_event
from tests.plugin.test_json import ROOT, checked
from tests.support.capabilities import requires
from tests.support.counters import refused_event, standing_for_instructions
from tests.support.isolated_runs import EVERY_WAY, run
from tests.support.plugin_runs import Pytest, plugin

__all__ = ["plugin"]

MEMORY = """
import os, pytest

SIZE = {size}
NOISE = {noise}

@pytest.mark.isolate(writable=["."])
def test_memory():
    with open("count", "a+") as file:
        file.write("x")
        number = file.tell()
    # From -NOISE to +NOISE of the size, in an order that has nothing to do with the size.
    share = ((number * 7) % 11 - 5) / 5 * NOISE
    data = bytearray(int(SIZE * (1 + share)))
    data[::4096] = b"x" * len(data[::4096])

@pytest.mark.isolate
def test_steady(): bytearray(8 << 20)
"""

BUSY = """
import os, time, pytest

WORK = {work}

@pytest.mark.isolate
def test_busy():
    until = time.thread_time() + WORK
    while time.thread_time() < until: pass
"""

MIB = 1 << 20


def memory(size: int, noise: float = 0.0) -> str:
    return MEMORY.format(size=size * MIB, noise=noise)


def rows(document: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["nodeid"].partition("::")[2], row["figure"]): row for row in document["comparison"]["tests"]}


def compared(pytester: pytest.Pytester) -> dict[tuple[str, str], dict[str, Any]]:
    return rows(checked((pytester.path / "run.json").read_text()))


@pytest.fixture
def for_everybody():
    """A directory that any user can read; pytest's own are of their makers alone."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@EVERY_WAY
def test_growth_of_30_percent_fails_the_run_and_noise_of_5_percent_does_not(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str, for_everybody: Path
) -> None:
    base = for_everybody / "base.json"
    common = ["--isolate-repeat=9", "-p", "no:randomly"]
    gate = [f"--isolate-compare={base}", "--isolate-compare-fail=memory:10%"]

    pytester.makepyfile(test_it=memory(40, 0.05))
    first = run(pytester, monkeypatch, *common, "--isolate-json=run.json", how=how, keep=["run.json"])
    assert first.result.ret == 0
    base.write_text(first.files["run.json"])
    again = run(pytester, monkeypatch, *common, *gate, "--isolate-json=run.json", how=how, keep=["run.json"])
    assert again.result.ret == 0, again.output
    document = checked(again.files["run.json"])
    row = rows(document)["test_memory", "memory"]
    assert abs(row["change"]) < 0.08
    assert 0.01 < row["noise"] < 0.2
    assert row["verdict"] in ("same", "unclear")
    assert not row["exceeded"]

    pytester.makepyfile(test_it=memory(52, 0.05))
    grown = run(pytester, monkeypatch, *common, *gate, "--isolate-json=run.json", how=how, keep=["run.json"])
    assert grown.result.ret == 1
    grown.result.assert_outcomes(passed=2)
    document = checked(grown.files["run.json"])
    assert document["run"]["exit_status"] == 1
    row = rows(document)["test_memory", "memory"]
    assert (row["verdict"], row["exceeded"], row["limit"]) == ("grown", True, "10%")
    assert 0.2 < row["change"] < 0.4
    assert row["noise"] < row["change"]
    assert not rows(document)["test_steady", "memory"]["exceeded"]
    grown.result.stdout.fnmatch_lines(
        [
            "compared with *base.json*: 1 test beyond its limit*",
            "*change*noise*limit*figure*before*after*",
            "*+*%*10%*memory*MiB*MiB*test_memory",
            "to do: *",
        ]
    )


def test_absolute_limit(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=memory(20))
    assert plugin("--isolate-save=main", "--isolate-repeat=6").ret == 0
    pytester.makepyfile(test_it=memory(30))
    for limit, status in (("memory:5MiB", 1), ("memory:15MiB,pids:0", 0)):
        result = plugin(
            "--isolate-compare=main", f"--isolate-compare-fail={limit}", "--isolate-repeat=6", "--isolate-json=run.json"
        )
        assert result.ret == status
        assert compared(pytester)["test_memory", "memory"]["verdict"] == "grown"


def test_busy_test_is_never_called_the_same_where_that_cannot_be_known(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=BUSY.format(work=0.1))
    plugin("--isolate-save=main", "--isolate-repeat=6").assert_outcomes(passed=1)
    for work in (0.1, 0.3):
        pytester.makepyfile(test_it=BUSY.format(work=work))
        plugin("--isolate-compare=main", "--isolate-repeat=6", "--isolate-json=run.json")
        row = compared(pytester)["test_busy", "cpu"]
        if row["verdict"] == "same":
            assert abs(row["change"]) + row["noise"] <= 0.05
        elif row["verdict"] == "grown":
            assert row["change"] > row["noise"]
        assert work == 0.1 or row["verdict"] in ("grown", "unclear")


def test_too_few_runs_tell_nothing(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=memory(20))
    plugin("--isolate-save=main", "--isolate-repeat=2")
    pytester.makepyfile(test_it=memory(60))
    for repeat in (1, 5, 6):
        result = plugin("--isolate-compare=main", f"--isolate-repeat={repeat}", "--isolate-json=run.json")
        assert result.ret == 0
        row = compared(pytester)["test_memory", "memory"]
        assert (row["verdict"], row["noise"]) == ("unclear", None)
        assert row["change"] > 1
        result.stdout.fnmatch_lines(["compared with main*: 2 unclear", "unclear: at least 6 runs of a test,*"])


def test_limit_that_no_run_could_break_is_an_error_before_any_test(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.isolate(writable=['.'])\ndef test(): open('ran', 'w')")
    plugin("--isolate-save=few", "--isolate-repeat=5")
    plugin("--isolate-save=enough", "--isolate-repeat=6")
    (pytester.path / "ran").unlink()
    document = json.loads((pytester.path / ".isolate/baselines/enough.json").read_text())
    document["tests"][0]["repetitions"] = [{"wall_seconds": 0.1}] * 6
    (pytester.path / "bare.json").write_text(json.dumps(document))
    for arguments, said in (
        (
            ["--isolate-compare=enough"],
            "growth can't be told from noise by 1 run of each test; accepted: --isolate-repeat=6 or more",
        ),
        (
            ["--isolate-compare=few", "--isolate-repeat=6"],
            "by the 5 runs of each test that the baseline few has; accepted: one that was recorded with",
        ),
        (
            ["--isolate-compare=bare.json", "--isolate-repeat=6"],
            "memory: the baseline bare.json doesn't have it, *; accepted: wall",
        ),
        (["--isolate-repeat=6"], "there is nothing to compare with; accepted: beside --isolate-compare="),
    ):
        result = plugin("--isolate-compare-fail=memory:10%", *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*command line: --isolate-compare-fail: *{said}*"])
    assert not (pytester.path / "ran").exists()


def test_new_and_missing_and_failed_tests_are_counted(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(
        test_it="import pytest\npytestmark = pytest.mark.isolate\ndef test_kept(): pass\ndef test_gone(): pass\ndef test_broken(): pass"
    )
    plugin("--isolate-save=main")
    pytester.makepyfile(
        test_it="import pytest\npytestmark = pytest.mark.isolate\ndef test_kept(): pass\ndef test_new(): pass\ndef test_broken(): assert 0"
    )
    result = plugin("--isolate-compare=main", "--isolate-json=run.json")
    result.stdout.fnmatch_lines(["compared with main (*): 1 unclear, 1 new, 1 not run, 1 failed"])
    found = compared(pytester)
    assert (found["test_new", "memory"]["verdict"], found["test_new", "memory"]["before"]) == ("new", None)
    assert (found["test_gone", "memory"]["verdict"], found["test_gone", "memory"]["after"]) == ("gone", None)
    assert json.loads((pytester.path / "run.json").read_text())["comparison"]["failed"] == ["test_it.py::test_broken"]
    assert ("test_broken", "memory") not in found


def test_baseline_is_a_document_that_differs_in_figures_alone(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(
        test_it="import pytest\npytestmark = pytest.mark.isolate\ndef test_b(): pass\ndef test_a(): pass\ndef test_c(): assert 0\ndef test_d(): pytest.skip()"
    )
    result = plugin("--isolate-save=main")
    result.stdout.fnmatch_lines(
        ["baseline main: figures of 2 tests saved in .isolate/baselines/main.json, without", "those of 2 that didn't pass"]
    )
    document = checked((pytester.path / ".isolate/baselines/main.json").read_text())
    assert [test["nodeid"] for test in document["tests"]] == ["test_it.py::test_a", "test_it.py::test_b"]
    assert document["machine"]["kernel"] == os.uname().release
    assert {"started", "worker"}.isdisjoint(document["tests"][0])
    assert (document["run"]["rootdir"], document["run"]["arguments"]) == ("", [])
    assert str(pytester.path) not in json.dumps(document)


def test_run_that_breaks_limits_or_is_interrupted_saves_nothing(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=memory(20))
    plugin("--isolate-save=main", "--isolate-repeat=6")
    path = pytester.path / ".isolate/baselines/main.json"
    former = path.read_text()
    pytester.makepyfile(test_it=memory(40))
    gate = ["--isolate-compare=main", "--isolate-compare-fail=memory:10%", "--isolate-repeat=6"]
    result = plugin("--isolate-save=main", *gate)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["the baseline main was not saved: figures grew beyond their limits*"])
    assert path.read_text() == former

    pytester.makepyfile(
        test_it="import pytest\n@pytest.mark.isolate\ndef test_a(): pass\n@pytest.mark.isolate\ndef test_b(): assert 0\ndef test_c(): pass"
    )
    result = plugin("--isolate-save=main", "-x")
    result.stdout.fnmatch_lines(["the baseline main was not saved: the run was interrupted*"])
    pytester.makepyfile(test_it="def test_c(): pass")
    result = plugin("--isolate-save=main")
    result.stdout.fnmatch_lines(["the baseline main was not saved: no isolated test passed"])
    assert path.read_text() == former


def test_ctrl_c_saves_nothing_and_loses_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import time, pytest
        pytestmark = pytest.mark.isolate(writable=["."])
        def test_first(): pass
        def test_sleeps():
            open("sleeping", "w").close()
            time.sleep(60)
        """
    )
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "pytest_isolate.plugin",
        "-v",
        "--isolate-save=main",
        "--isolate-repeat=2",
        "--isolate-json=run.json",
    ]
    with subprocess.Popen(command, cwd=pytester.path, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not (pytester.path / "sleeping").exists():  # it runs quietly at first: nothing is written when it begins
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 2
    assert "the baseline main was not saved: the run was interrupted" in rest
    assert not (pytester.path / ".isolate").exists()
    document = checked((pytester.path / "run.json").read_text())
    assert document["tests"][0]["outcome"] == "passed"


@pytest.mark.parametrize(
    "conftest", ["", "def pytest_runtest_logreport(report):\n    if 'second' in report.nodeid: raise ValueError('broken')"]
)
def test_run_that_ended_early_with_whatever_status_is_an_interrupted_one(
    pytester: pytest.Pytester, plugin: Pytest, conftest: str
) -> None:
    pytester.makeconftest(conftest)
    pytester.makepyfile(
        test_it="import pytest\npytestmark = pytest.mark.isolate\ndef test_first(): pass\ndef test_second(): pytest.exit('enough', returncode=0)\ndef test_third(): pass"
    )
    result = plugin("--isolate-save=main", "--isolate-json=run.json")
    assert result.ret == (pytest.ExitCode.INTERNAL_ERROR if conftest else 0)
    document = checked((pytester.path / "run.json").read_text())
    assert document["run"]["interrupted"]
    assert "test_it.py::test_first" in [test["nodeid"] for test in document["tests"]]
    assert not (pytester.path / ".isolate").exists()


@requires("plugin-pytest-xdist")
def test_runs_on_every_worker_are_runs_of_one_test(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=memory(20))
    each = ["-p", "xdist", "--dist=each", "--tx=2*popen", "--isolate-repeat=3"]
    plugin(*each, "--isolate-save=main", "--isolate-json=run.json").assert_outcomes(passed=4)
    saved = checked((pytester.path / ".isolate/baselines/main.json").read_text())
    assert [(test["nodeid"], len(test["repetitions"])) for test in saved["tests"]] == [
        ("test_it.py::test_memory", 6), ("test_it.py::test_steady", 6),
    ]  # fmt: skip
    whole = checked((pytester.path / "run.json").read_text())
    of_whole = [usage for test in whole["tests"] if "test_memory" in test["nodeid"] for usage in test["repetitions"]]
    assert saved["tests"][0]["repetitions"] == of_whole
    result = plugin(
        "--isolate-compare=main", "--isolate-compare-fail=memory:30%", "--isolate-repeat=6", "--isolate-json=run.json"
    )
    assert result.ret == 0
    assert compared(pytester)["test_memory", "memory"]["noise"] is not None


@requires("root", "cgroup-memory")
def test_growth_of_memory_that_is_the_tests_own(pytester: pytest.Pytester, plugin: Pytest) -> None:
    budget = 'budget={"memory_own": "1GiB"}, writable'
    pytester.makepyfile(test_it=memory(20).replace("writable", budget))
    assert plugin("--isolate-save=main", "--isolate-repeat=6").ret == 0
    pytester.makepyfile(test_it=memory(40).replace("writable", budget))
    gate = ["--isolate-compare=main", "--isolate-compare-fail=memory_own:20%", "--isolate-repeat=6", "--isolate-json=run.json"]
    assert plugin(*gate).ret == 1
    found = compared(pytester)
    assert found["test_memory", "memory_own"]["exceeded"]
    assert ("test_steady", "memory_own") not in found


def test_baseline_of_another_machine_is_said_and_its_times_are_not_judged(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=memory(20))
    plugin("--isolate-save=main", "--isolate-repeat=6")
    path = pytester.path / ".isolate/baselines/main.json"
    document = json.loads(path.read_text())
    gate = ["--isolate-compare=main", "--isolate-compare-fail=memory:10%,cpu:1%", "--isolate-repeat=6", "--isolate-json=run.json"]
    pytester.makepyfile(test_it=memory(40))

    path.write_text(json.dumps({**document, "machine": {**document["machine"], "processor": "Abacus 9", "name": "elsewhere"}}))
    result = plugin(*gate)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["unlike: the baseline is of another machine (processor Abacus 9, here *"])
    found = compared(pytester)
    assert (found["test_memory", "cpu"]["verdict"], found["test_memory", "cpu"]["noise"]) == ("unclear", None)
    assert found["test_memory", "memory"]["exceeded"]
    assert checked((pytester.path / "run.json").read_text())["comparison"]["unjudged"] == ["cpu", "instructions", "wall"]

    other = {**document["machine"], "kernel": "3.10.0-1160.el7", "cgroup_layout": "none", "python": "3.9.1"}
    path.write_text(json.dumps({**document, "machine": other}))
    result = plugin(*gate)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["unlike: *kernel 3.10*"])
    assert {row["verdict"] for (_, figure), row in compared(pytester).items() if figure in ("memory", "cpu", "wall")} == {
        "unclear"
    }


def test_figure_with_a_limit_that_this_run_lacks_fails_it(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=memory(20))
    plugin("--isolate-save=main", "--isolate-repeat=6")
    path = pytester.path / ".isolate/baselines/main.json"
    document = json.loads(path.read_text())
    for test in document["tests"]:
        for usage in (test["usage"], *test["repetitions"]):
            usage["net_tx_bytes"] = 1000
    path.write_text(json.dumps(document))
    result = plugin(
        "--isolate-compare=main", "--isolate-compare-fail=net_tx:10%", "--isolate-repeat=6", "--isolate-json=run.json"
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not measured: net_tx of test_it.py::test_memory, which has a limit"])


BAD = [
    (["--isolate-save=../x"], "--isolate-save: '../x' is no name; accepted: a name of letters"),
    (["--isolate-save="], "--isolate-save: '' is no name"),
    (["--isolate-save=main.json"], "--isolate-save: 'main.json' is no name; accepted: * doesn't end in .json"),
    (["--isolate-compare=late.json"], "late.json: it isn't as report.schema.json says: OverflowError"),
    (["--isolate-compare=large.json"], "large.json: it isn't as report.schema.json says: OverflowError"),
    (["--isolate-compare=empty.json", "--isolate-compare-fail=memory:5%"], "the baseline empty.json has no test that passed"),
    (["--isolate-compare=none"], "--isolate-compare: there is no baseline 'none'; accepted: *: main"),
    (["--isolate-compare=dir/none.json"], "there is no file *dir/none.json"),
    (["--isolate-compare=cut.json"], "cut.json: it is no JSON: *a file that was cut off has to be recorded again"),
    (["--isolate-compare=other.json"], "other.json: its version is 2, and this version of pytest-isolate reads 1: record it again"),
    (["--isolate-compare=list.json"], "list.json: it is no baseline and no document of --isolate-json"),
    (["--isolate-compare=half.json"], "half.json: it isn't as report.schema.json says: KeyError: 'run'"),
    (["--isolate-compare=bytes.json"], "bytes.json: *"),
    (["--isolate-compare=main", "--isolate-compare-fail=speed:10%"], "--isolate-compare-fail: no figure 'speed'; figures: cpu,"),
    (["--isolate-compare=main", "--isolate-compare-fail=memory"], "'memory' is not FIGURE:GROWTH; accepted: FIGURE:GROWTH"),
    (["--isolate-compare=main", "--isolate-compare-fail=memory:-5%"], "memory: '-5%' is not a quantity"),
    (["--isolate-compare=main", "--isolate-compare-fail=memory:10"], "memory: '10' has no unit"),
    (["--isolate-compare=main", "--isolate-compare-fail=cpu:1%,cpu:2%"], "cpu is given twice"),
    (["--isolate-save=x", "-o", "isolate_baselines=file"], "--isolate-save: *file/x.json can't be written: Not a directory"),
]  # fmt: skip


@pytest.mark.parametrize("arguments,said", BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_what_cannot_be_meant_is_an_error_before_any_test(
    pytester: pytest.Pytester, plugin: Pytest, arguments: list[str], said: str
) -> None:
    directory = pytester.mkdir(".isolate") / "baselines"
    directory.mkdir()
    usage = {"memory_peak_bytes": 1}
    tests = [{"nodeid": "test_it.py::test", "outcome": "passed", "usage": usage, "repetitions": [usage] * 6}]
    good = {"version": 1, "tests": tests, "run": {"started": 0, "commit": ""}, "machine": {}}
    (directory / "main.json").write_text(json.dumps(good))
    (directory / "not a name.json").write_text("")
    (pytester.path / "cut.json").write_text(json.dumps(good)[:60])
    (pytester.path / "other.json").write_text(json.dumps({**good, "version": 2}))
    (pytester.path / "list.json").write_text("[]")
    (pytester.path / "empty.json").write_text(json.dumps({**good, "tests": []}))
    (pytester.path / "late.json").write_text(json.dumps({**good, "run": {"started": 1e300, "commit": ""}}))
    (pytester.path / "large.json").write_text(
        json.dumps(good).replace('"memory_peak_bytes": 1', '"memory_peak_bytes": 1' + "0" * 400)
    )
    (pytester.path / "half.json").write_text('{"version": 1, "tests": []}')
    (pytester.path / "bytes.json").write_bytes(b"\xff\xfe")
    (pytester.path / "file").write_text("")
    pytester.makepyfile("def test(): open('ran', 'w')")
    result = plugin("--isolate-repeat=6", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{said}*"])
    assert not (pytester.path / "ran").exists()


def test_ini_keys_choose_the_directory_the_baseline_and_the_limits(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makeini("[pytest]\nisolate_baselines = kept\nisolate_compare_fail = memory:10%\nisolate_repeat = 6")
    pytester.makepyfile(test_it=memory(20))
    assert plugin("--isolate-save=main").ret == 0  # limits alone compare nothing
    assert (pytester.path / "kept/main.json").exists()
    pytester.makepyfile(test_it=memory(40))
    assert plugin("--isolate-compare=main").ret == 1


def test_first_baseline_can_be_recorded_where_the_ini_file_has_every_run_compare_with_it(
    pytester: pytest.Pytester, plugin: Pytest
) -> None:
    pytester.makeini("[pytest]\nisolate_compare = main\nisolate_compare_fail = memory:10%\nisolate_repeat = 6")
    pytester.makepyfile(test_it=memory(20))
    for arguments in ([], ["--isolate-save=other"], ["--isolate-save=main", "--isolate-compare=main"]):
        result = plugin(*arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*there is no baseline 'main'*"])
    assert plugin("--isolate-save=main").ret == 0
    pytester.makepyfile(test_it=memory(40))
    assert plugin("--isolate-save=main").ret == 1
    result = plugin("--isolate-save=main", "-o", "isolate_compare=")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("compared with*")
    assert plugin("--isolate-save=main").ret == 0


def test_baseline_without_a_test_of_this_run_is_said(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=memory(2))
    plugin("--isolate-save=main")
    pytester.makepyfile(test_it="def test_plain(): pass")
    plugin("--isolate-compare=main").stdout.fnmatch_lines(["compared with main (*): 2 not run"])


def test_listing_tests_and_workers_save_nothing(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=memory(2))
    for option in ("--collect-only", "--isolate-plan"):
        plugin(option, "--isolate-save=main")
    assert not (pytester.path / ".isolate").exists()


@pytest.mark.parametrize("restart", [(), ("--max-worker-restart=0",)], ids=["replaced", "not-replaced"])
@requires("plugin-pytest-xdist")
def test_run_in_which_a_worker_crashed_is_no_baseline(
    pytester: pytest.Pytester, plugin: Pytest, restart: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        test_it="""
        import os, pytest
        @pytest.mark.isolate
        @pytest.mark.parametrize("n", range(6))
        def test_isolated(n): pass
        def test_plain(): os._exit(3)
        """
    )
    result = plugin("-p", "xdist.plugin", "-n", "2", *restart, "--isolate-save=main", "--isolate-json=run.json")
    result.stdout.fnmatch_lines(["the baseline main was not saved: the run was interrupted*"])
    assert checked((pytester.path / "run.json").read_text())["run"]["interrupted"]
    assert not (pytester.path / ".isolate").exists()


@requires("instructions")
def test_instructions_are_counted_where_the_processor_shows_them(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=BUSY.format(work=0.05))
    plugin("--isolate-instructions", "--isolate-json=run.json")
    assert checked((pytester.path / "run.json").read_text())["tests"][0]["usage"]["cpu_instructions"] > 1e6


@requires("instructions")
def test_growth_of_instructions_is_judged_on_a_busy_machine(pytester: pytest.Pytester, plugin: Pytest) -> None:
    def status(numbers: int, *arguments: str) -> int:
        pytester.makepyfile(test_it=f"import pytest\n@pytest.mark.isolate\ndef test_sum(): sum(range({numbers}))")
        return int(plugin("--isolate-repeat=6", *arguments).ret)

    assert status(300_000, "--isolate-instructions", "--isolate-save=main") == 0
    gate = ["--isolate-compare=main", "--isolate-compare-fail=instructions:5%"]
    with subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while True: pass"]) as busy:
        try:
            assert status(300_000, *gate) == 0
            assert status(400_000, *gate) == 1
        finally:
            busy.kill()


def test_instructions_that_cannot_be_counted_are_an_error_before_any_test(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makeconftest(standing_for_instructions(refused_event()))
    pytester.makeini("[pytest]\naddopts = -p conftest\npythonpath = .")
    pytester.makepyfile(test_it=memory(2))
    plugin("--isolate-save=main", "--isolate-repeat=6")
    (pytester.path / "count").unlink()
    for arguments, name in (
        (["--isolate-instructions"], "command line: --isolate-instructions"),
        (["-o", "isolate_instructions=true"], "command line (-o): isolate_instructions"),
        (
            ["--isolate-compare=main", "--isolate-compare-fail=instructions:5%", "--isolate-repeat=6"],
            "command line: --isolate-compare-fail",
        ),
    ):
        result = plugin(*arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            [f"*{name}: instructions can't be counted: perf_event_open(PERF_COUNT_HW_INSTRUCTIONS): *; remedy: *"]
        )
    assert not (pytester.path / "count").exists()
    limit = ["-o", "isolate_compare_fail=instructions:5%"]
    assert plugin(*limit).ret == 0  # of runs that compare, and of those that record what others compare with
    result = plugin(*limit, "--isolate-save=main")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*command line (-o): isolate_compare_fail: instructions can't be counted: *"])


@pytest.mark.parametrize(
    "how", ["alone", "xdist", pytest.param("user", marks=requires("root", "unprivileged-user", "userns", "user-counters"))]
)
def test_what_a_test_does_is_counted_with_all_that_it_starts(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Page faults, which every machine counts, go the way of instructions."""
    pytester.makeconftest(standing_for_instructions(perf_event.PAGE_FAULTS))
    pytester.makeini("[pytest]\naddopts = -p conftest\npythonpath = .")
    pytester.makepyfile(
        test_it="""
        import ctypes, os, subprocess, sys, threading, pytest
        pytestmark = pytest.mark.isolate
        TOUCH = "import ctypes; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0); data = bytearray(20 << 20); data[::4096] = b'x' * len(data[::4096])"
        def test_nothing(): pass
        def test_programs(isolate_box):
            for _ in range(2):
                subprocess.run([sys.executable, "-I", "-S", "-c", TOUCH], check=True)
            assert isolate_box.usage().cpu_instructions > 10000
        def test_thread():
            thread = threading.Thread(target=exec, args=(TOUCH,))
            thread.start()
            thread.join()
        """
    )
    done = run(pytester, monkeypatch, "--isolate-instructions", "--isolate-json=run.json", how=how, keep=["run.json"])
    assert done.result.ret == 0, done.output
    counts = {
        test["nodeid"].partition("::")[2]: test["usage"]["cpu_instructions"] for test in checked(done.files["run.json"])["tests"]
    }
    pages = 20 * 256
    assert counts["test_nothing"] < pages
    assert 2 * pages < counts["test_programs"] < 2 * pages + 8000
    assert pages < counts["test_thread"] < pages + 5000
