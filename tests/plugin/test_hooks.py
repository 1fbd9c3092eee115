"""The hooks that other plugins implement: pytest_isolate_spec, pytest_isolate_usage, pytest_isolate_report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.test_json import checked
from tests.support.isolated_runs import EVERY_WAY, Run, run

ROOT = Path(__file__).parents[2]
ALONE_AND_XDIST = pytest.mark.parametrize("how", ["alone", "xdist"])


class Suite:
    """A conftest file with hooks, and tests."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pytester, self._monkeypatch = pytester, monkeypatch

    def run(self, conftest: str, tests: str, *args: str, how: str = "alone", keep: list[str] | None = None) -> Run:
        self._pytester.makeconftest(conftest)
        self._pytester.makepyfile(test_it=tests)
        return run(self._pytester, self._monkeypatch, *args, how=how, keep=keep or [])


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    return Suite(pytester, monkeypatch)


def specs(done: Run) -> dict[str, dict[str, Any]]:
    return {report.name: report.isolate["spec"] for report in done if report.isolate}


# --- pytest_isolate_spec ---

TWO = """
import os, pytest

@pytest.mark.isolate(env={"A": "marker"}, hostname="box")
def test_slow():
    assert os.environ["A"] == "hook"
    assert os.uname().nodename == "box"

@pytest.mark.isolate(env={"A": "marker"})
def test_other():
    assert os.environ["A"] == "marker"

def test_plain(): pass
"""

REPLACES = """
from dataclasses import replace

def pytest_isolate_spec(item, spec):
    print(f"asked for {item.name}")
    if "slow" in item.name:
        return replace(spec, env=(("A", "hook"),), pids=50)
"""


@EVERY_WAY
def test_spec_hook_replaces_what_was_asked_for(suite: Suite, how: str):
    done = suite.run(REPLACES, TWO, how=how)
    done.result.assert_outcomes(passed=3)
    assert specs(done) == {
        "test_slow": {"env": [["A", "hook"]], "hostname": "box", "pids": 50},
        "test_other": {"env": [["A", "marker"]]},
    }


def test_spec_hook_is_asked_once_for_each_isolated_test(suite: Suite):
    done = suite.run(REPLACES, TWO, "-s", "--collect-only", "-q")
    assert re.findall(r"asked for (\w+)", done.output) == ["test_slow", "test_other"]
    assert "asked for" not in suite.run(REPLACES, TWO, "-s", "--no-isolate").output


def test_spec_hook_of_a_directory_is_asked_for_its_tests_only(suite: Suite, pytester: pytest.Pytester):
    for name in ("one", "two"):
        folder = pytester.mkdir(name)
        (folder / f"test_{name}.py").write_text(f"import pytest\n@pytest.mark.isolate\ndef test_{name}(): pass")
    (pytester.path / "one/conftest.py").write_text(
        "from dataclasses import replace\ndef pytest_isolate_spec(spec): return replace(spec, pids=7)"
    )
    assert specs(suite.run("", "")) == {"test_one": {"pids": 7}, "test_two": {}}


def test_spec_hook_takes_the_forms_of_a_marker(suite: Suite, pytester: pytest.Pytester):
    pytester.mkdir("data")
    done = suite.run(
        """
        from dataclasses import replace
        def pytest_isolate_spec(spec):
            return replace(spec, memory="64MiB", timeout="5s", env={"A": "1"}, net="host", inputs=["data"])
        """,
        "import pytest\n@pytest.mark.isolate\ndef test(): pass",
    )
    (spec,) = specs(done).values()
    assert spec["memory"] == 64 << 20
    assert spec["timeout"] == 5
    assert spec["env"] == [["A", "1"]]
    assert spec["net"]["mode"] == "host"
    (path,) = spec["inputs"]
    assert path.endswith("/data")
    assert path.startswith("/")


BUDGETS = """
from dataclasses import replace

def pytest_isolate_spec(item, spec):
    if item.name == "test_more":
        return replace(spec, budget=(*spec.budget, ("wall", 0.001)))
    if item.name == "test_other":
        return replace(spec, budget={"cpu": "9s", "wall": None, "pids": 9})
    return replace(spec, budget=())
"""

BUDGETED = """
import time, pytest
pytestmark = pytest.mark.isolate(budget={"cpu": "5s", "pids": 9})
def test_more(): time.sleep(0.1)
def test_other(): pass
def test_none(): pass
"""


