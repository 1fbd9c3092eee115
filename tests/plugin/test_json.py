"""``--isolate-json``: the run as a document that its published schema describes, whatever becomes of the run."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_isolate.report import files
from tests.support.capabilities import requires
from tests.support.isolated_runs import EVERY_WAY, run
from tests.support.plugin_runs import Pytest, plugin

__all__ = ["plugin"]

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "pytest_isolate/report/report.schema.json").read_text(encoding="utf-8"))

SUITE = """
import os, subprocess, time, pytest

@pytest.mark.isolate(memory="256MiB", env={"A": "1"})
def test_passes(): bytearray(20_000_000)

@pytest.mark.isolate
def test_fails(): assert 0

@pytest.mark.isolate
def test_skips(): pytest.skip("no")

@pytest.mark.isolate
@pytest.mark.xfail
def test_xfails(): assert 0

@pytest.mark.isolate
@pytest.mark.xfail
def test_xpasses(): pass

@pytest.fixture
def broken():
    yield
    assert 0

@pytest.mark.isolate
def test_breaks(broken): pass

@pytest.mark.isolate
def test_fails_and_breaks(broken): assert 0

@pytest.mark.isolate
def test_leaves_something(): subprocess.Popen(["sleep", "60"])

def test_plain(): pass
"""

OUTCOMES = {
    "test_passes": "passed", "test_fails": "failed", "test_skips": "skipped", "test_xfails": "xfailed", "test_xpasses": "xpassed",
    "test_breaks": "error", "test_fails_and_breaks": "failed", "test_leaves_something": "passed",
}  # fmt: skip


def strict(schema: Any) -> Any:
    """The same schema, for which a member that it doesn't describe is an error."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(part) for name, part in schema.items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def checked(text: str) -> Any:
    """The document in `text`, after its schema has said that it is one, with nothing in it that the schema doesn't know."""
    document = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, strict(SCHEMA), jsonschema.Draft202012Validator)
    return document


def by_name(document: Any) -> dict[str, Any]:
    return {test["nodeid"].partition("::")[2]: test for test in document["tests"]}


