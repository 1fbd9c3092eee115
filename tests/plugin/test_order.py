"""Fixtures are set up and torn down in pytest's own order, whichever tests are isolated, but for two named cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ordered_runs import Ran, ran
from tests.support.plain_runs import How

MODES: tuple[How, ...] = ("marked", "all")


@pytest.fixture(scope="module")
def order_plain(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return ran("order", tmp_path_factory.mktemp("off"), "off")


@pytest.fixture(scope="module", params=MODES)
def order_isolated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return ran("order", tmp_path_factory.mktemp(request.param), request.param)


def test_set_up_and_tear_down_have_the_order_of_plain_pytest(order_plain: Ran, order_isolated: Ran) -> None:
    assert len(order_plain.events) > 400, order_plain.said.raw
    assert order_isolated.events == order_plain.events
    assert order_isolated.said.status == order_plain.said.status


def test_wide_fixtures_live_outside_and_narrow_ones_inside(order_isolated: Ran) -> None:
    for scope in ("s_", "p_", "m_", "c_"):
        assert order_isolated.where(f"setup {scope}")
        assert all(order_isolated.where(f"setup {scope}"))
        assert all(order_isolated.where(f"down {scope}"))
    for class_wide in (
        "setup_module",
        "teardown_module",
        "setup_class",
        "teardown_class",
        "setUpClass",
        "tearDownClass",
        "class cleanup",
    ):
        assert all(order_isolated.where(class_wide))
    inside = [
        order_isolated.where(event) for event in ("setup f_auto", "down f_auto", "setUp", "setup_method", "first finalizer")
    ]
    assert all(not all(where) for where in inside)


def test_isolating_all_leaves_nothing_narrow_outside(tmp_path: Path) -> None:
    everything = ran("order", tmp_path, "all")
    for event in (
        "setup f_",
        "down f_",
        "setup_function",
        "teardown_function",
        "setup_method",
        "first finalizer",
        "node finalizer",
    ):
        assert everything.where(event)
        assert not any(everything.where(event)), event


@pytest.mark.parametrize("how", MODES)
def test_wide_fixture_asked_for_inside_lives_for_one_test(tmp_path: Path, how: How) -> None:
    seen = ran("deviations", tmp_path, how, "test_dynamic.py")
    assert seen.said.status == 0
    assert [event.split()[0] for event in seen.of("setup s_late", "down s_late")] == ["setup", "down"] * 2
    assert not any(seen.where("setup s_late") + seen.where("down s_late"))
    for number in (1, 2):
        ends = [event for event in seen.events if event.endswith(f"test_{number}") or "s_late" in event]
        assert ends  # torn down before the report of that test's teardown
    reports = [index for index, event in enumerate(seen.events) if event.startswith("report teardown")]
    downs = [index for index, event in enumerate(seen.events) if event.startswith("down s_late")]
    assert all(down < report for down, report in zip(downs, reports, strict=True))


@pytest.mark.parametrize("how", MODES)
def test_wide_fixture_behind_a_narrower_override_is_set_up_once_outside_before_what_is_narrow(tmp_path: Path, how: How) -> None:
    plain = ran("deviations", tmp_path / "off", "off", "test_hidden.py")
    seen = ran("deviations", tmp_path / "on", how, "test_hidden.py")
    assert plain.said.status == seen.said.status == 0, seen.said.raw
    assert sorted(seen.events) == sorted(plain.events)
    session = [event for event in seen.events if event.startswith("setup s_late") and "::" not in event]
    assert len(session) == 1
    place = seen.events.index(session[0])
    assert seen.outside[place]
    assert not any(event.startswith("setup f_") and event.endswith("test_hidden.py::test_1") for event in seen.events[:place])


def test_fixtures_inside_are_set_up_and_torn_down_in_the_sandbox_whatever_ran_before(tmp_path: Path) -> None:
    seen = ran("inside", tmp_path, "marked")
    assert seen.said.status == 0, seen.said.raw
    for event in ("setup s_value", "setup m_value", "down m_value", "down s_value"):
        assert sorted(seen.where(event)) == [False, False, True]


# A parameter with a scope of its own is no fixture that does anything, but is shown as one, and set up with the wide ones.
SHOWN = ("--setup-show", "-q", "--tb=no", "-rN", "-k", "not module_param")


@pytest.mark.parametrize("args", [("-x",), ("--maxfail=2",), ("-k", "class or Class"), SHOWN], ids=" ".join)
def test_options_that_end_or_choose_keep_the_order(tmp_path: Path, args: tuple[str, ...]) -> None:
    plain = ran("order", tmp_path / "off", "off", *args)
    isolated = ran("order", tmp_path / "all", "all", *args)
    assert isolated.events == plain.events
    assert isolated.said.status == plain.said.status
    if args == SHOWN:
        assert isolated.said.terminal == plain.said.terminal
