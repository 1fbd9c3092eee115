"""Skipping by capability: named, and a failure where the capability is demanded."""

from __future__ import annotations

import pytest

from tests.support import capabilities

SUITE = """
from tests.support.capabilities import requires

@requires("root")
def test_there(): pass

@requires("root", "disk")
def test_missing(): pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    answers = {**dict.fromkeys(capabilities._PROBES, lambda: ""), "disk": lambda: "on tmpfs"}
    monkeypatch.setattr(capabilities, "_PROBES", answers)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    capabilities.why_missing.cache_clear()
    monkeypatch.delenv("ISOLATE_REQUIRE", raising=False)
    pytester.makepyfile(SUITE)
    pytester.makeconftest("from tests.support.capabilities import pytest_configure, pytest_runtest_setup")
    return pytester


@pytest.fixture(autouse=True)
def forget_answers() -> object:
    yield
    capabilities.why_missing.cache_clear()


def test_missing_capability_skips_by_name_and_reason(suite: pytest.Pytester) -> None:
    result = suite.runpytest_inprocess("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*disk: on tmpfs"])


@pytest.mark.parametrize("demanded", ["all", "root,disk"])
def test_demanded_capability_fails(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, demanded: str) -> None:
    monkeypatch.setenv("ISOLATE_REQUIRE", demanded)
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ISOLATE_REQUIRE demands disk: on tmpfs*"])


def test_other_demand_still_skips(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLATE_REQUIRE", "root")
    suite.runpytest_inprocess().assert_outcomes(passed=1, skipped=1)


def test_unknown_capability_is_an_error_where_it_is_named() -> None:
    with pytest.raises(KeyError, match="no-such"):
        capabilities.requires("no-such")
