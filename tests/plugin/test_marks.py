"""Bad markers: a collection error of their file that lists all of them, under xdist too."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from tests.support.isolated_runs import Run, run

DISTRIBUTED = pytest.mark.parametrize("args", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])

BAD = """
import pytest
pytestmark = pytest.mark.isolate(memory="64m")

@pytest.mark.isolate("none", cpu=1, netz="none")
@pytest.mark.parametrize("p", [1, pytest.param(2, id="two", marks=pytest.mark.isolate(cpu="no", timeout=0))])
def test_function(p): pass

@pytest.mark.isolate(pids=0)
class Base: pass

class TestFirst(Base):
    @pytest.mark.isolate(profile="nope", enabled=1)
    def test_method(self): pass

class TestSecond(Base):
    @pytest.mark.isolate(memory="64MiB", disk="1GiB")
    def test_merged(self): pass
    @pytest.mark.isolate(memory="64MiB")
    @pytest.mark.isolate(disk="1GiB")
    def test_merged_too(self): pass

@pytest.mark.isolate(net="bridged")
class TestThird:
    def test_a(self): pass
    def test_b(self): pass
"""
BAD_LINES = [
    "marker of test_bad.py::test_function: positional argument: 'none' has no name; accepted: keywords: cpu, memory,",
    "marker of test_bad.py::test_function: netz: no such key; accepted: cpu, memory,",
    "pytestmark of test_bad.py: memory: unknown unit 'm' in '64m'; accepted: bytes: 1048576,",
    "marker of parameter set test_bad.py::test_function[two]: cpu: 'no' is not a quantity; accepted: share of one CPU:",
    "marker of parameter set test_bad.py::test_function[two]: timeout: 0 ends every test before it starts; accepted: seconds:",
    "marker of test_bad.py::TestFirst::test_method: profile: no profile 'nope': there is no [tool.pytest-isolate.profiles.NAME]",
    "marker of test_bad.py::TestFirst::test_method: enabled: 1 is not a truth value; accepted: True or False",
    "base class test_bad.Base: pids: 0 leaves no task for the test itself; accepted: whole number, at least 1",
    "marker of test_bad.py::TestSecond::test_merged: disk+memory: disk=1.0 GiB on a tmpfs is charged to memory=64.0 MiB",
    "marker of test_bad.py::TestSecond::test_merged_too: disk+memory: disk=1.0 GiB on a tmpfs",
    'class test_bad.py::TestThird: net: \'bridged\' is no network mode; accepted: "none", "host", "bridge", "container:NAME"',
]
GOOD = """
import pytest
@pytest.mark.isolate
def test_good(): pass
def test_plain(): pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_bad=BAD, test_good=GOOD)
    return pytester


def errors(done: Run, file: str = "test_bad.py") -> list[str]:
    """The lines of a file's collection error. Raises AssertionError unless it has exactly one."""
    lines = done.result.outlines
    starts = [number for number, line in enumerate(lines) if re.fullmatch(rf"_+ ERROR collecting {re.escape(file)} _+", line)]
    assert len(starts) == 1, done.output
    assert re.fullmatch(r"\d+ errors? in isolate markers:", lines[starts[0] + 1])
    found = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("  "):
            break
        found.append(line.strip())
    assert lines[starts[0] + 1].startswith(f"{len(found)} ")
    return found