@EVERY_WAY
def test_document_has_every_isolated_test_with_its_outcome_and_figures(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(test_it=SUITE)
    before = time.time()
    done = run(pytester, monkeypatch, "--isolate-json=out/run.json", how=how, keep=["out/run.json"])
    document = checked(done.files["out/run.json"])
    tests = by_name(document)
    assert {name: test["outcome"] for name, test in tests.items()} == OUTCOMES
    assert document["plain_tests"] == 1
    assert document["totals"]["outcomes"] == {"passed": 2, "failed": 2, "skipped": 1, "xfailed": 1, "xpassed": 1, "error": 1}
    assert document["run"]["exit_status"] == 1
    assert not document["run"]["interrupted"]
    assert tests["test_passes"]["spec"] == {"memory": 256 << 20, "env": [["A", "1"]]}
    assert [problem["kind"] for problem in tests["test_leaves_something"]["problems"]] == ["LEAK"]
    for test in tests.values():
        assert before < test["started"] < document["run"]["started"] + document["run"]["seconds"]
        assert test["usage"]["wall_seconds"] > 0
        assert bool(test.get("worker")) == (how == "xdist")
    usage = [test["usage"] for test in tests.values()]
    assert document["totals"]["usage"]["cpu_seconds"] == pytest.approx(sum(each["cpu_seconds"] for each in usage))
    machine = document["machine"]
    assert machine["kernel"] == os.uname().release
    assert (machine["uid"] == os.geteuid()) == (how != "user")


def test_reruns_are_attempts(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(
        test_it="""
        import os, pytest
        @pytest.mark.isolate(writable=["."])
        def test_at_the_second_time():
            os.mkdir("first") if not os.path.exists("first") else None
            assert os.path.exists("second") or os.mkdir("second")
        """
    )
    plugin("-p", "rerunfailures", "--reruns=2", "--isolate-json=run.json")
    document = checked((pytester.path / "run.json").read_text())
    assert [(test["attempt"], test["outcome"]) for test in document["tests"]] == [(1, "rerun"), (2, "passed")]
    assert document["totals"]["outcomes"] == {"passed": 1}
    assert (document["totals"]["tests"], document["totals"]["attempts"]) == (1, 2)


def test_run_without_an_isolated_test_has_a_document_too(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("def test_plain(): pass")
    plugin("--isolate-json=run.json").assert_outcomes(passed=1)
    document = checked((pytester.path / "run.json").read_text())
    assert (document["tests"], document["plain_tests"]) == ([], 1)


@pytest.fixture
def sleeping(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose second test sleeps, once it does."""
    pytester.makepyfile(
        test_it="""
        import time, pytest
        @pytest.mark.isolate
        def test_first(): pass
        @pytest.mark.isolate
        def test_sleeps():
            time.sleep(60)
        """
    )
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin", "-v", "--isolate-json=run.json"]
    process = subprocess.Popen(command, cwd=pytester.path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    for line in process.stdout:
        if b"test_first PASSED" in line:
            break
    yield process
    process.stdout.close()
    process.wait(30)


def test_two_outputs_in_one_file_are_an_error_before_any_test(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makeini("[pytest]\nisolate_metrics = sub/../run")
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test(): open('ran', 'w')")
    result = plugin("--isolate-json=run")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*isolate_metrics: */run is what --isolate-json writes; accepted: the path of another file"])


def test_what_is_open_is_written_to_and_links_are_followed(pytester: pytest.Pytester, plugin: Pytest) -> None:
    """Never replaced: /dev/stdout is the whole machine's."""
    assert (files.descriptor("/dev/stdout"), files.descriptor("/dev/stderr"), files.descriptor("/dev/null")) == (1, 2, None)
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test(): pass")
    pytester.mkdir("there")
    (pytester.path / "link.json").symlink_to("there/run.json")
    (pytester.path / "linked.txt").symlink_to("there/run.txt")
    (pytester.path / "there/run.txt").write_text("old")
    result = plugin("--isolate-json=/proc/self/fd/1", "--isolate-metrics=/dev/fd/1")
    assert result.ret == 0  # standard output is a file of pytester's, which both outputs and pytest's own lines are in
    result.stdout.fnmatch_lines(['*"version": 1*', "# EOF", "*1 passed*"])
    assert plugin("--isolate-json=link.json", "--isolate-metrics=linked.txt").ret == 0
    assert (pytester.path / "link.json").is_symlink()
    assert (pytester.path / "linked.txt").is_symlink()
    assert checked((pytester.path / "there/run.json").read_text())["tests"]
    assert "# EOF" in (pytester.path / "there/run.txt").read_text()
    result = plugin("--isolate-json=/dev/fd/987")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--isolate-json: /dev/fd/987 can't be written: Bad file descriptor; accepted: *"])


@pytest.mark.parametrize("option", ["-x", "--maxfail=1", "--stepwise"])
def test_run_that_stopped_at_a_failure_says_so(pytester: pytest.Pytester, plugin: Pytest, option: str) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test_a(): assert 0\ndef test_b(): pass")
    plugin(option, "--isolate-json=run.json")
    assert checked((pytester.path / "run.json").read_text())["run"]["interrupted"]


def test_interrupted_run_writes_what_it_has(pytester: pytest.Pytester, sleeping: subprocess.Popen[bytes]) -> None:
    sleeping.send_signal(signal.SIGINT)
    assert sleeping.wait(30) == 2
    document = checked((pytester.path / "run.json").read_text())
    assert document["run"]["interrupted"]
    assert by_name(document)["test_first"]["outcome"] == "passed"


@pytest.mark.parametrize("how", ["alone", "xdist"])
@pytest.mark.parametrize(
    ("ends", "status"), [("assert 0", 1), ("pytest.exit('enough', returncode=5)", 5)], ids=["-x", "pytest.exit"]
)
def test_run_that_was_stopped_says_that_tests_may_be_missing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str, ends: str, status: int
) -> None:
    pytester.makepyfile(
        test_it=f"import pytest\npytestmark = pytest.mark.isolate\ndef test_a(): pass\ndef test_b(): {ends}\ndef test_c(): pass"
    )
    done = run(
        pytester,
        monkeypatch,
        "-x",
        "--isolate-json=run.json",
        "--isolate-save=base",
        "-p",
        "no:randomly",
        how=how,
        keep=["run.json"],
    )
    if how == "alone":
        assert done.result.ret == status
        assert "the baseline base was not saved: the run was interrupted" in done.output
    else:  # to pytest-xdist a worker that ends early is an error of its own
        assert done.result.ret == (pytest.ExitCode.INTERNAL_ERROR if "exit" in ends else pytest.ExitCode.INTERRUPTED)
    assert checked(done.files["run.json"])["run"]["interrupted"]
    assert not (pytester.path / ".isolate").exists()


def test_link_is_followed_and_stays(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("def test(): pass")
    (pytester.path / "reports").mkdir()
    (pytester.path / "latest.json").symlink_to("reports/run.json")
    for _ in range(2):
        plugin("--isolate-json=latest.json").assert_outcomes(passed=1)
        assert (pytester.path / "latest.json").is_symlink()
        assert checked((pytester.path / "reports/run.json").read_text())["plain_tests"] == 1
        assert [path.name for path in (pytester.path / "reports").iterdir()] == ["run.json"]


def test_link_to_standard_output_is_as_standard_output_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(): pass")
    stdout = pytester.path / "stdout"
    stdout.symlink_to("/proc/self/fd/1")
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin", "--isolate-json=stdout"]
    piped = subprocess.run(command, cwd=pytester.path, env=env, capture_output=True, text=True, check=True)
    with (pytester.path / "log").open("w") as log:
        subprocess.run(command, cwd=pytester.path, env=env, stdout=log, check=True)
    for text in (piped.stdout, (pytester.path / "log").read_text()):
        assert '"plain_tests": 1' in text
        assert "1 passed" in text
    assert os.readlink(stdout) == "/proc/self/fd/1"


def test_run_whose_last_teardown_raises_writes_what_it_has(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest
        @pytest.fixture(scope="module")
        def bad_module():
            yield
            raise RuntimeError("module teardown")
        @pytest.fixture(scope="class")
        def bad_class():
            yield
            raise RuntimeError("class teardown")
        class TestClass:
            @pytest.mark.isolate
            def test_first(self, bad_class, bad_module): pass
        def test_never(): pass
        """
    )
    result = plugin("-x", "--isolate-json=run.json")  # what -x leaves set up is torn down in pytest_sessionfinish
    assert "RuntimeError: module teardown" in result.stderr.str()
    assert by_name(checked((pytester.path / "run.json").read_text()))["TestClass::test_first"]["outcome"] == "error"


def test_path_that_cannot_be_written_is_an_error_before_any_test(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("def test(): open('ran', 'w')")
    (pytester.path / "file").write_text("")
    (pytester.path / "directory").mkdir()
    for path, why in (
        ("file/run.json", "Not a directory"),
        ("directory", "not a regular file"),
        ("/proc/none/run.json", "No such file"),
    ):
        result = plugin(f"--isolate-json={path}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*--isolate-json: *{path} can't be written: {why}*; accepted: the path of a file in*"])
    assert plugin("--isolate-json=").ret == pytest.ExitCode.USAGE_ERROR
    assert not (pytester.path / "ran").exists()


def test_ini_key_is_relative_to_the_file(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makeini("[pytest]\nisolate_json = reports/run.json")
    (pytester.path / "below").mkdir()
    (pytester.path / "below/test_it.py").write_text("def test(): pass")
    plugin("--rootdir=.", "below")
    checked((pytester.path / "reports/run.json").read_text())


@requires("root")
def test_disk_that_is_full_at_the_end_fails_the_run_and_keeps_the_former_file(pytester: pytest.Pytester, plugin: Pytest) -> None:
    small = pytester.mkdir("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], check=True)
    try:
        (small / "run.json").write_text("former")
        pytester.makepyfile(
            f"""
            def test_fills():
                import os
                fd = os.open({str(small / "filler")!r}, os.O_WRONLY | os.O_CREAT)
                try:
                    while True: os.write(fd, bytes(4096))
                except OSError: pass
            """
        )
        result = plugin("--isolate-json=small/run.json")
        assert result.ret == pytest.ExitCode.INTERNAL_ERROR
        result.stdout.fnmatch_lines(["*small/run.json could not be written: No space left on device*"])
        assert (small / "run.json").read_text() == "former"
        assert sorted(os.listdir(small)) == ["filler", "run.json"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_file_has_the_mode_that_open_would_give_it(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("def test(): pass")
    mask = os.umask(0o027)
    try:
        plugin("--isolate-json=run.json")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((pytester.path / "run.json").stat().st_mode) == 0o640


def test_listing_tests_writes_nothing(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test(): pass")
    for option in ("--collect-only", "--isolate-plan"):
        plugin(option, "--isolate-json=run.json")
    assert not (pytester.path / "run.json").exists()
