"""``[tool.pytest-isolate.budgets]``: limits for tests by pattern, what they rank above and below, and patterns that can't be meant."""

from __future__ import annotations

import json
import re

import pytest

from pytest_isolate.plugin.budget_patterns import Patterns, load
from tests.support.collected import collect
from tests.support.isolated_runs import run

TESTS = """
import pytest

@pytest.mark.isolate(budget={"wall": "9s"})
def test_marked(): pass

@pytest.mark.isolate
@pytest.mark.parametrize("p", ["a", "b"])
def test_bare(p): pass

@pytest.mark.isolate
class TestClass:
    def test_in(self): pass

def test_plain(): pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    (pytester.path / "tests/deep").mkdir(parents=True)
    (pytester.path / "tests/deep/test_it.py").write_text(TESTS)
    return pytester


def budgets(pytester: pytest.Pytester, table: str, *args: str, ini: str = "") -> dict[str, dict[str, float] | None]:
    """By test, what its budget came to."""
    write(pytester, table, ini)
    return {
        name: None if found.spec is None else found.spec.get("budget", {}) for name, found in collect(pytester, *args).items()
    }


def write(pytester: pytest.Pytester, table: str, ini: str = "") -> None:
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{ini}\n[tool.pytest-isolate.budgets]\n{table}")


@pytest.mark.parametrize(
    "pattern,matching",
    [
        ("tests/deep/test_it.py::test_bare[a]", {"test_bare[a]"}),
        ("tests/deep/test_it.py::test_bare*", {"test_bare[a]", "test_bare[b]"}),
        ("*::test_bare[[]b]", {"test_bare[b]"}),
        ("tests/deep/test_it.py::TestClass", {"TestClass::test_in"}),
        ("*::TestClass", {"TestClass::test_in"}),
        ("tests/deep/test_it.py", {"test_marked", "test_bare[a]", "test_bare[b]", "TestClass::test_in"}),
        ("tests", {"test_marked", "test_bare[a]", "test_bare[b]", "TestClass::test_in"}),
        ("tests/**", {"test_marked", "test_bare[a]", "test_bare[b]", "TestClass::test_in"}),
        ("**/test_it.py", {"test_marked", "test_bare[a]", "test_bare[b]", "TestClass::test_in"}),
        ("test_it.py", set()),
        ("deep", set()),
    ],
)
def test_pattern_matches_node_ids_and_paths_and_what_lies_in_them(
    suite: pytest.Pytester, pattern: str, matching: set[str]
) -> None:
    found = budgets(suite, f'"{pattern}" = {{pids = 3}}', "tests")
    assert {name for name, budget in found.items() if budget and "pids" in budget} == matching
    assert found["test_plain"] is None  # a pattern isolates nothing


ODD = ["*", "?", "[a]", "a::b", "a/b", "!", "]", "\u00e9", "a b", "'", '"']


def test_node_id_as_it_stands_is_a_pattern_whatever_is_in_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=f"import pytest\n@pytest.mark.isolate\n@pytest.mark.parametrize('p', {ODD!r})\ndef test_odd(p): pass"
    )
    plain = {f"test_odd[{collected}]" for collected in ODD if collected != "\u00e9"}
    for name in sorted(plain):
        found = budgets(pytester, f"{json.dumps(f'test_it.py::{name}')} = {{pids = 3}}", "test_it.py")
        assert plain <= set(found)
        assert found[name] == {"pids": 3}


def test_thousands_of_patterns_that_are_ids_match_their_tests_alone(pytester: pytest.Pytester) -> None:
    """As many as tests, as `budgets suggest --by=test` writes them."""
    source = "import pytest\n@pytest.mark.parametrize('p', range(500))\ndef test_{}(p): pass\n"
    files = {f"test_{number}": source.format(number) for number in range(4)}
    pytester.makepyfile(**files)
    items, _ = pytester.inline_genitems("-q", "-p", "no:asyncio")
    patterns = Patterns(load({item.nodeid: {"pids": 9} for item in items} | {"*_1.py": {"pids": 8}})[0], str(pytester.path))
    assert len(items) == 2000
    for item in items:
        of_file = {"*_1.py"} if item.nodeid.startswith("test_1.py") else set()
        assert patterns.of(item) == {item.nodeid} | of_file
        assert len(patterns.layers(patterns.of(item))) == 1 + len(of_file)


def test_file_in_a_rootdir_elsewhere_is_matched_by_its_path(suite: pytest.Pytester) -> None:
    found = budgets(suite, '"tests/deep/*" = {pids = 3}', "tests/deep")
    assert found["TestClass::test_in"] == {"pids": 3}


def test_limits_merge_figure_by_figure_and_the_closest_place_wins(suite: pytest.Pytester) -> None:
    table = '"tests/**" = {wall = "1s", cpu = "2s", pids = 9, disk = "1MB"}\n"*TestClass*" = {pids = 4}'
    ini = "isolate_budget = 'cpu=1s,memory=7MB,disk=2MB'"
    found = budgets(suite, table, "--isolate-budget=disk=3MB", ini=ini)
    of_pattern = {"cpu": 2.0, "wall": 1.0, "memory": 7_000_000, "pids": 9, "disk": 3_000_000}
    assert found["test_bare[a]"] == of_pattern
    assert found["test_marked"] == {**of_pattern, "wall": 9.0}
    assert found["TestClass::test_in"] == {**of_pattern, "pids": 4}
    places = collect(suite, "--isolate-budget=disk=3MB")["TestClass::test_in"].places
    assert places == {
        "budget.cpu": "'tests/**' in [tool.pytest-isolate.budgets] of pyproject.toml",
        "budget.wall": "'tests/**' in [tool.pytest-isolate.budgets] of pyproject.toml",
        "budget.memory": "isolate_budget of pyproject.toml",
        "budget.pids": "'*TestClass*' in [tool.pytest-isolate.budgets] of pyproject.toml",
        "budget.disk": "--isolate-budget of command line",
    }


def test_later_pattern_wins_and_none_takes_a_limit_away(suite: pytest.Pytester) -> None:
    found = budgets(suite, '"*TestClass*" = {pids = 4}\n"tests/**" = {pids = 9, cpu = "none"}', ini="isolate_budget = 'cpu=1s'")
    assert found["TestClass::test_in"] == {"pids": 9}
    assert budgets(suite, '"tests/**" = {pids = 9}', "--isolate-budget=pids=none")["TestClass::test_in"] == {}


def test_marker_and_profile_take_limits_away_too(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml("""
        [tool.pytest-isolate.budgets]
        "*" = {pids = 9, cpu = "1s", wall = "1s"}
        [tool.pytest-isolate.profiles.free]
        budget = {cpu = "none"}
    """)
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate(budget={"pids": None}, profile="free")
        def test_it(): pass
    """)
    found = collect(pytester)["test_it"]
    assert found.spec == {"budget": {"wall": 1.0}}