def test_budget_of_the_spec_hook_is_judged_and_its_places_are_right(suite: Suite):
    done = suite.run(BUDGETS, BUDGETED)
    module, hook = "pytestmark of test_it.py", "pytest_isolate_spec of conftest.py"
    judged = {
        report.name: {each["figure"]: (each["allowed"], each["place"]) for each in report.isolate.get("budget", ())}
        for report in done
        if report.isolate
    }
    assert judged == {
        "test_more": {"cpu": (5, module), "wall": (0.001, hook), "pids": (9, module)},
        "test_other": {"cpu": (9, hook), "pids": (9, module)},
        "test_none": {},
    }
    assert done.failed() == {("test_more", "call")}
    assert f"in {hook}\n" in done.of("test_more", "call").text


def test_first_spec_hook_that_answers_wins(suite: Suite, pytester: pytest.Pytester):
    pytester.makepyfile(
        first="""
        from dataclasses import replace
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_isolate_spec(item, spec):
            return replace(spec, pids=10) if item.name == "test_a" else None
        """
    )
    done = suite.run(
        "from dataclasses import replace\ndef pytest_isolate_spec(spec): return replace(spec, pids=20)",
        "import pytest\npytestmark = pytest.mark.isolate\ndef test_a(): pass\ndef test_b(): pass",
        "-p", "first",
    )  # fmt: skip
    assert specs(done) == {"test_a": {"pids": 10}, "test_b": {"pids": 20}}


BAD = {
    "memory='tiny'": "memory: *'tiny'*; accepted: bytes: *",
    "pids=0": "pids: 0 leaves no task for the test itself; accepted: *",
    "memory=1 << 20, disk=2 << 20": "disk+memory: *; accepted: disk no larger than memory*",
    "rootfs=('/does/not/exist',)": "rootfs: /does/not/exist doesn't exist; accepted: *",
    "inputs=('/etc',)": "inputs: '/etc' is outside of the project *",
    "scratch='/x'": "scratch: is found out later, for each machine; accepted: the value that the hook was given",
    "net=5": "net: *; accepted: *",
    "io={}": "io: neither 'read' nor 'write' given; accepted: *",
}


@pytest.mark.parametrize(("change", "how"), [*((change, "alone") for change in BAD), ("pids=0", "xdist")])
def test_spec_that_cannot_be_meant_is_a_collection_error_that_names_the_hook(suite: Suite, change: str, how: str):
    done = suite.run(
        f"from dataclasses import replace\ndef pytest_isolate_spec(spec): return replace(spec, {change})",
        "import pytest\n@pytest.mark.isolate\ndef test_bad(): pass\n@pytest.mark.isolate\ndef test_same(): pass",
        how=how,
    )
    assert done.result.ret == (pytest.ExitCode.TESTS_FAILED if how == "xdist" else pytest.ExitCode.INTERRUPTED)
    done.result.assert_outcomes(errors=1)
    done.result.stdout.fnmatch_lines(["*1 error in pytest_isolate_spec:", f"  pytest_isolate_spec of conftest.py: {BAD[change]}"])
    assert done.reports == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return {'memory': 1}", "pytest_isolate_spec of conftest.py: {'memory': 1} is not a Spec; accepted: None, or dataclasses.replace(spec, …)"),
        ("raise RuntimeError('broken')", "pytest_isolate_spec of conftest.py raised RuntimeError for test_it.py::test:"),
        ("pytest.fail('broken')", "pytest_isolate_spec of conftest.py raised Failed for test_it.py::test:"),
    ],
)  # fmt: skip
def test_spec_hook_that_breaks_is_a_collection_error(suite: Suite, body: str, text: str):
    done = suite.run(
        f"import pytest\ndef pytest_isolate_spec(item): {body}", "import pytest\n@pytest.mark.isolate\ndef test(): pass"
    )
    assert done.result.ret == pytest.ExitCode.INTERRUPTED
    assert text in done.output
    assert "INTERNALERROR" not in done.output


def test_spec_hook_error_ends_its_file_alone(suite: Suite, pytester: pytest.Pytester):
    pytester.makepyfile(test_other="import pytest\n@pytest.mark.isolate\ndef test_other(): pass")
    done = suite.run(
        "from dataclasses import replace\ndef pytest_isolate_spec(item, spec): return replace(spec, pids=0) if item.name == 'test' else None",
        "import pytest\n@pytest.mark.isolate\ndef test(): pass",
        "--continue-on-collection-errors",
    )
    done.result.assert_outcomes(errors=1, passed=1)


