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


CAPTURED = ("test_captured.py", "test_classes.py", "test_teardown_errors.py", "test_warnings.py")
OUTCOMES = ("test_outcomes.py", "test_skips.py", "test_xfails.py", "test_unittests.py", "test_subtests.py")

OPTIONS = [
    ("-s", *CAPTURED),
    ("-p no:capture", *CAPTURED),
    ("--capture=sys", *CAPTURED),
    ("--capture=tee-sys", *CAPTURED),
    ("-p no:logging", *CAPTURED),
    ("-o log_cli=true", *CAPTURED),
    ("-o log_cli=true -v", *CAPTURED),
    ("-p no:warnings", *CAPTURED),
    ("-W error", *CAPTURED),
    ("-p no:terminal", *CAPTURED),
    ("-p no:unraisableexception -p no:threadexception -p no:faulthandler", *CAPTURED),
    ("--setup-show", *CAPTURED),
    ("--setup-only", *CAPTURED),
    ("--setup-plan", *CAPTURED),
    ("-x", *OUTCOMES),
    ("-x", "test_teardown_errors.py"),
    ("-x", "test_subtests.py"),
    ("--maxfail=3", *OUTCOMES),
    ("-v -rA", *OUTCOMES),
    ("-vv --color=yes", *OUTCOMES),
    ("-q --tb=short --showlocals", *CAPTURED),
    ("--tb=line", *OUTCOMES),
    ("--tb=no -rfEsxXpP", *OUTCOMES),
    ("--runxfail", *OUTCOMES),
    ("-o xfail_strict=true", *OUTCOMES),
    ("-p no:cacheprovider", *OUTCOMES),
    ("--deselect test_outcomes.py::test_fails -k not_missing", *OUTCOMES),
    ("--doctest-modules --doctest-continue-on-failure --color=yes", "test_doctests.py", "guide.txt"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: f"{options[0]} {len(options) - 1}")
def test_options_change_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    plain, isolated = both("same", tmp_path, *options[0].split(), *options[1:])
    if "no:terminal" not in options[0]:
        assert "INTERNALERROR" not in plain.raw
        assert len(plain.terminal) > 4
    found = differences(plain.entries, isolated.entries)
    assert not found, "\n".join(found)
    assert isolated.terminal == plain.terminal
    assert isolated.status == plain.status
    assert isolated.error == plain.error
