"""``--isolate-repeat``: every isolated test runs N times and counts once."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.test_json import SUITE, checked
from tests.support.capabilities import requires
from tests.support.isolated_runs import EVERY_WAY, run
from tests.support.plugin_runs import Pytest, plugin

__all__ = ["plugin"]

KINDS = """
import os, unittest, pytest

def note(what):
    with open("log", "a") as file:
        file.write(what + "\\n")

@pytest.fixture(scope="session")
def whole():
    note("session up")
    yield
    note("session down")

@pytest.fixture(scope="module")
def module(whole):
    note("module up")
    yield
    note("module down")

@pytest.fixture(scope="class")
def of_class(module):
    note("class up")
    yield
    note("class down")

@pytest.fixture
def function(tmp_path):
    note("function up")
    yield
    note("function down")

pytestmark = pytest.mark.isolate(writable=["."])

@pytest.mark.parametrize("number", [1, 2])
def test_parameters(module, function, number):
    note(f"parameters {number}")

class TestClass:
    @pytest.fixture(autouse=True)
    def fresh(self, of_class):
        self.value = getattr(self, "value", 0) + 1

    def test_method(self):
        note("method")
        assert self.value == 1

class TestUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        note("unit class up")

    def setUp(self):
        self.value = getattr(self, "value", 0) + 1

    def test_unit(self):
        note("unit")
        self.assertEqual(self.value, 1)
        for number in range(2):
            with self.subTest(number=number):
                pass

@pytest.fixture
def outside(isolate_factory):
    return isolate_factory(name="other")

def test_factory(outside, record_property, record_testsuite_property):
    record_property("once", 1)
    record_testsuite_property("once", 1)
    print("said once")
    assert outside.run(["true"]).returncode == 0
    note("factory")
"""


def by_test(path: Path) -> dict[str, Any]:
    return {test["nodeid"].partition("::")[2]: test for test in checked(path.read_text())["tests"]}


def test_fixtures_of_every_scope_and_all_kinds_of_tests(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=KINDS, test_other="import pytest\n@pytest.mark.isolate\ndef test_other(): pass")
    result = plugin("--isolate-repeat=3", "--isolate-json=run.json", "--junit-xml=junit.xml", "-o", "junit_family=xunit1", "-v")
    result.assert_outcomes(passed=6)
    counts = Counter((pytester.path / "log").read_text().splitlines())
    assert counts == {
        "session up": 1, "session down": 1, "module up": 1, "module down": 1, "class up": 1, "class down": 1, "unit class up": 1,
        "function up": 6, "function down": 6, "parameters 1": 3, "parameters 2": 3, "method": 3, "unit": 3, "factory": 3,
    }  # fmt: skip
    tests = by_test(pytester.path / "run.json")
    assert list(tests) == [
        "test_parameters[1]", "test_parameters[2]", "TestClass::test_method", "TestUnit::test_unit", "test_factory", "test_other",
    ]  # fmt: skip
    for test in tests.values():
        assert (test["attempt"], len(test["repetitions"])) == (1, 3)
        assert test["repetitions"][-1] == test["usage"]
        assert all(usage["cpu_seconds"] > 0 for usage in test["repetitions"])
    suite = ET.parse(pytester.path / "junit.xml").getroot()
    names = {case.attrib["name"]: case for case in suite.iter("testcase")}
    assert len(names) == 6
    assert [element.attrib for element in suite.findall("testsuite/properties/property")] == [{"name": "once", "value": "1"}]
    assert [element.attrib["name"] for element in names["test_factory"].iter("property")].count("once") == 1


@EVERY_WAY
def test_outcomes_are_those_of_a_run_without_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pytester.makepyfile(test_it=SUITE)
    done = run(pytester, monkeypatch, "--isolate-repeat=2", "--isolate-json=run.json", how=how, keep=["run.json"])
    document = checked(done.files["run.json"])
    assert document["totals"]["outcomes"] == {"passed": 2, "failed": 2, "skipped": 1, "xfailed": 1, "xpassed": 1, "error": 1}
    assert document["plain_tests"] == 1
    assert document["totals"]["attempts"] == 8
    repeated = {test["nodeid"].partition("::")[2] for test in document["tests"] if len(test.get("repetitions", ())) == 2}
    assert {"test_passes", "test_leaves_something"} <= repeated
    done.result.assert_outcomes(passed=4, failed=2, skipped=1, xfailed=1, xpassed=1, errors=2)


COUNTED = """
import os, pytest

def number():
    with open("count", "a+") as file:
        file.write("x")
        return file.tell()

@pytest.fixture(scope="module")
def wide():
    yield
    if os.path.exists("spoil"):
        raise ValueError("wide teardown")

@pytest.mark.isolate(writable=["."])
def test_third_time(wide):
    now = number()
    print(f"time {now}")
    assert now != 3

@pytest.mark.isolate
def test_next(wide): pass
"""


def test_test_that_fails_in_one_of_its_runs_fails(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=COUNTED)
    result = plugin("--isolate-repeat=6", "--isolate-json=run.json")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*assert 3 != 3", "*Captured stdout call*", "time 3", "*isolate: repeated*", "run 3 of 6 (--isolate-repeat=6)"]
    )
    result.stdout.no_fnmatch_line("time 2")
    assert (pytester.path / "count").read_text() == "xxx"
    tests = by_test(pytester.path / "run.json")
    assert "repetitions" not in tests["test_third_time"] or len(tests["test_third_time"]["repetitions"]) < 6
    assert len(tests["test_next"]["repetitions"]) == 6


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests are pytest's own since 9.0")
def test_failing_subtest_fails_its_test_once_and_others_are_told_of_once(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.isolate
        def test_fails(subtests):
            for number in range(2):
                with subtests.test(number=number):
                    assert number == 0
        @pytest.mark.isolate
        def test_skips(subtests):
            with subtests.test(): pytest.skip("no")
            with subtests.test(): pass
        """
    )
    result = plugin("--isolate-repeat=3", "-rf")
    result.stdout.fnmatch_lines(["*contains 1 failed subtest"])
    assert sum("SUBFAILED" in line for line in result.outlines) == 1


