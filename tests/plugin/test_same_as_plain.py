"""An isolated test is reported as pytest would have reported it: each feature, report by report, field by field."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.plain_runs import SUITES, Said, both, differences

FILES = sorted(path.name for path in (SUITES / "same").iterdir() if path.suffix in (".py", ".txt") and path.name != "conftest.py")
Pair = tuple[Said, Said]

DEFAULTS = ["--doctest-modules", "--doctest-glob=*.txt", "-rA", "-o", "log_level=INFO"]


@pytest.fixture(scope="module")
def default_runs(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return both("same", tmp_path_factory.mktemp("default"), *DEFAULTS)


@pytest.mark.parametrize("name", FILES)
def test_every_hook_is_told_the_same(default_runs: Pair, name: str) -> None:
    plain, isolated = default_runs
    assert plain.of(name), plain.raw + plain.error
    found = differences(plain.of(name), isolated.of(name))
    assert not found, "\n".join(found)


def test_terminal_exit_status_and_order_are_the_same(default_runs: Pair) -> None:
    plain, isolated = default_runs
    assert isolated.terminal == plain.terminal
    assert isolated.status == plain.status
    order = [[(entry["kind"], entry.get("nodeid"), entry.get("when")) for entry in said.entries] for said in default_runs]
    assert order[0] == order[1]
    assert [said.entries[-1] for said in (plain, isolated)][0]["kind"] == "end"
    assert isolated.entries[-1] == plain.entries[-1]
