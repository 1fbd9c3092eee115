"""Budgets: what a test used beyond its limits fails it, once, when it has run, and looks to pytest like any failure."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest

from pytest_isolate.machine.counters import uncounted
from tests.support.capabilities import requires
from tests.support.isolated_runs import EVERY_WAY, Run, run

pytestmark = requires("root", "cgroup-memory", "cgroup-pids")

NOWHERE = "--isolate-cgroup=no/such/directory"

IN_CALL = {
    "cpu": "100ms", "wall": "150ms", "memory": "24MiB", "memory_own": "20MiB", "pids": 4,
}  # fmt: skip

SUITE = """
import subprocess, threading, time, pytest

def budget(**limits):
    return pytest.mark.isolate(budget=limits)

@budget(cpu="100ms")
def test_cpu():
    end = time.process_time() + 0.3
    while time.process_time() < end: pass

@budget(wall="150ms")
def test_wall(): time.sleep(0.3)

@budget(memory="24MiB")
def test_memory(): bytearray(40 << 20)

@budget(memory_own="20MiB")
def test_memory_own(): bytearray(40 << 20)

@budget(pids=4)
def test_pids():
    threads = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

@budget(disk="1MiB")
def test_disk():
    with open("/var/tmp/big", "wb") as file: file.write(bytes(3 << 20))

@budget(processes_left=0)
def test_processes_left(): subprocess.Popen(["sleep", "60"])