def test_first_failure_stops_with_x(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=COUNTED)
    result = plugin("--isolate-repeat=6", "-x")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])


def test_wide_fixtures_are_torn_down_after_a_run_that_failed(pytester: pytest.Pytester, plugin: Pytest) -> None:
    alone = COUNTED.partition("@pytest.mark.isolate\ndef test_next")[0]
    pytester.makepyfile(test_a=alone, test_b="import pytest\n@pytest.mark.isolate\ndef test_b(): pass")
    (pytester.path / "spoil").touch()
    result = plugin("--isolate-repeat=4")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_third_time*", "E*ValueError: wide teardown"])


@requires("plugin-pytest-rerunfailures")
def test_failing_run_is_run_again_where_pytest_rerunfailures_does_it(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(test_it=COUNTED)
    result = plugin("-p", "rerunfailures", "--reruns=1", "--isolate-repeat=6", "--isolate-json=run.json")
    assert result.parseoutcomes() == {"passed": 2, "rerun": 1}
    document = checked((pytester.path / "run.json").read_text())
    assert document["totals"]["outcomes"] == {"passed": 2}


FLAKY = """
import os, pytest

@pytest.mark.isolate(writable=["."])
@pytest.mark.flaky({marker})
def test_first_time_fails():
    if not os.path.exists("failed"):
        os.mkdir("failed")
        raise ValueError("first time")
"""


@requires("plugin-pytest-rerunfailures")
@pytest.mark.parametrize(
    "marker,options,outcomes",
    [
        ("reruns=1", [], {"passed": 1, "rerun": 1}),
        ("reruns=0", [], {"failed": 1}),
        ("reruns=1, condition=False", [], {"failed": 1}),
        ("reruns=1", ["--only-rerun=KeyError"], {"failed": 1}),
        ("reruns=1", ["--only-rerun=ValueError"], {"passed": 1, "rerun": 1}),
        ("reruns=1", ["--rerun-except=ValueError"], {"failed": 1}),
    ],
)
def test_failing_run_is_no_rerun_where_that_plugin_would_not_run_it_again(
    pytester: pytest.Pytester, plugin: Pytest, marker: str, options: list[str], outcomes: dict[str, int]
) -> None:
    pytester.makepyfile(test_it=FLAKY.format(marker=marker))
    result = plugin("-p", "rerunfailures", *options, "--isolate-repeat=2")
    assert result.parseoutcomes() == outcomes


@requires("plugin-pytest-rerunfailures")
def test_rerun_that_fails_is_not_said_to_be_one_of_several_runs(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test_it(): assert 0")
    result = plugin("-p", "rerunfailures", "--reruns=1", "--isolate-repeat=6")
    assert result.parseoutcomes() == {"failed": 1, "rerun": 2}
    result.stdout.no_fnmatch_line("run 6 of 6*")


def test_problem_that_fails_nothing_is_told_of_whichever_run_had_it(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(
        """
        import os, subprocess, time, pytest
        @pytest.mark.isolate(writable=["."], budget={"wall": "200ms"})
        def test_second_time():
            with open("count", "a+") as file:
                file.write("x")
                number = file.tell()
            if number == 2:
                time.sleep(0.3)
                subprocess.Popen(["sleep", "60"])
        """
    )
    result = plugin("--isolate-repeat=4", "--isolate-budgets=warn", "--isolate-json=run.json")
    result.assert_outcomes(passed=1)
    (test,) = checked((pytester.path / "run.json").read_text())["tests"]
    problems = {problem["kind"]: problem for problem in test["problems"]}
    assert sorted(problems) == ["BUDGET", "LEAK"]
    assert all(problem["text"].endswith("(run 2 of 4)") and not problem["failed"] for problem in problems.values())


def test_warning_is_counted_once(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(
        """
        import os, warnings, pytest
        pytestmark = pytest.mark.isolate(writable=["."])
        def test_same(): warnings.warn("always")
        def test_twice():
            for _ in range(2): warnings.warn("always")
        def test_now_and_then():
            with open("count", "a+") as file:
                file.write("x")
                if file.tell() == 2: warnings.warn("now and then")
        """
    )
    result = plugin("--isolate-repeat=3", "-W", "always")
    assert result.parseoutcomes() == {"passed": 3, "warnings": 4}
    result.stdout.fnmatch_lines(["*UserWarning: now and then"])


@requires("plugin-pytest-timeout")
def test_time_limit_of_pytest_timeout_is_that_of_one_run(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("import time, pytest\n@pytest.mark.isolate\ndef test_it(): time.sleep(0.4)")
    plugin("-p", "pytest_timeout", "--timeout=2", "--isolate-repeat=7").assert_outcomes(passed=1)


def test_number_that_is_none_is_an_error_before_any_test(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("def test(): open('ran', 'w')")
    for value in ("0", "-1", "many", "1001", "1.5"):
        result = plugin(f"--isolate-repeat={value}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            [f"*--isolate-repeat: '{value}' is not accepted; accepted: how often each test runs, 1 to 1000*"]
        )
    assert not (pytester.path / "ran").exists()


def test_ini_key_repeats_too(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makeini("[pytest]\nisolate_repeat = 2\nisolate_json = run.json")
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test_it(): pass")
    plugin().assert_outcomes(passed=1)
    document = json.loads((pytester.path / "run.json").read_text())
    assert len(document["tests"][0]["repetitions"]) == 2
