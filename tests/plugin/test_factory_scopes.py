"""Fixtures with sandboxes are set up and torn down where and when plain pytest does it, whichever tests are isolated."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ordered_runs import Ran, ran


def factory_ran(tmp_path: Path, *args: str, isolated: bool) -> Ran:
    return ran("factory", tmp_path, "marked", *args, env={"ORDER_ISOLATED": str(int(isolated))})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return factory_ran(tmp_path_factory.mktemp("plain"), isolated=False)


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return factory_ran(tmp_path_factory.mktemp("isolated"), isolated=True)


def test_outcomes_and_order_are_those_of_plain_tests(plain: Ran, isolated: Ran) -> None:
    assert len(plain.events) > 120, plain.said.raw
    assert isolated.events == plain.events, isolated.said.raw
    assert isolated.said.status == plain.said.status == 1
    failed = {
        event.split()[3]
        for event in plain.events
        if event.startswith(("report setup failed", "report call failed", "report teardown failed"))
    }
    assert {name.partition("::")[2] for name in failed} == {"test_bad", "test_bad_end", "test_failing"}


def test_fixtures_that_ask_run_outside_with_what_they_request_and_others_inside(isolated: Ran) -> None:
    for fixture in ("s_box", "p_box", "m_box", "c_box", "f_box", "f_requested", "f_two", "f_bad"):
        assert set(isolated.where(f"setup {fixture} ")) == {True}, fixture
    for fixture in ("s_box", "p_box", "m_box", "c_box", "f_box", "f_requested", "f_two", "f_bad_end"):
        assert set(isolated.where(f"down {fixture} ")) == {True}, fixture
    assert set(isolated.where("setup f_dynamic")) == {True, False}
    assert False in isolated.where("setup f_inside")


def test_sandboxes_outlive_the_teardown_of_their_fixture(plain: Ran, isolated: Ran) -> None:
    for seen in (plain, isolated):
        assert [event for event in seen.events if "alive at its end" in event] == [
            *["module box alive at its end: True"] * 2, "session box alive at its end: True"
        ]  # fmt: skip


@pytest.mark.parametrize("args", [("-x",), ("-k", "Class or function"), ("--setup-show", "-q", "--tb=no", "-rN")], ids=" ".join)
def test_options_that_end_or_choose_keep_the_order(tmp_path: Path, args: tuple[str, ...]) -> None:
    plain = factory_ran(tmp_path / "plain", *args, isolated=False)
    isolated = factory_ran(tmp_path / "isolated", *args, isolated=True)
    assert isolated.events == plain.events
    assert isolated.said.status == plain.said.status