def test_spec_hook_cannot_set_up_fixtures_inside_that_need_the_pytest_process(suite: Suite):
    done = suite.run(
        "from dataclasses import replace\ndef pytest_isolate_spec(spec): return replace(spec, fixtures='inside')",
        "import pytest\n@pytest.fixture\ndef box(isolate_factory): pass\n@pytest.mark.isolate\ndef test(box): pass",
    )
    done.result.stdout.fnmatch_lines(
        ["*pytest_isolate_spec of conftest.py: fixtures: *isolate_factory works in the pytest process*"]
    )


def test_plan_says_that_a_value_comes_from_the_hook(suite: Suite):
    done = suite.run(REPLACES, TWO, "--isolate-plan")
    done.result.stdout.fnmatch_lines(["*pids*pytest_isolate_spec of conftest.py*"])


# --- pytest_isolate_usage ---

RECORDS = """
import os

def pytest_isolate_usage(item, usage):
    print(f"used {usage.wall_seconds:.3f}")
    item.user_properties.append(("milliseconds", round(usage.wall_seconds * 1000)))
    item.user_properties.append(("outside", os.getppid() != 0))
    item.user_properties.append(("worker", os.environ.get("PYTEST_XDIST_WORKER", "")))
"""

ENDS = """
import os, time, pytest
pytestmark = pytest.mark.isolate

def test_passes(record_property):
    record_property("mine", 1)
    time.sleep(0.1)

def test_fails(): assert 0

def test_skips(): pytest.skip("no")

def test_exits(): os._exit(3)

@pytest.mark.isolate(timeout=0.3)
def test_hangs(): time.sleep(60)

@pytest.fixture
def broken():
    yield
    assert 0

def test_breaks(broken): pass

@pytest.mark.isolate(enabled=False)
def test_plain(): pass
"""


@EVERY_WAY
def test_usage_hook_sees_each_test_however_it_ends_and_its_properties_come_out(suite: Suite, how: str):
    done = suite.run(RECORDS, ENDS, how=how)
    done.result.assert_outcomes(passed=3, failed=3, skipped=1, errors=1)
    for name in ("passes", "fails", "skips", "exits", "hangs", "breaks"):
        last = done.of(f"test_{name}", "teardown")
        assert last.properties["milliseconds"] == round(last.properties["isolate.wall_seconds"] * 1000), name
        assert last.properties["outside"]
        assert bool(last.properties["worker"]) == (how == "xdist")
    assert done.of("test_passes", "teardown").properties["mine"] == 1
    assert "milliseconds" not in done.of("test_plain", "teardown").properties
    assert re.fullmatch(r"used \d+\.\d+\n", done.of("test_breaks", "teardown").section("Captured stdout teardown"))


@ALONE_AND_XDIST
def test_what_the_usage_hook_raises_is_an_error_of_the_teardown_and_loses_nothing(suite: Suite, how: str):
    done = suite.run(
        "def pytest_isolate_usage(item, usage): raise RuntimeError(f'no more than {usage.leaked_processes}')",
        ENDS, "--isolate-json=run.json", how=how, keep=["run.json"],
    )  # fmt: skip
    document = checked(done.files["run.json"])
    assert {test["nodeid"].partition("::")[2]: test["outcome"] for test in document["tests"]} == {
        "test_passes": "error", "test_fails": "failed", "test_skips": "error", "test_exits": "failed", "test_hangs": "failed",
        "test_breaks": "error",
    }  # fmt: skip
    assert all(test["usage"]["wall_seconds"] > 0 for test in document["tests"])
    assert done.of("test_passes", "call").outcome == "passed"
    last = done.of("test_passes", "teardown")
    assert last.outcome == "failed"
    assert "RuntimeError: no more than 0" in last.longrepr
    assert "_tell_usage" not in last.longrepr
    both = done.of("test_breaks", "teardown").longrepr
    assert "assert 0" in both
    assert "RuntimeError: no more than 0" in both
    assert done.of("test_plain", "teardown").outcome == "passed"


def test_usage_hook_runs_after_the_tests_own_teardown_and_before_wider_fixtures(suite: Suite):
    done = suite.run(
        "def pytest_isolate_usage(item): print('hook')",
        """
        import pytest
        @pytest.fixture(scope="module")
        def wide():
            yield
            print("wide")
        @pytest.fixture
        def narrow(wide):
            yield
            print("narrow")
        @pytest.mark.isolate
        def test(narrow): assert 0
        """,
        "-s",
    )
    assert re.findall(r"narrow|hook|wide", done.output.partition("==== FAILURES")[0])[-3:] == ["narrow", "hook", "wide"]


# --- pytest_isolate_report ---