@budget(cpu="10s", wall="1min", memory="1GiB", memory_own="1GiB", pids=100, disk="1GiB", processes_left=0)
def test_within(): pass
"""


def first_line(done: Run, name: str, when: str) -> str:
    return done.of(name, when).first_line


@EVERY_WAY
def test_breach_fails_the_phase_in_which_it_shows_and_no_other(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(test_it=SUITE)
    done = run(pytester, monkeypatch, "--isolate-json=run.json", how=how, keep=["run.json"])
    calls = {(f"test_{figure}", "call") for figure in IN_CALL}
    assert done.failed() == calls | {("test_disk", "teardown"), ("test_processes_left", "teardown")}
    assert done.result.ret == 1
    done.result.assert_outcomes(failed=5, passed=3, errors=2)
    tests = {test["nodeid"].partition("::")[2]: test for test in json.loads(done.files["run.json"])["tests"]}
    for name, when in done.failed():
        figure = name.removeprefix("test_")
        assert re.match(
            rf"{figure} \S+( \S+)?, budget \S+( \S+)?: \S+ (% )?(over|times as much)", first_line(done, name, when)
        ), done.of(name, when).text
        assert ("BUDGET", True) in done.problems(name)
        (judged,) = tests[name]["budget"]
        assert (judged["figure"], judged["verdict"], judged["place"]) == (figure, "over", f"marker of test_it.py::{name}")
        assert judged["used"] > judged["allowed"]
        assert tests[name]["outcome"] == ("failed" if when == "call" else "error")
    assert done.problems("test_within") == []
    assert {judged["verdict"] for judged in tests["test_within"]["budget"]} == {"within"}
    assert [judged["figure"] for judged in tests["test_within"]["budget"]] == [*IN_CALL, "disk", "processes_left"]
    output = done.result.stdout.str()
    assert output.count("OVER BUDGET test_it.py::") == 7
    assert len(re.findall(r"^BUDGET test_it\.py::", output, re.MULTILINE)) == 7


@EVERY_WAY
def test_letter_and_word_are_its_own(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pytester.makepyfile(test_it=SUITE)
    letters = run(pytester, monkeypatch, "-k", "test_memory or test_disk or test_within", how=how).result
    shown = "".join(re.findall(r"^(?:test_it\.py )?([.B]+) *\[", letters.stdout.str(), re.MULTILINE))
    assert sorted(shown) == sorted("B" * 3 + "." * 2)  # the call of test_disk passes
    words = run(pytester, monkeypatch, "-v", "-k", "test_memory_own", how=how).result
    words.stdout.re_match_lines([r".*OVER BUDGET.*" if how == "xdist" else r"test_it.py::test_memory_own OVER BUDGET +\[100%\]"])


def alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, code: str, *args: str) -> Run:
    pytester.makepyfile(test_it="import pytest, time, unittest\n" + code)
    return run(pytester, monkeypatch, *args)


OVER = '@pytest.mark.isolate(budget={"wall": "50ms"})\n'
"""Of a test that sleeps for 0.1 s."""


def test_text_says_used_allowed_by_how_much_where_and_what_to_change(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = '@pytest.mark.isolate(budget={"memory": "20MiB", "pids": 9, "wall": "60s"})\ndef test_it(): bytearray(40 << 20)'
    done = alone(pytester, monkeypatch, code, "--isolate-budget=cpu=50s")
    lines = done.of("test_it", "call").text.splitlines()
    assert re.fullmatch(r"memory 4\d\.\d MiB, budget 20 MiB: 1\d\d % over", lines[0])
    pytest.LineMatcher(lines).re_match_lines(
        [
            r"figure +used +allowed +by how much +set in",
            r"cpu +\d.*s +50 s +(less than )?\d+ % of it +--isolate-budget of command line",
            r"wall +\d.*s +1 min 00 s +(less than )?\d+ % of it +marker of test_it\.py::test_it",
            r"memory +4\d\.\d MiB +20 MiB +1\d\d % over +marker of test_it\.py::test_it",
            r"pids +1 +9 +11 % of it +marker of test_it\.py::test_it",
            r"memory counts pages of pytest's own heap that the test copied by writing to them .*: an estimated \d\.\d MiB of 4\d\.\d MiB; a budget for memory_own judges the other 4\d\.\d MiB",
            r"no former run is known",
            r'to allow it: "memory": "\d\dMiB" in marker of test_it\.py::test_it',
            r"to lower memory: .*",
        ]
    )
    done.result.stdout.re_match_lines([r"OVER BUDGET test_it\.py::test_it - .*memory 4\d\.\d MiB, budget 20 MiB: 1\d\d % over"])


def test_limit_that_the_text_proposes_is_kept(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "@pytest.mark.isolate(budget={%s})\ndef test_it(): bytearray(40 << 20)"
    text = alone(pytester, monkeypatch, code % '"memory": "20MiB"').of("test_it", "call").text
    proposed = re.search(r'to allow it: ("memory": "\w+")', text)
    assert proposed
    again = code % proposed[1] + "  # longer, as byte code of the former text counts in the same second"
    alone(pytester, monkeypatch, again).result.assert_outcomes(passed=1)


def test_breach_of_two_figures_is_one_failure_named_by_the_graver(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = '@pytest.mark.isolate(budget={"wall": "50ms", "memory": "10KiB", "pids": 9})\ndef test_it(): time.sleep(0.1)'
    done = alone(pytester, monkeypatch, code)
    done.result.assert_outcomes(failed=1)
    assert re.match(r"memory .* MiB, budget 10 KiB: \d+ times as much; also over: wall$", first_line(done, "test_it", "call"))
    assert done.of("test_it", "call").text.count("to allow it: ") == 2


def test_teardown_of_a_fixture_that_uses_too_much_is_an_error_at_teardown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
@pytest.fixture
def slow():
    yield
    time.sleep(0.3)

@pytest.mark.isolate(budget={"wall": "200ms"})
def test_it(slow): pass
"""
    done = alone(pytester, monkeypatch, code)
    assert done.failed() == {("test_it", "teardown")}
    assert first_line(done, "test_it", "teardown").startswith("wall ")


