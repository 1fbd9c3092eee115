"""What the machine can't give and a test asks for: here a memory cap, in a cgroup that isn't there."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import run

NOWHERE = "--isolate-cgroup=no/such/directory"

SUITE = """
import pytest

@pytest.mark.isolate(memory="64MiB")
def test_capped(isolate_box):
    assert isolate_box.spec.memory is None

@pytest.mark.isolate
def test_bare():
    pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(SUITE)
    return pytester


def test_asked_for_and_missing_is_an_error_with_the_remedy(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, NOWHERE)
    assert done.failed() == {("test_capped", "setup")}
    report = done.of("test_capped", "setup")
    assert report.first_line.startswith("memory needs cgroup-memory: ")
    assert "remedy: " in report.longrepr
    assert not [found for found in done if found.name == "test_capped" and found.when == "call"]
    assert done.of("test_bare", "call").outcome == "passed"


def test_missing_can_skip_with_its_name(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, NOWHERE, "--isolate-missing=skip", "-rs")
    done.result.assert_outcomes(passed=1, skipped=1)
    done.result.stdout.fnmatch_lines("SKIPPED*.py:*isolate: memory needs cgroup-memory*")


def test_missing_can_be_done_without_and_is_noted(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, NOWHERE, "--isolate-missing=weaken")
    done.result.assert_outcomes(passed=2)
    record = done.of("test_capped", "teardown").isolate
    assert record is not None
    assert record["weakened"][0].startswith("memory needs cgroup-memory")
    assert "memory" not in record["spec"]
    assert "memory needs cgroup-memory" in done.output
