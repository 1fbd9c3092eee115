"""Files that a run leaves and the next one reads: JUnit XML, pytest's cache, logs, temporary directories."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.plain_runs import How, Said, both, copied, differences, run

HOWS: tuple[How, ...] = ("plain", "all")
FILES = (
    "test_outcomes.py",
    "test_properties.py",
    "test_captured.py",
    "test_teardown_errors.py",
    "test_unittests.py",
    "test_skips.py",
)


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_junit_xml_is_the_same_but_for_the_figures(tmp_path: Path, family: str) -> None:
    options = ("--junit-xml=report.xml", "-o", f"junit_family={family}", "-o", "junit_logging=all")
    texts = []
    directory = copied("same", tmp_path)
    for how in HOWS:
        run(directory, *options, *FILES, how=how)
        text = (directory / "report.xml").read_text()
        assert ("isolate.cpu_seconds" in text) == (how == "all")
        text = re.sub(r'<property name="isolate\.[^>]*/>', "", text)
        text = text.replace("<properties></properties>", "").replace("<properties />", "")
        text = re.sub(r"0x[0-9a-f]+|isolate_(?:box|factory|layer), ", "", text)
        text = re.sub(r' (time|timestamp)="[^"]*"', "", text)
        texts.append(text.replace(str(tmp_path / f"base-{how}"), "BASE"))
    assert texts[0].splitlines() == texts[1].splitlines()
    assert 'name="suite" value="value"' in texts[1]
    assert ('assertions="7"' in texts[1]) == (family == "xunit1")
    assert '<property name="number" value="3"' in texts[1]


def twice(directory: Path, how: How, first: tuple[str, ...], second: tuple[str, ...]) -> tuple[Said, dict[str, object]]:
    """The second of two runs that share a cache, and what the cache holds."""
    run(directory, *first, *FILES, how=how)
    said = run(directory, *second, *FILES, how=how, keep_cache=True)
    values = directory / ".pytest_cache" / "v"
    return said, {str(path.relative_to(values)): json.loads(path.read_text()) for path in values.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "first,second",
    [((), ("--lf",)), ((), ("--ff",)), (("--sw",), ("--sw",)), (("--sw",), ("--sw", "--sw-skip")), (("-x",), ("--lf", "-x"))],
    ids=lambda args: " ".join(args) or "-",
)
def test_failed_tests_are_remembered(tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...]) -> None:
    directory = copied("same", tmp_path)
    (plain, plain_cache), (isolated, isolated_cache) = [twice(directory, how, first, second) for how in HOWS]
    found = differences(plain.entries, isolated.entries)
    assert not found, "\n".join(found)
    assert isolated.terminal == plain.terminal
    plain_cache.pop("cache/stepwise", None), isolated_cache.pop("cache/stepwise", None)  # holds a date
    assert isolated_cache == plain_cache


def test_value_set_in_a_test_is_in_the_cache_afterwards(tmp_path: Path) -> None:
    directory = copied("same", tmp_path)
    run(directory, "test_tmp.py", how="all")
    assert json.loads((directory / ".pytest_cache" / "v" / "own" / "value").read_text()) == [1, 2]


def test_durations_are_those_of_the_tests(tmp_path: Path) -> None:
    directory = tmp_path / "suite"
    directory.mkdir()
    (directory / "test_slow.py").write_text(
        "import time, pytest\n"
        "@pytest.fixture\ndef slow():\n    time.sleep(0.2)\n    yield\n    time.sleep(0.3)\n"
        "def test_it(slow):\n    time.sleep(0.4)\n"
    )
    said = run(directory, "--durations=3", "-vv", how="all")
    shown = re.findall(r"^(\d\.\d+)s (setup|call|teardown)", said.raw, re.MULTILINE)
    assert [phase for _, phase in shown] == ["call", "teardown", "setup"]
    for (seconds, _), least in zip(shown, (0.4, 0.3, 0.2), strict=True):
        assert least <= float(seconds) < least + 0.15


def test_log_file_has_both_processes_records_in_order(tmp_path: Path) -> None:
    directory = copied("same", tmp_path)
    texts = []
    for how in HOWS:
        run(directory, "--log-file=log.txt", "--log-file-level=INFO", "test_captured.py", "test_classes.py", how=how)
        texts.append((directory / "log.txt").read_text())
    assert texts[0] == texts[1]
    assert "call log" in texts[1]


@pytest.mark.parametrize("policy", ["all", "failed", "none"])
def test_temporary_directories_are_kept_as_the_policy_says(tmp_path: Path, policy: str) -> None:
    kept = []
    directory = copied("same", tmp_path)
    for how in HOWS:
        run(directory, "-o", f"tmp_path_retention_policy={policy}", "test_tmp.py", how=how)
        base = tmp_path / f"base-{how}"
        kept.append(sorted(str(path.relative_to(base)) for path in base.rglob("*")) if base.exists() else None)
    assert kept[0] == kept[1]


def test_xdist_says_the_same(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    plain, isolated = both("same", tmp_path, "-p", "xdist", "-n", "2", "--dist=loadfile", *FILES)
    for name in FILES:
        found = differences(*([_without_wide_ends(entry) for entry in said.reports(name)] for said in (plain, isolated)))
        assert not found, "\n".join(found)
    assert isolated.status == plain.status


def _without_wide_ends(entry: dict[str, Any]) -> dict[str, Any]:
    """Which test is a worker's first or last one, and so has the session fixtures' set-up or teardown in its reports, is
    xdist's choice."""
    if entry["when"] == "teardown":
        return {**entry, "sections": [], "tuples": []}
    shown = [[title, _without_session(text)] for title, text in entry["sections"]]
    kept = [section for section in shown if section[1]]
    location, others = entry["tuples"]
    return {**entry, "sections": kept, "tuples": [location, others[len(shown) - len(kept) :]]}


def _without_session(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not re.search(r"\bsession (out|log)$", line.rstrip()))
