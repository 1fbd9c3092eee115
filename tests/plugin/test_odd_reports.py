"""Reports with what JSON can't say, and test processes that misbehave towards pytest itself."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import run

DISTRIBUTED = pytest.mark.parametrize("how", ["alone", "xdist"])
NOTE = "isolate: report"


@DISTRIBUTED
def test_unserialisable_properties_are_shown_as_repr_and_noted(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(
        """
        import pathlib, pytest
        pytestmark = pytest.mark.isolate

        class Odd:
            def __repr__(self): return "<odd>"

        class Worse:
            def __repr__(self): raise RuntimeError("no repr")

        def test_odd(record_property):
            record_property("object", Odd())
            record_property("set", {1})
            record_property("bytes", b"x")
            record_property("worse", Worse())

        def test_fine(record_property):
            record_property("path", pathlib.Path("/x"))
            record_property("nan", float("nan"))
            record_property("nested", {"a": [(1, 2)], 3: None})
            record_property("()", {"()": 1})

        def test_endless(record_property):
            endless = []
            endless.append(endless)
            record_property("endless", endless)
        """
    )
    done = run(pytester, monkeypatch, how=how)
    done.result.assert_outcomes(passed=3)
    odd = done.of("test_odd", "teardown")
    assert (odd.properties["object"], odd.properties["set"], odd.properties["bytes"]) == ("<odd>", "{1}", "b'x'")
    assert "<odd>" in odd.section(NOTE)
    assert "Odd" in odd.section(NOTE)
    fine = done.of("test_fine", "teardown")
    assert fine.properties["path"] == "/x"
    assert fine.properties["()"] == {"()": 1}
    assert fine.section(NOTE) == ""


@DISTRIBUTED
def test_undecodable_text_is_shown_escaped_and_noted(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(
        """
        import os, pytest, warnings
        pytestmark = pytest.mark.isolate

        def test_message():
            raise ValueError(os.fsdecode(b"caf\\xe9"))

        def test_property(record_property):
            record_property("name", os.fsdecode(b"\\xff"))

        def test_warning():
            warnings.warn(os.fsdecode(b"\\xfe"))

        def test_section(request):
            request.node.add_report_section("call", "own", os.fsdecode(b"\\xfd"))

        def test_next():
            pass
        """
    )
    done = run(pytester, monkeypatch, how=how)
    assert "INTERNALERROR" not in done.output
    assert done.failed() == {("test_message", "call")}
    report = done.of("test_message", "call")
    assert "caf\\udce9" in report.longrepr
    assert "not valid Unicode" in report.section(NOTE)
    assert done.of("test_property", "teardown").properties["name"] == "\\udcff"


def test_test_that_closes_every_descriptor_fails_alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import os, pytest

        @pytest.mark.isolate
        def test_closes():
            os.closerange(3, 4096)

        @pytest.mark.isolate
        def test_next():
            pass
        """
    )
    done = run(pytester, monkeypatch)
    assert ("test_closes", "call") in done.failed()
    assert done.of("test_next", "call").outcome == "passed"


def test_forked_child_that_returns_into_pytest_reports_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import os, pytest

        @pytest.mark.isolate
        def test_forks():
            pid = os.fork()
            if pid:
                _, status = os.waitpid(pid, 0)
                assert os.waitstatus_to_exitcode(status) == 71

        @pytest.mark.isolate
        def test_forks_and_fails():
            if os.fork():
                os.wait()
                assert 0

        @pytest.mark.isolate
        def test_next():
            pass
        """
    )
    done = run(pytester, monkeypatch)
    assert done.failed() == {("test_forks_and_fails", "call")}
    assert [report.when for report in done if report.name == "test_forks"] == ["setup", "call", "teardown"]


def test_grandchild_that_holds_the_channel_does_not_hold_up_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import multiprocessing, os, pytest, time

        @pytest.mark.isolate
        def test_leaves_a_fork():
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)

        @pytest.mark.isolate
        def test_dies_leaving_a_fork():
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            os._exit(4)
        """
    )
    done = run(pytester, monkeypatch)
    assert done.result.duration < 30
    assert done.failed() == {("test_dies_leaving_a_fork", "call")}
    assert done.problems("test_leaves_a_fork") == [("LEAK", False)]


def test_huge_output_comes_through(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.isolate
        def test_prints():
            print("x" * 20_000_000)
            assert 0
        """
    )
    done = run(pytester, monkeypatch, "--show-capture=no")
    assert len(done.of("test_prints", "call").section("Captured stdout call")) == 20_000_001


def test_warnings_as_errors_with_a_live_thread(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import os, subprocess, threading, pytest

        @pytest.fixture(scope="session", autouse=True)
        def thread():
            stop = threading.Event()
            worker = threading.Thread(target=stop.wait, name="the-worker")
            worker.start()
            yield
            stop.set()
            worker.join()

        @pytest.mark.parametrize("number", range(3))
        def test_passes(number, tmp_path, capsys, recwarn):
            subprocess.run(["true"], check=True)
            assert threading.active_count() == 1
            assert not recwarn.list

        @pytest.mark.xfail(strict=True)
        def test_fails():
            assert 0
        """
    )
    done = run(pytester, monkeypatch, "--isolate-all", "-W", "error")
    done.result.assert_outcomes(passed=3, xfailed=1)
    assert done.output.count("the-worker") == 1
    assert "warnings summary" not in done.output