@DISTRIBUTED
def test_all_errors_of_a_file_are_one_collection_error_and_stop_the_run(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    done = run(suite, monkeypatch, *args)
    found = errors(done)
    for start in BAD_LINES:
        assert [line for line in found if line.startswith(start)], f"{start}\nnot among\n" + "\n".join(found)
    assert len(found) == len(BAD_LINES), "\n".join(found)
    assert "INTERNALERROR" not in done.output
    assert "assert not crashitem" not in done.output
    # Plain pytest stops here; xdist runs the rest, as it does with a syntax error.
    done.result.assert_outcomes(errors=1, passed=2 if args else 0)
    assert done.result.ret == (pytest.ExitCode.TESTS_FAILED if args else pytest.ExitCode.INTERRUPTED)


@DISTRIBUTED
def test_outcome_is_that_of_a_syntax_error(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    def outcome() -> list[object]:
        runs = [run(suite, monkeypatch, *args, *more).result for more in ((), ("--continue-on-collection-errors",), ("-x",))]
        return [(done.ret, done.parseoutcomes()) for done in runs]

    found = outcome()
    suite.makepyfile(test_bad="def test_function(: pass")
    assert found == outcome()


def test_other_files_run_with_continue_on_collection_errors(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, "--continue-on-collection-errors")
    done.result.assert_outcomes(passed=2, errors=1)
    assert {report.name for report in done} == {"test_good", "test_plain"}


def test_selected_good_tests_of_other_files_run(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    run(suite, monkeypatch, "test_good.py::test_good").result.assert_outcomes(passed=1)


def test_error_is_found_though_the_test_is_deselected_or_selected_by_name(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(errors(run(suite, monkeypatch, "-k", "test_good"))) == len(BAD_LINES)
    assert errors(run(suite, monkeypatch, "test_bad.py::TestThird::test_a"))[0].startswith("class test_bad.py::TestThird: net: ")


def test_collect_only_reports_it_as_well(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, "--collect-only")
    assert len(errors(done)) == len(BAD_LINES)
    assert done.result.ret == pytest.ExitCode.INTERRUPTED
    assert "test_function" not in done.output.partition("ERRORS")[0]


def test_exitfirst_stops_at_it(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, "-x", "--continue-on-collection-errors")
    done.result.assert_outcomes(errors=1)
    assert done.result.parseoutcomes() == {"errors": 1}


def test_junit_has_the_file_as_an_error(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    run(suite, monkeypatch, "--junitxml=out.xml")
    (case,) = ET.parse(suite.path / "out.xml").iter("testcase")
    assert "test_bad" in case.attrib["name"] + case.attrib["classname"]
    (error,) = case.iter("error")
    assert "net: 'bridged' is no network mode" in (error.text or "")


def test_lastfailed_comes_back_to_it_once_it_is_mended(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    errors(run(suite, monkeypatch))
    suite.makepyfile(test_bad="def test_mended(): pass")
    done = run(suite, monkeypatch, "--lf")
    assert {report.name for report in done} == {"test_mended"}


@DISTRIBUTED
def test_marker_that_contradicts_an_option_is_an_error_of_its_file(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    suite.makepyfile(test_bad='import pytest\n@pytest.mark.isolate(memory="64MiB")\ndef test_it(): pass\n')
    suite.makeini("[pytest]\nisolate_disk = 1GiB\n")
    (error,) = errors(run(suite, monkeypatch, *args))
    assert error.startswith("disk of isolate_disk of tox.ini, memory of marker of test_bad.py::test_it: disk+memory: ")


@DISTRIBUTED
def test_marker_that_a_hook_adds_is_checked_too(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    suite.makepyfile(test_bad="def test_it(): pass\ndef test_other(): pass")
    suite.makeconftest("""
        import pytest
        def pytest_collection_modifyitems(items):
            for item in items:
                if item.name == "test_it":
                    item.add_marker(pytest.mark.isolate(cpu="x"))
    """)
    done = run(suite, monkeypatch, *args, "--continue-on-collection-errors")
    assert errors(done) == [
        'marker of test_bad.py::test_it: cpu: \'x\' is not a quantity; accepted: share of one CPU: "20%", 0.2, 2, "150%"'
    ]
    done.result.assert_outcomes(passed=2, errors=1)


def test_two_bad_files_are_two_errors(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile(
        test_worse='import pytest\npytestmark = pytest.mark.isolate(cpu="x")\ndef test_a(): pass\ndef test_b(): pass\n'
    )
    done = run(suite, monkeypatch)
    assert len(errors(done)) == len(BAD_LINES)
    assert len(errors(done, "test_worse.py")) == 1
    done.result.assert_outcomes(errors=2)


def test_bad_marker_is_an_error_with_no_isolate_and_on_a_disabled_test_too(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.makepyfile(test_bad='import pytest\n@pytest.mark.isolate(enabled=False, cpu="x")\ndef test_it(): pass\n')
    assert len(errors(run(suite, monkeypatch, "--no-isolate"))) == 1


def test_values_that_cannot_be_shown_do_not_break_the_error(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile(
        test_bad="""
        import pytest
        class Rude:
            def __repr__(self): raise RuntimeError("no")
        @pytest.mark.isolate(Rude(), cpu=Rude(), env={Rude(): 1}, profile=Rude(), enabled=Rude(), hide="\\ud800\\n  x")
        def test_it(): pass
    """
    )
    done = run(suite, monkeypatch)
    assert "INTERNALERROR" not in done.output
    assert len(errors(done)) >= 5
