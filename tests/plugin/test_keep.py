"""``--isolate-keep``: of which tests files are kept, where, what is said about it, and what is wrong before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities import requires
from tests.support.isolated_runs import ROOT, Run, run
from tests.support.unprivileged import cgroup_options, delegated_cgroup, find_python, pytest_as_user, run_as_user, user_directory

SECTION = "isolate: changed files"
DEFAULT = Path(".pytest_cache/d/isolate-keep")

SUITE = """
import os
import time
import pytest

pytestmark = pytest.mark.isolate
HERE = os.path.dirname(os.path.abspath(__file__))

def write(name):
    with open(os.path.join(HERE, name), "w") as file:
        file.write(os.environ.get("WRITTEN", "new"))

def test_passes():
    write("passes")

def test_writes_nothing():
    assert 0

@pytest.mark.parametrize("name", ["a/b c", "ü"])
def test_fails(name):
    write("fails")
    assert 0

def test_leaves():
    write("leaves")
    os._exit(3)

@pytest.mark.isolate(timeout="500ms")
def test_hangs():
    write("hangs")
    time.sleep(100)

@pytest.fixture
def late():
    yield
    write("late")
    assert 0

def test_in_teardown(late):
    pass

def test_fails_and_writes_later(request):
    request.addfinalizer(lambda: write("later"))
    write("first")
    assert 0
"""

FAILED = {
    "test_fails[a/b c]": ["fails"],
    "test_fails[\\xfc]": ["fails"],
    "test_leaves": ["leaves"],
    "test_hangs": ["hangs"],
    "test_in_teardown": ["late"],
    "test_fails_and_writes_later": ["first", "later"],
}


def kept_in(base: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Kept directories by the tests' names."""
    found = {}
    for directory in base.iterdir() if base.exists() else ():
        about = json.loads((directory / "kept.json").read_text())
        found[about["nodeid"].partition("::")[2]] = directory, about
    return found


