"""`isolate_preload`, and the hint that a run should set it."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import EVERY_WAY, run

SUITE = """
import pytest

@pytest.mark.isolate
@pytest.mark.parametrize("number", range(6))
def test_imports(number):
    import slow_module
"""
SLOW = "import os, time\ntime.sleep(0.05)\nopen(os.environ.get('IMPORTS', os.devnull), 'a').write('x')\n"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    pytester.makepyfile(test_suite=SUITE, slow_module=SLOW)
    monkeypatch.setenv("IMPORTS", str(pytester.path / "imports"))
    return pytester


def imports(pytester: pytest.Pytester) -> int:
    path = pytester.path / "imports"
    return len(path.read_text()) if path.exists() else 0


@EVERY_WAY
def test_module_imported_in_every_test_is_named_once_with_the_line_to_write(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    done = run(suite, monkeypatch, how=how)
    done.result.assert_outcomes(passed=6)
    assert done.output.count("isolate_preload") == 1
    done.result.stdout.fnmatch_lines("*6 tests each imported slow_module (* ms)*: set isolate_preload = slow_module*")


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_preloaded_module_is_imported_once_per_process_and_not_hinted_at(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    suite.makeini("[pytest]\nisolate_preload = json slow_module\npythonpath = .")
    done = run(suite, monkeypatch, how=how)
    done.result.assert_outcomes(passed=6)
    assert 1 <= imports(suite) <= 3  # pytest itself; with xdist the controller and two workers
    assert "each imported" not in done.output


@EVERY_WAY
def test_module_that_cannot_be_preloaded_is_a_usage_error(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    suite.makeini("[pytest]\nisolate_preload = nowhere.to.be.found slow_module\npythonpath = .")
    done = run(suite, monkeypatch, how=how)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    done.result.stderr.fnmatch_lines("ERROR: isolate_preload: nowhere.to.be.found can't be imported: ModuleNotFoundError*")
    assert "INTERNALERROR" not in done.output


def test_off_switch_preloads_nothing(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makeini("[pytest]\nisolate_preload = slow_module\npythonpath = .")
    run(suite, monkeypatch, "--no-isolate", "--collect-only")
    assert imports(suite) == 0