def test_time_that_pytest_takes_between_phases_is_not_the_tests(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest("import time\ndef pytest_runtest_logreport(report): time.sleep(0.4)")
    code = '@pytest.mark.isolate(budget={"wall": "400ms"})\ndef test_it(): time.sleep(0.01)'
    alone(pytester, monkeypatch, code).result.assert_outcomes(passed=1)


def test_failed_test_keeps_its_failure_and_gets_a_section(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = OVER + "def test_it():\n    time.sleep(0.1)\n    assert 0, 'mine'"
    done = alone(pytester, monkeypatch, code)
    assert done.failed() == {("test_it", "call")}
    report = done.of("test_it", "call")
    assert "AssertionError: mine" in report.text
    assert report.section("isolate: budget").startswith("wall ")
    assert done.problems("test_it") == [("BUDGET", False)]
    assert "OVER BUDGET" not in done.output


def test_failed_set_up_gets_a_section(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "@pytest.fixture\ndef bad():\n    time.sleep(0.1)\n    assert 0\n" + OVER + "def test_it(bad): pass"
    done = alone(pytester, monkeypatch, code)
    assert done.failed() == {("test_it", "setup")}
    assert done.of("test_it", "setup").section("isolate: budget").startswith("wall ")


def test_timeout_stays_a_timeout(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = '@pytest.mark.isolate(timeout="300ms", budget={"wall": "100ms"})\ndef test_it(): time.sleep(9)'
    done = alone(pytester, monkeypatch, code)
    assert first_line(done, "test_it", "call").startswith("timeout of 300 ms")
    assert [kind for kind, failed in done.problems("test_it") if failed] == ["TIMEOUT"]


def test_skipped_test_is_not_judged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "    time.sleep(0.1)\n    pytest.skip('no')\n"
    code = f"{OVER}def test_call():\n{body}@pytest.fixture\ndef skips():\n{body}{OVER}def test_setup(skips): pass"
    done = alone(pytester, monkeypatch, code)
    done.result.assert_outcomes(skipped=2)
    for name in ("test_call", "test_setup"):
        assert done.problems(name) == []
        record = done.of(name, "teardown").isolate
        assert record is not None
        assert "budget" not in record
    assert not (pytester.path / ".pytest_cache/v/isolate/budgets").exists()


@pytest.mark.parametrize("strict", [False, True])
def test_breach_is_what_an_xfail_waits_for(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *, strict: bool) -> None:
    code = f"@pytest.mark.xfail(strict={strict})\n{OVER}def test_it(): time.sleep(0.1)"
    done = alone(pytester, monkeypatch, code)
    done.result.assert_outcomes(xfailed=1)
    assert done.problems("test_it") == [("BUDGET", False)]


def test_strict_xfail_within_its_budget_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = alone(pytester, monkeypatch, f"@pytest.mark.xfail(strict=True)\n{OVER}def test_it(): pass", "--isolate-budget=wall=9s")
    assert done.failed() <= {("test_it", "call")}
    code = '@pytest.mark.xfail(strict=True)\n@pytest.mark.isolate(budget={"wall": "9s"})\ndef test_it(): pass'
    done = alone(pytester, monkeypatch, code)
    assert "[XPASS(strict)]" in done.of("test_it", "call").text


def test_xfail_that_waits_for_another_error_does_not_excuse_a_breach(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"@pytest.mark.xfail(raises=KeyError)\n{OVER}def test_it(): time.sleep(0.1)"
    done = alone(pytester, monkeypatch, code)
    done.result.assert_outcomes(failed=1)
    assert first_line(done, "test_it", "call").startswith("wall ")


def test_test_of_a_testcase_is_judged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
class Test(unittest.TestCase):
    {OVER.strip()}
    def test_over(self): time.sleep(0.1)
    @pytest.mark.isolate(budget={{"wall": "9s"}})
    def test_within(self): pass
    @unittest.expectedFailure
    {OVER.strip()}
    def test_expected(self):
        time.sleep(0.1)
        assert 0
"""
    done = alone(pytester, monkeypatch, code)
    done.result.assert_outcomes(failed=1, passed=1, xfailed=1)
    assert done.failed() == {("Test::test_over", "call")}


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has subtests since 9.0")
def test_subtests_go_with_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = OVER + "def test_it(subtests):\n    for i in range(3):\n        with subtests.test(i=i): time.sleep(0.05)\n"
    done = alone(pytester, monkeypatch, code)
    assert first_line(done, "test_it", "teardown") == ""
    failed = [report for report in done if report.outcome == "failed"]
    assert len(failed) == 1
    assert failed[0].first_line.startswith("wall ")


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has subtests since 9.0")
def test_breach_beside_a_failed_subtest_fails_the_test_itself(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = OVER + "def test_it(subtests):\n    with subtests.test('bad'):\n        time.sleep(0.1)\n        assert 0\n"
    done = alone(pytester, monkeypatch, code)
    subtest, own = [report for report in done if report.outcome == "failed"]
    assert "assert 0" in subtest.text
    assert own.first_line.startswith("wall ")
    assert done.problems("test_it") == [("BUDGET", True)]


@requires("plugin-pytest-rerunfailures")
def test_rerun_has_another_try(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import os
@pytest.mark.isolate(writable=["."], budget={"wall": "400ms"})
def test_late_once():
    if not os.path.exists("first"):
        os.mkdir("first")
        time.sleep(0.5)
@pytest.mark.isolate(budget={"wall": "50ms"})
def test_late_always(): time.sleep(0.1)
"""
    done = alone(pytester, monkeypatch, code, "-p", "rerunfailures", "--reruns=2")
    outcomes = done.result.parseoutcomes()
    assert outcomes == {"failed": 1, "passed": 1, "rerun": 3}


def test_x_stops_and_lf_repeats_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = OVER + "def test_a(): time.sleep(0.1)\ndef test_b(): pass"
    alone(pytester, monkeypatch, code, "-x").result.assert_outcomes(failed=1)
    done = run(pytester, monkeypatch, "--lf")
    done.result.assert_outcomes(failed=1)


def test_junit_counts_it_as_a_failure_with_the_sentence(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(pytester, monkeypatch, OVER + "def test_it(): time.sleep(0.1)", "--junitxml=junit.xml")
    text = (pytester.path / "junit.xml").read_text()
    assert 'failures="1"' in text
    assert re.search(r'<failure message="Failed: wall [^"]*, budget 50 ms', text)


def test_debugger_and_warnings_as_errors_go_with_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = alone(pytester, monkeypatch, OVER + "def test_it(): time.sleep(0.1)", "--pdb", "-W", "error")
    done.result.assert_outcomes(failed=1)
    assert "(Pdb)" not in done.output


@EVERY_WAY
def test_warn_lists_it_and_the_test_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pytester.makepyfile(test_it=SUITE)
    done = run(pytester, monkeypatch, "--isolate-budgets=warn", how=how)
    assert done.failed() == set()
    assert done.problems("test_wall") == [("BUDGET", False)]
    assert done.problems("test_within") == []
    assert len(re.findall(r"^ *BUDGET test_it\.py::", done.result.stdout.str(), re.MULTILINE)) == 7


def test_off_judges_nothing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nisolate_budgets = off")
    pytester.makepyfile(test_it=SUITE)
    done = run(pytester, monkeypatch, "-k", "wall or within")
    done.result.assert_outcomes(passed=2)
    assert done.problems("test_wall") == []
    record = done.of("test_within", "teardown").isolate
    assert record is not None
    assert "budget" not in record
    assert "budget" not in record["spec"]


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_text_tells_what_former_runs_used(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    code = """
        import os, pytest
        @pytest.mark.isolate(budget={"memory": os.environ["ALLOWED"]})
        def test_it(): bytearray(int(os.environ["USED"]) << 20)
        @pytest.mark.isolate
        def test_without(): pass
    """
    pytester.makepyfile(test_it=code)
    monkeypatch.setenv("ALLOWED", "200MiB")
    for used in range(20, 68, 4):
        monkeypatch.setenv("USED", str(used))
        run(pytester, monkeypatch, how=how).result.assert_outcomes(passed=2)
    monkeypatch.setenv("ALLOWED", "10MiB")
    done = run(pytester, monkeypatch, how=how)
    found = re.search(r"former runs, the latest last:\n  memory: (.*)", done.of("test_it", "call").text)
    assert found
    sizes = [float(size.removesuffix(" MiB")) for size in found[1].split(", ")]
    assert len(sizes) == 10
    assert all(2 < later - earlier < 6 for earlier, later in pairwise(sizes))
    cached = json.loads((pytester.path / ".pytest_cache/v/isolate/budgets").read_text())
    assert {nodeid: list(figures) for nodeid, figures in cached.items()} == {"test_it.py::test_it": ["memory"]}
    assert len(cached["test_it.py::test_it"]["memory"]) == 10


def test_history_is_read_once_however_many_tests_are_over(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeconftest(
        """
        import pytest
        get = pytest.Cache.get
        def counted(self, key, default):
            if key == "isolate/budgets":
                print("history is read")
            return get(self, key, default)
        pytest.Cache.get = counted
        """
    )
    code = f"{OVER}@pytest.mark.parametrize('number', range(4))\ndef test_it(number): time.sleep(0.1)"
    done = alone(pytester, monkeypatch, code, "-s")
    done.result.assert_outcomes(failed=4)
    assert done.output.count("history is read") == 2  # for what is told, and at the end, to write it


def test_what_was_cut_short_by_something_else_is_no_history(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
@pytest.mark.isolate(timeout="300ms", budget={{"wall": "100ms"}})
def test_hangs(): time.sleep(9)
{OVER}def test_fails():
    time.sleep(0.1)
    assert 0
{OVER}def test_over(): time.sleep(0.1)
"""
    done = alone(pytester, monkeypatch, code)
    assert {name for name in ("test_hangs", "test_fails", "test_over") if ("BUDGET", False) in done.problems(name)} == {
        "test_hangs", "test_fails",
    }  # fmt: skip
    cached = json.loads((pytester.path / ".pytest_cache/v/isolate/budgets").read_text())
    assert list(cached) == ["test_it.py::test_over"]


def test_history_of_somebody_elses_making_and_no_cache_are_no_history(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = OVER + "def test_it(): time.sleep(0.1)"
    assert "no former run is known" in alone(pytester, monkeypatch, code, "-p", "no:cacheprovider").of("test_it", "call").text
    assert not (pytester.path / ".pytest_cache").exists()
    for content in ('{"test_it.py::test_it": {"wall": ["x"]}}', '{"test_it.py::test_it": 3}', "[]", "no JSON"):
        path = pytester.path / ".pytest_cache/v/isolate/budgets"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        assert "no former run is known" in alone(pytester, monkeypatch, code).of("test_it", "call").text


# --- figures that can't be had ------------------------------------------------------------------------------------

UNMEASURED = """
import pytest

@pytest.mark.isolate(budget={"memory": "64MiB", "wall": "9s"})
def test_memory(isolate_box):
    assert dict(isolate_box.spec.budget) == {"wall": 9.0}

@pytest.mark.isolate(budget={"cpu": "1ms", "processes_left": 0})
def test_cpu():
    for _ in range(10**6): pass
"""


def test_limit_on_what_the_machine_does_not_count_is_an_error_before_the_test_runs(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_it=UNMEASURED)
    done = run(pytester, monkeypatch, NOWHERE)
    report = done.of("test_memory", "setup")
    assert report.first_line.startswith("budget.memory needs cgroup-memory: ")
    assert "\n  remedy: " in report.longrepr
    # Without a cgroup, CPU time is known when the test has been waited for.
    assert done.failed() == {("test_memory", "setup"), ("test_cpu", "teardown")}
    assert first_line(done, "test_cpu", "teardown").startswith("cpu ")


def test_limit_on_what_the_machine_does_not_count_can_skip_or_be_left_out(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_it=UNMEASURED)
    skipped = run(pytester, monkeypatch, NOWHERE, "--isolate-missing=skip", "-rs", "-k", "memory")
    skipped.result.assert_outcomes(skipped=1, deselected=1)
    skipped.result.stdout.fnmatch_lines("SKIPPED*.py:*isolate: budget.memory needs cgroup-memory*")
    weakened = run(pytester, monkeypatch, NOWHERE, "--isolate-missing=weaken", "-k", "memory")
    weakened.result.assert_outcomes(passed=1, deselected=1)
    record = weakened.of("test_memory", "teardown").isolate
    assert record is not None
    assert record["weakened"][0].startswith("budget.memory needs cgroup-memory")
    assert [judged["figure"] for judged in record["budget"]] == ["wall"]


def test_limit_on_instructions_has_them_counted_or_says_why_they_cannot_be(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
@pytest.mark.isolate(budget={"instructions": 10**12})
def test_within(): pass

@pytest.mark.isolate(budget={"instructions": 1000})
def test_over(): pass
"""
    done = alone(pytester, monkeypatch, code)
    if (cause := uncounted()) is None:
        assert done.failed() == {("test_over", "call")}
    else:
        assert done.failed() == {("test_within", "setup"), ("test_over", "setup")}
        assert first_line(done, "test_over", "setup") == f"budget.instructions needs instructions: {cause.why}"
        assert f"remedy: {cause.remedy}" in done.output


def test_what_is_written_to_a_disk_is_judged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
@pytest.mark.isolate(upper="disk", budget={"disk": "1MB"})
@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_it(size):
    with open("big", "wb") as file: file.write(bytes(size))
"""
    done = alone(pytester, monkeypatch, code)
    assert done.failed() == {("test_it[3000000]", "teardown")}


@requires("unprivileged-user", "userns")
def test_limit_that_could_not_be_held_against_anything_is_no_pass_for_a_user(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that isn't dumpable can be looked into by root alone (proc(5), PR_SET_DUMPABLE)."""
    pytester.makepyfile(
        test_it="""
        import ctypes, pytest
        @pytest.mark.isolate(budget={"memory_own": "1GiB", "wall": "60s"})
        def test_it(): assert ctypes.CDLL(None).prctl(4, 0) == 0
        """
    )
    done = run(pytester, monkeypatch, "--isolate-json=run.json", how="user", keep=["run.json"])
    assert done.failed() == {("test_it", "teardown")}
    assert first_line(done, "test_it", "teardown") == "budget for memory_own, and it could not be measured"
    (test,) = json.loads(done.files["run.json"])["tests"]
    assert [(judged["figure"], judged["verdict"]) for judged in test["budget"]] == [
        ("wall", "within"),
        ("memory_own", "unmeasured"),
    ]


def collection_error(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, marker: str) -> str:
    pytester.makepyfile(test_it=f"import pytest\n@pytest.mark.isolate({marker})\ndef test_it(): pass")
    done = run(pytester, monkeypatch)
    done.result.assert_outcomes(errors=1)
    return done.output


@pytest.mark.parametrize(
    "marker,error",
    [
        ('budget={"net_tx": "1MB"}',
         'marker of test_it.py::test_it: budget.net_tx+net: net_tx is counted at the link to a bridge network, and net is "none"; accepted: net="bridge"'),
        ('memory="32MiB", budget={"memory": "64MiB"}', "budget.memory+memory: 64.0 MiB is never exceeded: memory=32.0 MiB stops the test"),
        ('timeout="1s", budget={"wall": "1s"}', "budget.wall+timeout: 1.00 s is never exceeded: timeout=1.00 s stops the test there"),
        ('budget={"mem": "1MB"}', "budget: no figure 'mem'; figures: cpu, instructions, wall, memory, memory_own, pids, "),
        ('budget={"memory": "64 apples"}', "budget: memory: unknown unit 'apples' in '64 apples'; accepted: mapping of figures to limits"),
        ('budget={"pids": -1}', "budget: pids: -1 is not a whole number, 0 or more"),
        ('budget="64MiB"', "budget: '64MiB' is not a mapping of figures to limits"),
    ],
)  # fmt: skip
def test_budget_that_cannot_be_meant_is_a_collection_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, marker: str, error: str
) -> None:
    assert error in collection_error(pytester, monkeypatch, marker)


def test_cap_of_the_test_below_a_budget_of_the_project_is_no_contradiction(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = '@pytest.mark.isolate(memory="64MiB")\ndef test_it(): pass'
    alone(pytester, monkeypatch, code, "--isolate-budget=memory=128MiB").result.assert_outcomes(passed=1)


def test_cap_and_budget_work_side_by_side(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
@pytest.mark.isolate(memory="64MiB", budget={"memory": "32MiB"})
@pytest.mark.parametrize("used", [1, 45, 90])
def test_it(used): bytearray(used << 20)
"""
    done = alone(pytester, monkeypatch, code)
    assert done.failed() == {("test_it[45]", "call"), ("test_it[90]", "call")}
    assert first_line(done, "test_it[45]", "call").startswith("memory 4")
    assert first_line(done, "test_it[90]", "call").startswith("OOM: ")


def test_tests_with_other_budgets_share_prepared_sandboxes(pytester: pytest.Pytester) -> None:
    from pytest_isolate.model.spec import Spec

    assert Spec(budget=(("cpu", 1.0),)).sandbox() == Spec(budget=(("pids", 3),)).sandbox() == Spec()


def test_run_without_budgets_loads_nothing_of_theirs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeconftest("""
        import sys
        def pytest_unconfigure():
            names = ("plugin.budgeting", "plugin.budget_status", "plugin.budget_patterns", "plugin.history", "plugin.measurable",
                     "report.budget", "kernel.copied_pages")
            print("LOADED", [name for name in names if "pytest_isolate." + name in sys.modules])
    """)
    done = alone(pytester, monkeypatch, "@pytest.mark.isolate\ndef test_it(): pass")
    assert "LOADED []" in done.output


# --- pytest's own heap --------------------------------------------------------------------------------------------

HEAP = """
import subprocess, sys, pytest
PAGE, MIB = 4096, 1 << 20
BUFFER = bytearray(40 * MIB)
DICTS = [{i: i} for i in range(100_000)]
KEPT = []
measured = pytest.mark.isolate(budget={"memory": "1GiB", "memory_own": "1GiB"})

def touch(what, size):
    for place in range(0, size, PAGE): what[place] = 1

@measured
def test_nothing(): pass

@measured
def test_copies(): touch(BUFFER, 40 * MIB)

@measured
def test_copies_by_counting_references():
    for each in DICTS: len(each)

@measured
def test_allocates(): KEPT.append(bytearray(40 * MIB)) or touch(KEPT[0], 40 * MIB)

@measured
def test_allocates_and_frees(): touch(bytearray(40 * MIB), 40 * MIB)

@measured
def test_allocates_small(): KEPT.append([{i: i} for i in range(100_000)])

@measured
def test_both(): KEPT.append(bytearray(20 * MIB)) or touch(KEPT[0], 20 * MIB) or touch(BUFFER, 20 * MIB)

@measured
def test_program(): subprocess.run([sys.executable, "-c", "bytearray(40 << 20)"], check=True)

@measured
def test_program_that_lives():
    KEPT.append(subprocess.Popen([sys.executable, "-c", "a = bytearray(40 << 20); print(flush=True); input()"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    KEPT[0].stdout.readline()
"""

OWN: dict[str, Any] = {
    "test_nothing": 0, "test_copies": 0, "test_copies_by_counting_references": 0, "test_allocates": 40,
    "test_allocates_and_frees": 40, "test_allocates_small": 24, "test_both": 20, "test_program": 40, "test_program_that_lives": 40,
}  # fmt: skip
"""MiB that the test made; the rest of its peak are copies."""


@EVERY_WAY
def test_pages_copied_of_pytests_heap_are_told_apart(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(test_it=HEAP)
    done = run(pytester, monkeypatch, how=how)
    done.result.assert_outcomes(passed=len(OWN))
    for name, made in OWN.items():
        used = done.of(name, "teardown").properties
        own = (used["isolate.memory_peak_bytes"] - used["isolate.memory_inherited_bytes"]) / (1 << 20)
        # A small dictionary's size depends on Python's version; a program has memory of its own, and leaves page cache behind.
        slack = {"test_allocates_small": 10, "test_program": 12, "test_program_that_lives": 12}.get(name, 2)
        assert made - slack <= own <= made + slack, f"{name}: {own} of {used}"
    assert done.of("test_copies", "teardown").properties["isolate.memory_inherited_bytes"] >= 40 << 20
    assert done.of("test_copies_by_counting_references", "teardown").properties["isolate.memory_inherited_bytes"] >= 6 << 20


def test_copies_are_looked_for_only_where_there_is_a_budget_for_memory(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = alone(pytester, monkeypatch, '@pytest.mark.isolate(budget={"cpu": "9s"})\ndef test_it(): pass')
    assert "isolate.memory_inherited_bytes" not in done.of("test_it", "teardown").properties
