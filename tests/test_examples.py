"""The examples pass, as root and as a user; those that fail on purpose say what their page promises."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from pytest_isolate.model.figures import FIGURES
from tests.support.capabilities import requires
from tests.support.pytest_process import run_pytest
from tests.support.unprivileged import cgroup_options, delegated_cgroup, pytest_as_user, user_directory

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
FAILURES: Final = {
    "oom": [
        "*test_eats_too_much*",
        "*OOM: used 6?.? of 64 MiB, killed *",
        "*1 failed, 1 passed*",
    ],
    "crash": ["*signal SIGSEGV in call*", "*test_reads_address_zero*", "*1 failed, 1 passed*"],
    "hang": ["*timeout of 1.00 s in call*", "*test_waits_for_nobody*", "*1 failed, 1 passed*"],
    "leak": ["*1 process left behind: sleep (pid *)*", "*sleep 600*", "*1 passed, 1 error*"],
    "network": ["*isolate: network refused*", "*tcp 192.0.2.1:443*", "*1 failed*"],
}


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples where a sandbox that doesn't hold can do no harm."""
    target = tmp_path_factory.mktemp("copy") / "examples"
    shutil.copytree(EXAMPLES, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return target


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@requires("root", "cgroup-cpu", "cgroup-memory", "cgroup-pids")
def test_examples_pass_and_leave_their_directory_as_it_was(copy: Path):
    before = contents(copy)
    done = run_pytest(copy, ".")
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(copy) == before
    pytest.LineMatcher(done.stdout.splitlines()).fnmatch_lines(["*1 process left behind: sleep (pid*"])


@pytest.mark.parametrize("how", ["root", "user"])
@requires("root", "unprivileged-user", "userns", "redis-server", "nginx", "tbf")
def test_cluster_of_real_servers_passes(copy: Path, how: str):
    if how == "root":
        result = run_pytest(copy, "cluster")
    else:
        files = {str(path.relative_to(EXAMPLES)): path.read_text() for path in EXAMPLES.rglob("*.py")}
        with user_directory(files) as directory:
            result = pytest_as_user("-p", "no:cacheprovider", "cluster", cwd=directory)
    assert result.returncode == 0, result.stdout + result.stderr
    outcomes = pytest.RunResult.parse_summary_nouns(result.stdout.splitlines())
    assert set(outcomes) == {"passed"}


@requires("root", "unprivileged-user", "userns", "cgroup-cpu", "cgroup-memory", "cgroup-pids")
def test_examples_pass_for_an_unprivileged_user_with_a_delegated_cgroup():
    files = {str(path.relative_to(EXAMPLES)): path.read_text() for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".md")}
    with user_directory({**files, "pytest.ini": "[pytest]\nfilterwarnings = error\n"}) as directory, delegated_cgroup() as group:
        done = pytest_as_user("-p", "no:cacheprovider", *cgroup_options(group), cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("how", ["alone", "xdist"])
@requires("root", "cgroup-memory", "plugin-pytest-xdist")
def test_hooks_set_caps_add_properties_and_change_the_report(copy: Path, how: str):
    extra = ("-p", "xdist", "-n", "2") if how == "xdist" else ()
    done = run_pytest(copy, *extra, "hooks", "--junitxml=out.xml", "--isolate-json=out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((copy / "out.json").read_text())
    assert document["labels"] == {"suite": "examples", "branch": ""}
    caps = {test["nodeid"].partition("::")[2]: test["spec"]["memory"] >> 20 for test in document["tests"]}
    assert caps == {"test_has_the_cap_of_the_hook": 64, "test_may_use_more": 256, "test_keeps_a_cap_of_its_own": 32}
    cases = list(ET.parse(copy / "out.xml").iter("testcase"))
    assert len(cases) == 3
    for case in cases:
        properties = {each.get("name"): float(each.get("value", "")) for each in case.iter("property")}
        share = properties["isolate.cpu_seconds"] / properties["isolate.wall_seconds"]
        assert properties["cpu_share"] == pytest.approx(share, abs=0.006)


def test_every_failing_example_has_its_text_here():
    assert {path.stem for path in (EXAMPLES / "failures").glob("*.py")} == {*FAILURES, "budgets"}


@requires("root", "cgroup-cpu", "cgroup-memory", "cgroup-pids", "cgroup-io", "disk", "bridge")
def test_each_budget_is_breached_in_turn(copy: Path):
    figures = [name for name in FIGURES if name != "instructions"]  # few machines count them
    done = run_pytest(copy, "failures/budgets.py", "--isolate-json=run.json", "-p", "no:randomly")
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    at_end = ("disk", "processes_left")
    assert f"{len(figures) - 2} failed, 3 passed, 2 errors" in lines[-1]
    (dots,) = (line.split()[1] for line in lines if line.startswith("failures/budgets.py "))
    assert sorted(dots) == sorted("B" * len(figures) + "." * 3)
    tests = {
        test["nodeid"].rpartition("::test_")[2]: test
        for test in json.loads((copy / "run.json").read_text(encoding="utf-8"))["tests"]
    }
    assert set(tests) == {*figures, "within_all_of_them"}
    assert tests["within_all_of_them"]["problems"] == []
    for figure in figures:
        test = tests[figure]
        assert test["outcome"] == ("error" if figure in at_end else "failed")
        over = [judged["figure"] for judged in test["budget"] if judged["verdict"] == "over"]
        assert over == [figure]
        assert [(problem["kind"], problem["failed"]) for problem in test["problems"] if problem["failed"]] == [("BUDGET", True)]
        said = rf"{figure} \d\S*( \S+)?, budget \d\S*( \S+)?: \d+ (% )?over"
        where = rf"marker of failures/budgets\.py::test_{figure}"
        pytest.LineMatcher(lines).re_match_lines_random(
            [
                rf"OVER BUDGET failures/budgets\.py::test_{figure}( - .*)?$",
                rf"BUDGET failures/budgets\.py::test_{figure}(  {said})?$",
                said,
                rf"{figure} +\d.*over +{where}",
                rf'to allow it: "{figure}": \S+ in {where}',
                f"to lower {figure}: .*",
            ]
        )


@requires("root", "cgroup-memory")
@pytest.mark.parametrize("name", FAILURES)
def test_failing_example_says_what_happened(copy: Path, name: str):
    done = run_pytest(copy, f"failures/{name}.py")
    assert done.returncode == 1, done.stdout + done.stderr
    pytest.LineMatcher(done.stdout.splitlines()).fnmatch_lines(FAILURES[name])


@pytest.mark.parametrize("how", ["root", "user"])
@requires("root", "unprivileged-user", "userns", "postgresql")
def test_database_from_a_snapshot_passes(copy: Path, how: str):
    if how == "root":
        result = run_pytest(copy, "postgres", f"--isolate-store={copy}/store")
    else:
        with user_directory({path.name: path.read_text() for path in (copy / "postgres").glob("*.py")}) as place:
            result = pytest_as_user(f"--isolate-store={place}/store", cwd=place)
    assert "4 passed" in result.stdout, result.stdout + result.stderr
    assert "left behind" not in result.stdout
    assert not Path("/var/tmp/isolate-example-postgres").exists()