def test_plan_shows_each_limit_with_its_place(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    write(suite, '"tests/**" = {wall = "1s", memory = "64MiB"}')
    done = run(suite, monkeypatch, "--isolate-plan")
    lines = done.result.stdout.lines
    start = next(place for place, line in enumerate(lines) if line.endswith("::test_marked"))
    shown = "\n".join(lines[start : start + 14])
    assert re.search(r"^  budget\.wall +9\.00 s +marker of tests/deep/test_it\.py::test_marked$", shown, re.MULTILINE)
    assert re.search(
        r"^  budget\.memory +64\.0 MiB +'tests/\*\*' in \[tool\.pytest-isolate\.budgets\] of pyproject\.toml$",
        shown,
        re.MULTILINE,
    )


def test_breach_names_the_pattern(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    write(suite, '"*TestClass*" = {wall = "1ms"}')
    done = run(suite, monkeypatch)
    assert done.failed() == {("test_it.py::TestClass::test_in", "call")} or done.failed() == {("TestClass::test_in", "call")}
    assert "'*TestClass*' in [tool.pytest-isolate.budgets] of pyproject.toml" in done.output


# --- patterns that match nothing ----------------------------------------------------------------------------------

NOTHING = '"tests/**" = {wall = "9s"}\n"tests/gone/**" = {wall = "9s"}\n"*::test_plain" = {cpu = "9s"}'
WARNING = re.compile(
    r"pyproject\.toml:(\d+): PytestConfigWarning: \[tool\.pytest-isolate\.budgets\]: '(.*)' matches no isolated test"
)


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_pattern_that_matches_no_isolated_test_is_a_warning(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write(suite, NOTHING)
    done = run(suite, monkeypatch, how=how)
    done.result.assert_outcomes(passed=5, warnings=2)
    lines = (suite.path / "pyproject.toml").read_text().splitlines()
    found = WARNING.findall(done.output)
    assert [pattern for _line, pattern in found] == ["tests/gone/**", "*::test_plain"]
    assert all(pattern in lines[int(line) - 1] for line, pattern in found)


@pytest.mark.parametrize("how", ["alone", "xdist"])
@pytest.mark.parametrize(
    "args",
    [
        ["-k", "bare"],
        ["-m", "isolate"],
        ["tests/deep/test_it.py"],
        ["tests/deep/test_it.py::test_marked"],
        ["tests"],
        ["--no-isolate"],
    ],
    ids=" ".join,
)
def test_nothing_is_said_where_only_a_part_was_asked_for(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str, args: list[str]
) -> None:
    write(suite, NOTHING)
    done = run(suite, monkeypatch, *args, how=how)
    assert done.result.ret == 0
    assert not WARNING.search(done.output)


def test_run_without_an_isolated_test_warns_of_every_pattern(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    write(pytester, NOTHING)
    pytester.makepyfile("def test_it(): pass")
    assert len(WARNING.findall(run(pytester, monkeypatch).output)) == 3


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_where_warnings_are_errors_it_is_an_error_of_collection(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write(suite, NOTHING)
    done = run(suite, monkeypatch, "-W", "error", how=how)
    assert done.result.ret != 0
    assert "'tests/gone/**' matches no isolated test" in done.output
    assert "INTERNALERROR" not in done.output


# --- tables that can't be meant -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table,error",
    [
        ('"a*" = {memory = "64 apples"}', "pyproject.toml: [tool.pytest-isolate.budgets] 'a*': memory: unknown unit 'apples' in '64 apples'; accepted: mapping of figures"),
        ('"a*" = {mem = 1}', "pyproject.toml: [tool.pytest-isolate.budgets] 'a*': no figure 'mem'; figures: cpu, instructions, wall, "),
        ('"a*" = 3', "pyproject.toml: [tool.pytest-isolate.budgets] 'a*': 3 is not a mapping of figures to limits; accepted: "),
        ('"a*" = {net_tx = "1MB"}\n"b*" = {pids = -1}', "pyproject.toml: [tool.pytest-isolate.budgets] 'b*': pids: -1 is not a whole number"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_bad_table_is_a_usage_error_naming_file_table_figure_and_form(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str, table: str, error: str
) -> None:
    write(suite, table)
    done = run(suite, monkeypatch, how=how)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {error}" in done.output


def test_budgets_that_are_no_table_are_a_usage_error(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyprojecttoml("[tool.pytest-isolate]\nbudgets = 3")
    done = run(suite, monkeypatch)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "pyproject.toml: [tool.pytest-isolate.budgets] is not a table; accepted: a pattern of node ids or paths = " in done.output
    )


@pytest.mark.parametrize(
    "args,ini,error",
    [
        (["--isolate-budget=mem=1"], "", "command line: --isolate-budget: no figure 'mem'; figures: cpu, "),
        (["--isolate-budget=cpu"], "", "command line: --isolate-budget: 'cpu' is not NAME=VALUE; accepted: FIGURE=LIMIT,FIGURE=LIMIT"),
        (["--isolate-budgets=maybe"], "", "command line: --isolate-budgets: 'maybe' is not accepted; accepted: fail, warn, off"),
        ([], "isolate_budget = 'cpu=1parsec'", "pyproject.toml: isolate_budget: cpu: unknown unit 'parsec' in '1parsec'; accepted: FIGURE"),
        ([], "isolate_budgets = 'maybe'", "pyproject.toml: isolate_budgets: 'maybe' is not accepted; accepted: fail, warn, off"),
    ],
)  # fmt: skip
def test_bad_option_and_ini_value_are_usage_errors(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: list[str], ini: str, error: str
) -> None:
    suite.makepyprojecttoml(f"[tool.pytest.ini_options]\n{ini}")
    done = run(suite, monkeypatch, *args)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    assert error in done.output.replace("SpecError: ", "")