CHANGES = """
import os

def pytest_isolate_report(config, document):
    document["team"] = {"name": "payments", "worker": os.environ.get("PYTEST_XDIST_WORKER", "")}
    document["tests"] = [test for test in document["tests"] if test["outcome"] != "passed"]
"""

SOME = """
import pytest
pytestmark = pytest.mark.isolate
def test_passes(): pass
def test_fails(): assert 0
"""


@EVERY_WAY
def test_report_hook_changes_what_is_written(suite: Suite, how: str):
    done = suite.run(CHANGES, SOME, "--isolate-json=run.json", "--isolate-metrics=run.txt", how=how, keep=["run.json", "run.txt"])
    document = json.loads(done.files["run.json"])
    assert document["team"] == {"name": "payments", "worker": ""}
    assert [test["nodeid"] for test in document["tests"]] == ["test_it.py::test_fails"]
    assert "test_fails" in done.files["run.txt"]
    assert "test_passes" not in done.files["run.txt"]


@ALONE_AND_XDIST
def test_document_is_made_for_a_hook_alone(suite: Suite, how: str):
    done = suite.run(
        "import json, pathlib\ndef pytest_isolate_report(config, document): pathlib.Path(config.rootpath, 'own.json').write_text(json.dumps(document))",
        SOME, how=how, keep=["own.json"],
    )  # fmt: skip
    document = checked(done.files["own.json"])
    assert len(document["tests"]) == 2
    assert document["run"]["exit_status"] == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("document.clear(); raise RuntimeError('broken')", "RuntimeError: broken"),
        ("document['tests'][0]['seen'] = {1, 2}", "TypeError: Object of type set is not JSON serializable"),
        ("document['plain_tests'] = float('nan')", "ValueError: Out of range float values are not JSON compliant"),
        ("del document['machine']", "ValueError: 'machine' is gone, or something else"),
        ("del document['run']['started']", "ValueError: 'started' of 'run' is gone, or something else"),
        ("document['tests'][1] = {}", "ValueError: 'nodeid' of test 2 is gone, or something else"),
    ],
)
def test_report_hook_that_breaks_fails_the_run_and_the_report_is_written_without_it(suite: Suite, body: str, text: str):
    done = suite.run(
        f"def pytest_isolate_report(document): {body}",
        SOME.replace("assert 0", "pass"),
        "--isolate-json=run.json",
        "--isolate-metrics=run.txt",
        "--isolate-save=main",
        keep=["run.json", "run.txt", ".isolate/baselines/main.json"],
    )
    assert done.result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert len(done.files) == 3
    done.result.stdout.fnmatch_lines(
        [f"isolate: pytest_isolate_report of conftest.py: {text}*; the report is as it was without it"]
    )
    assert len(checked(done.files["run.json"])["tests"]) == 2


def test_report_hook_sees_an_interrupted_run(suite: Suite):
    done = suite.run(
        "def pytest_isolate_report(document): print('interrupted:', document['run']['interrupted'], len(document['tests']))",
        "import pytest\npytestmark = pytest.mark.isolate\ndef test_a(): pass\ndef test_b(): raise KeyboardInterrupt\ndef test_c(): pass",
        "-s",
    )
    assert done.result.ret == pytest.ExitCode.INTERRUPTED
    assert "interrupted: True 1" in done.output


# --- what they cost where nobody implements them ---


def test_run_without_a_hook_loads_nothing_for_them(suite: Suite):
    done = suite.run(
        """
        import sys
        def pytest_unconfigure():
            print("loaded", [name for name in ("spec_hook", "outputs", "github", "html_columns") if f"pytest_isolate.plugin.{name}" in sys.modules],
                  [name for name in ("document", "surroundings", "openmetrics", "github") if f"pytest_isolate.report.{name}" in sys.modules])
        """,
        SOME, "--isolate-github=off",
    )  # fmt: skip
    assert "loaded [] []" in done.output


def test_hooks_are_typed_and_documented():
    page = (ROOT / "docs/reference/hooks.md").read_text(encoding="utf-8")
    from pytest_isolate.plugin import hookspecs

    for name in hookspecs.__all__:
        assert f"`{name}" in page
        hook = getattr(hookspecs, name)
        assert hook.__doc__
        assert set(hook.__annotations__) >= {*hook.__code__.co_varnames[: hook.__code__.co_argcount], "return"}


def test_implementation_with_a_wrong_argument_is_refused_by_pytest(suite: Suite):
    done = suite.run("def pytest_isolate_usage(items): pass", "def test(): pass")
    assert done.result.ret != 0
    assert "items" in done.output
