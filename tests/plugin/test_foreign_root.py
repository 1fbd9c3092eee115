"""Tests whose root file system isn't the host's, through the real plugin, as root and as an unprivileged user."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.capabilities import requires
from tests.support.roots import make_root
from tests.support.unprivileged import USER_ID, pytest_as_user, user_directory

SUITE = """
import os, subprocess, sys, sqlite3
import pytest

pytestmark = pytest.mark.isolate(rootfs="ROOT")

@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    path = tmp_path_factory.mktemp("wide") / "made"
    path.write_text("outside")
    return path

def test_it_is_the_image(tmp_path):
    assert open("/etc/motd").read() == "image"
    assert not os.path.exists("/etc/debian_version")
    assert not os.path.exists("/usr/share")
    (tmp_path / "kept").write_text("x")

def test_programs_of_the_image_are_found():
    assert subprocess.run(["sh", "-c", "cat /etc/motd"], capture_output=True, text=True).stdout == "image"

def test_the_interpreter_starts_with_its_libraries():
    code = "import sqlite3, ssl, lzma, decimal, pytest, json; print(json.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import json
    assert done.stdout.strip() == json.__file__

def test_modules_that_are_imported_late():
    import bz2, ctypes.util, xml.dom.minidom

def test_the_project_is_there_and_writes_to_it_are_thrown_away():
    here = os.path.dirname(__file__)
    assert "conftest.py" in os.listdir(here)
    with open(os.path.join(here, "written"), "w") as file:
        file.write("x")

def test_writes_of_the_test_before_are_gone():
    assert not os.path.exists(os.path.join(os.path.dirname(__file__), "written"))
    open("/etc/motd", "w").close()
    assert not os.path.exists("/etc/new")

def test_wide_fixture_s_files(wide):
    assert wide.read_text() == "outside"

def test_a_failure_shows_its_source():
    motd = open("/etc/motd").read()
    assert motd == "another"  # this line

def test_the_packages_can_t_be_written():
    with pytest.raises(OSError):
        open(os.path.join(os.path.dirname(pytest.__file__), "x"), "w")

@pytest.mark.isolate(enabled=False)
def test_plain_beside_them():
    assert os.path.exists("/usr/share")
"""


def check(outcomes: str, project: Path, root: Path) -> None:
    assert "1 failed, 9 passed" in outcomes, outcomes
    assert 'assert motd == "another"  # this line' in outcomes
    assert not (project / "written").exists()
    assert (root / "etc/motd").read_text() == "image"


@pytest.mark.parametrize("order", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])
@requires("root")
def test_suite_in_an_image(pytester: pytest.Pytester, order: tuple[str, ...]):
    root = make_root(pytester.path / "image root", etc__motd="image")
    project = pytester.mkdir("project")
    (project / "conftest.py").touch()
    (project / "test_it.py").write_text(SUITE.replace("ROOT", str(root)))
    result = pytester.runpytest_subprocess("--rootdir", project, f"--isolate-store={pytester.path}/store", *order, project)
    check(result.stdout.str(), project, root)


@requires("unprivileged-user", "userns")
def test_suite_in_an_image_as_a_user():
    with user_directory() as place:
        root = make_root(place / "image root", etc__motd="image")
        project = place / "project"
        project.mkdir()
        (project / "conftest.py").touch()
        (project / "test_it.py").write_text(SUITE.replace("ROOT", str(root)))
        subprocess.run(["chown", "-R", f"{USER_ID}:{USER_ID}", place], check=True)
        done = pytest_as_user("--rootdir", str(project), f"--isolate-store={place}/store", str(project), cwd=place)
        check(done.stdout, project, root)
        shutil.rmtree(root)


def test_an_image_with_an_older_c_library_is_refused_and_why_is_said(pytester: pytest.Pytester):
    root = make_root(pytester.path / "root")
    libc = next(root.rglob("libc.so.6"))
    libc.write_bytes(b"\x7fELF GLIBC_2.2.5\0GLIBC_2.17\0")
    pytester.makepyfile(f"import pytest\n@pytest.mark.isolate(rootfs={str(root)!r})\ndef test(): pass")
    result = pytester.runpytest_subprocess(f"--isolate-store={pytester.path}/store")
    result.stdout.re_match_lines(
        [".*can't run there: its .*libc.so.6 is glibc 2.17, and .* was linked for 2.\\d+", ".*remedy: take an image"]
    )
    result.assert_outcomes(errors=1)


def test_a_root_that_isn_t_there_is_an_error_of_collection(pytester: pytest.Pytester):
    pytester.makepyfile('import pytest\n@pytest.mark.isolate(rootfs="oci:nowhere")\ndef test(): pass')
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(
        ["*marker of test_a_root*::test: rootfs: oci:*/nowhere doesn't exist; accepted: a path that is there*"]
    )
    result.assert_outcomes(errors=1)


def test_plan_shows_the_layers(pytester: pytest.Pytester):
    root = make_root(pytester.path / "root", ())
    pytester.makepyfile(f"import pytest\n@pytest.mark.isolate(rootfs={str(root)!r})\ndef test(): pass")
    result = pytester.runpytest_subprocess("--isolate-plan", f"--isolate-store={pytester.path}/store")
    result.stdout.fnmatch_lines(
        ["*rootfs *root *", "*overlay / (1 layers below, writes are thrown away)", f"*overlay {pytester.path} *"]
    )