def names(base: Path) -> dict[str, list[str]]:
    """What the lists of kept directories have."""
    return {name: [os.path.basename(path) for _, path, _ in about["changes"]] for name, (_, about) in kept_in(base).items()}


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_files_of_failing_tests_are_kept_and_the_report_says_where(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(SUITE)
    done = run(pytester, monkeypatch, "--isolate-keep=failed", how=how)
    base = pytester.path / DEFAULT
    assert names(base) == FAILED
    for name, (directory, _) in kept_in(base).items():
        told = [report.section(SECTION).splitlines()[-1] for report in done if report.name == name and report.outcome == "failed"]
        words = "kept at the end of the test in" if "fails" in name else "kept in"
        assert told == [f"{words} {directory}"]
        assert directory.stat().st_mode & 0o777 == 0o700
    assert f"what tests wrote is kept in {base}: python -m pytest_isolate shell NODEID opens it again" in _joined(done)
    assert not (pytester.path / "fails").exists()


def _joined(done: Run) -> str:
    """The output with its lines as they were before they were wrapped."""
    return " ".join(done.output.split())


@requires("root", "unprivileged-user", "userns")
def test_a_user_keeps_and_opens_and_removes(monkeypatch: pytest.MonkeyPatch) -> None:
    with user_directory({"test_it.py": SUITE}) as place, delegated_cgroup() as group:
        options = ["--isolate-keep=failed", "-p", "pytest_isolate.plugin", *cgroup_options(group)]
        done = pytest_as_user(*options, cwd=place, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
        assert names(place / DEFAULT) == FAILED, done.stdout
        shell = [str(find_python()), "-m", "pytest_isolate", "shell"]
        opened = run_as_user([*shell, "test_leaves", "--", "sh", "-c", "cat leaves; exit 5"], cwd=place)
        assert (opened.returncode, opened.stdout, opened.stderr) == (5, "new", "")
        assert run_as_user([*shell, "--remove", "test_leaves"], cwd=place).returncode == 0
        assert names(place / DEFAULT) == {name: files for name, files in FAILED.items() if name != "test_leaves"}


def test_files_of_all_tests_are_kept_and_those_of_the_newest_run_stay(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(SUITE)
    (pytester.path / "pytest.ini").write_text("[pytest]\nisolate_keep = all\nisolate_keep_to = written\n")
    for text in ("first", "second"):
        monkeypatch.setenv("WRITTEN", text)
        run(pytester, monkeypatch, "-k", "passes or leaves or nothing")
        assert names(pytester.path / "written") == {"test_passes": ["passes"], "test_leaves": ["leaves"]}
        for name, (_, about) in kept_in(pytester.path / "written").items():
            shown = shell(pytester, f"{about['nodeid']}", "--", "cat", name.removeprefix("test_"), to="written")
            assert (shown.returncode, shown.stdout) == (0, text), shown.stderr


def shell(pytester: pytest.Pytester, *args: str, to: str = "") -> subprocess.CompletedProcess[str]:
    options = [f"--keep-to={to}"] if to else []
    return subprocess.run(
        [sys.executable, "-m", "pytest_isolate", "shell", *options, *args],
        cwd=pytester.path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_shell_has_the_spec_and_the_places_of_the_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("""
        import os
        import pytest
        @pytest.mark.isolate(hostname="box", env={"GREETING": "hi"}, hide=["secret"], timeout="60s", net="none")
        def test_it(tmp_path):
            (tmp_path / "place").write_text("in pytest's own place")
            with open("written", "w") as file:
                file.write(str(tmp_path))
            os.chdir("/")
            assert 0
    """)
    (pytester.path / "secret").write_text("s")
    run(pytester, monkeypatch, "--isolate-keep=failed", "-o", "tmp_path_retention_policy=all")
    done = shell(pytester, "test_it", "--", "sh", "-c", 'hostname; echo $GREETING; cat secret; pwd; cat "$(cat written)/place"')
    assert done.stderr == ""
    assert done.stdout == f"box\nhi\n{pytester.path}\nin pytest's own place"
    several = shell(pytester, "nothing")
    assert "kept in" in several.stderr
    assert "::test_it" in several.stderr


def test_reruns_keep_what_failed_last(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate
        def test_it(tmp_path_factory):
            place = tmp_path_factory.getbasetemp() / "count"
            number = len(place.read_text()) if place.exists() else 0
            place.write_text("x" * (number + 1))
            open(f"attempt{number}", "w").close()
            assert number == 2
    """)
    done = run(pytester, monkeypatch, "-p", "pytest_rerunfailures", "--reruns", "3", "--isolate-keep=failed")
    assert done.result.ret == 0, done.output
    assert names(pytester.path / DEFAULT) == {"test_it": ["attempt1"]}


@requires("root")
def test_full_disk_costs_no_result_and_is_told(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.isolate
        def test_big():
            with open("big", "wb") as file:
                file.write(bytes(range(256)) * 4096)
            assert 0, "as it was"
        def test_big_passes():
            with open("big", "wb") as file:
                file.write(bytes(range(256)) * 4096)
        def test_small():
            open("tiny", "w").close()
            assert 0
    """)
    small = pytester.mkdir("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], check=True)
    try:
        done = run(pytester, monkeypatch, "--isolate-keep=all", "--isolate-keep-to=small")
        kept = names(small)
        left = len(os.listdir(small))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    done.result.assert_outcomes(passed=1, failed=2)
    assert "as it was" in done.of("test_big", "call").longrepr
    assert kept == {"test_small": ["tiny"]}
    assert left == 1
    output = _joined(done)
    for name in ("test_big", "test_big_passes"):
        assert f"::{name} wrote isn't kept: what the sandbox wrote can't be kept in {small}: " in output
    assert "ENOSPC (No space left on device)" in output


@requires("root")
def test_killed_builder_costs_no_result(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.isolate
        def test_it():
            open("file", "w").close()
            assert 0, "as it was"
        def test_next():
            open("file", "w").close()
            assert 0, "as it was"
    """)
    pytester.makeconftest("""
        import os, signal, pytest
        from pytest_isolate.sandbox import Sandbox
        keep = Sandbox.keep
        killed = []
        def killing(self, *args):
            if not killed:
                killed.append(os.kill(self._place.entrance.builder.pid, signal.SIGKILL))
            return keep(self, *args)
        Sandbox.keep = killing
    """)
    done = run(pytester, monkeypatch, "--isolate-keep=failed")
    assert "as it was" in done.of("test_it", "call").longrepr
    assert "::test_it wrote isn't kept: the builder" in _joined(done)
    assert list(names(pytester.path / DEFAULT)) == ["test_next"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--isolate-keep=some"], ["command line: --isolate-keep: 'some' is not accepted; accepted: none, failed, all"]),
        (["-o", "isolate_keep=some"], ["command line (-o): isolate_keep: 'some' is not accepted"]),
        (["--isolate-keep=all", "--isolate-keep-to=/proc/x"], ["--isolate-keep-to: /proc/x can't take what is kept: ENOENT"]),
        (["--isolate-keep=all", "--isolate-keep-to=file"], ["--isolate-keep-to: ", "/file can't take what is kept: EEXIST"]),
        (["--isolate-keep=failed", "-p", "no:cacheprovider"], ["needs pytest's cache; accepted: --isolate-keep-to=DIR"]),
    ],
)
def test_what_cant_be_kept_is_said_before_anything_runs(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: list[str], words: list[str]
) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test_it(): pass")
    (pytester.path / "file").touch()
    done = run(pytester, monkeypatch, *options)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    for text in words:
        assert text in done.result.stderr.str()


@requires("root")
def test_a_file_system_that_takes_no_whiteouts_is_named(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test_it(): pass")
    for name in ("lower", "upper", "work", "merged"):
        pytester.mkdir(name)
    subprocess.run(
        ["mount", "-t", "overlay", "-o", "lowerdir=lower,upperdir=upper,workdir=work", "none", "merged"],
        check=True,
        cwd=pytester.path,
    )
    try:
        done = run(pytester, monkeypatch, "--isolate-keep=all", "--isolate-keep-to=merged")
        left = os.listdir(pytester.path / "merged")
    finally:
        subprocess.run(["umount", "merged"], check=True, cwd=pytester.path)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "its file system doesn't take what overlayfs leaves behind" in done.result.stderr.str()
    assert left == []


def test_nothing_is_made_where_nothing_runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test_it(): pass")
    for option in ("--collect-only", "--no-isolate", "--isolate-plan"):
        run(pytester, monkeypatch, option, "--isolate-keep=all", "--isolate-keep-to=to")
        assert not (pytester.path / "to").exists()
