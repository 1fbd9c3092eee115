"""pytest's own function-scoped fixtures, requested by one that asks for `isolate_factory` and so set up outside, still do their work inside."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import run

SUITE = """
import logging, os, sys, warnings
import pytest

both = pytest.mark.parametrize("where", [pytest.param("inside", marks=pytest.mark.isolate), "outside"])
VALUE = "before"

@pytest.fixture
def patched(isolate_factory, monkeypatch, tmp_path):
    monkeypatch.setenv("PATCHED", "outside")
    monkeypatch.setattr(sys.modules[__name__], "VALUE", "patched")
    monkeypatch.chdir(tmp_path)
    return isolate_factory()

@both
def test_monkeypatch_and_tmp_path(where, patched, monkeypatch, tmp_path):
    assert (os.environ["PATCHED"], VALUE, os.getcwd()) == ("outside", "patched", str(tmp_path))
    monkeypatch.setenv("PATCHED", "inside")
    (tmp_path / "file").write_text("kept")

def test_all_is_undone():
    assert "PATCHED" not in os.environ and VALUE == "before"

@pytest.fixture
def capturing(isolate_factory, capsys):
    print("set-up")
    return isolate_factory()

@both
def test_capsys(where, capturing, capsys):
    print("call")
    assert capsys.readouterr().out == "set-up\\ncall\\n"
    print("unread")
    assert 0

@pytest.fixture
def capturing_fd(isolate_factory, capfd):
    os.write(1, b"set-up\\n")
    return isolate_factory()

@both
def test_capfd(where, capturing_fd, capfd):
    os.write(1, b"call\\n")
    assert capfd.readouterr().out == "set-up\\ncall\\n"
    os.write(1, b"unread\\n")
    assert 0

@pytest.fixture
def logging_and_warning(isolate_factory, caplog, recwarn, record_property):
    logging.warning("outside")
    warnings.warn("outside")
    record_property("outside", 1)
    return isolate_factory()

@both
def test_logging_and_warning(where, logging_and_warning, caplog, recwarn, record_property):
    record_property("inside", 2)
    warnings.warn("call")
    assert [str(warning.message) for warning in recwarn] == ["outside", "call"]
    assert caplog.get_records("setup")[0].getMessage() == "outside"
    logging.warning("call")
    assert caplog.messages == ["call"]
"""


def test_fixtures_of_pytest_that_run_outside_do_their_work_inside(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(SUITE)
    seen = run(pytester, monkeypatch)
    assert seen.failed() == {(f"test_{name}[{where}]", "call") for name in ("capsys", "capfd") for where in ("inside", "outside")}
    for name in ("capsys", "capfd"):
        inside, outside = (seen.of(f"test_{name}[{where}]", "call") for where in ("inside", "outside"))
        assert inside.section("Captured stdout call") == outside.section("Captured stdout call") == "unread\n"
        assert inside.section("Captured stdout setup") == outside.section("Captured stdout setup")
    for where in ("inside", "outside"):
        properties = seen.of(f"test_logging_and_warning[{where}]", "teardown").properties
        assert (properties["outside"], properties["inside"]) == (1, 2)
