"""The mounts of ``inputs=`` on the real kernel, as root and as an unprivileged user: odd trees, names and modes."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.capabilities import requires
from tests.support.nsdriver import Inside, run_inside
from tests.support.unprivileged import USER_ID

LARGE = 100_000
as_root = pytest.param(None, marks=requires("root"), id="root")
as_user = pytest.param(USER_ID if os.geteuid() == 0 else None, marks=requires("userns"), id="user")

SEE = """
import os, stat
def see(root):
    found = {}
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = oct(stat.S_IMODE(os.lstat(path).st_mode))
    return found
def attempt(path):
    try:
        with open(path, "a") as file:
            file.write("+")
        return open(path).read()[-1]
    except OSError as error:
        return error.errno
"""


@pytest.fixture(params=[as_root, as_user])
def user(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.fixture
def project(user: int | None) -> Iterator[str]:
    """The project's directory, of the sandboxes' user, with a name that overlay must be told carefully."""
    path = os.path.realpath(tempfile.mkdtemp(prefix="isolate-inputs a:b,c\\d e=\u00e4"))
    for name in ("src/mnt", "mid/data", "other/mnt", "deep/er/still", "closed"):
        os.makedirs(f"{path}/{name}")
    for name in ("src/code", "mid/data/file", "mid/beside", "other/file", "deep/er/still/file", "deep/beside", "tool", "top"):
        write(f"{path}/{name}", name)
    write(f"{path}/large", "x" * LARGE)
    write(f"{path}/deep/large", "x" * LARGE)
    os.chmod(f"{path}/tool", 0o755)
    os.chmod(f"{path}/top", 0o640)
    os.chmod(f"{path}/deep", 0o750)
    os.symlink("deep/er", f"{path}/link")
    os.symlink(f"{path}/link/still", f"{path}/far")
    if user is not None:
        for folder, directories, files in os.walk(path):
            for name in (*directories, *files):
                os.chown(os.path.join(folder, name), user, user, follow_symlinks=False)
        os.chown(path, user, user)
    os.chmod(f"{path}/deep/er", 0o555)
    yield path
    os.chmod(f"{path}/deep/er", 0o755)
    shutil.rmtree(path)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def listing(path: str) -> dict[str, Any]:
    return {
        os.path.join(folder, name): (
            os.lstat(os.path.join(folder, name)).st_mode,
            os.lstat(os.path.join(folder, name)).st_mtime_ns,
        )
        for folder, directories, files in os.walk(path)
        for name in (*directories, *files)
    }


def inside(project: str, inputs: tuple[str, ...], code: str, user: int | None, *, here: str = "/", **more: Any) -> Inside:
    spec = {"inputs": [f"{project}/{path}" for path in inputs], "project": {"root": project, "here": here, "kept": []}}
    return run_inside(
        f"{SEE}\nroot = {project!r}\n{code}", user=user, spec={**spec, **more.pop("spec", {})}, trees=(project,), **more
    )


def test_modes_and_links_are_the_hosts_and_nothing_else_is_there(project: str, user: int | None) -> None:
    before = listing(project)
    told = inside(
        project,
        ("far/file", "tool", "top", "deep/large"),
        "result = [see(root), os.readlink(root + '/far'), open(root + '/far/file').read(), attempt(root + '/deep/large'), attempt(root + '/tool')]",
        user,
    ).result
    assert told == [
        {
            "deep": "0o750", "deep/er": "0o555", "deep/er/still": "0o755", "deep/er/still/file": "0o644", "deep/large": "0o644",
            "far": "0o777", "link": "0o777", "tool": "0o755", "top": "0o640",
        },
        f"{project}/link/still", "deep/er/still/file", "+", "+",
    ]  # fmt: skip
    assert listing(project) == before


def test_owners_and_times_are_the_hosts(project: str, user: int | None) -> None:
    code = """
def about(path):
    status = os.stat(root + path)
    return [status.st_uid, status.st_gid, status.st_mtime_ns]
result = [about(path) for path in ("/deep", "/deep/er/still", "/top", "/large")]
"""
    if user is None:
        os.chown(f"{project}/deep", 12, 34)
        os.chown(f"{project}/top", 12, 34)
    found = inside(project, ("deep/er/still", "top", "large"), code, user).result
    status = [os.stat(project + path) for path in ("/deep", "/deep/er/still", "/top", "/large")]
    expected = [[found.st_uid, found.st_gid, found.st_mtime_ns] for found in status]
    # A directory that is the root of an overlay has the times of its upper.
    assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
    assert [found[place][2] for place in (0, 2, 3)] == [expected[place][2] for place in (0, 2, 3)]


@requires("root")  # nobody else can make such a host
def test_mounts_of_the_host_in_the_project(project: str, user: int | None) -> None:
    host = f"""
from pytest_isolate.kernel.mounts import mount
import os
for place in ("src/mnt", "mid", "other/mnt"):
    mount("tmpfs", {project!r} + "/" + place, "tmpfs", 0, "mode=777")
    os.makedirs({project!r} + "/" + place + "/data")
    with open({project!r} + "/" + place + "/data/mounted", "w") as file:
        file.write("mounted")
    for path in ("", "/data", "/data/mounted"):  # of root, a user couldn't have them copied up (EOVERFLOW)
        os.chown({project!r} + "/" + place + path, {-1 if user is None else user}, {-1 if user is None else user})
"""
    code = """
result = [see(root), attempt(root + "/src/mnt/data/mounted"), attempt(root + "/mid/data/mounted"), attempt(root + "/src/code")]
"""
    seen, *written = inside(project, ("src", "mid/data"), code, user, host=host).result
    assert set(seen) == {
        "src",
        "src/code",
        "src/mnt",
        "src/mnt/data",
        "src/mnt/data/mounted",
        "mid",
        "mid/data",
        "mid/data/mounted",
    }
    assert written == ["+", "+", "+"]


@requires("root")
def test_read_only_mount_stays_so() -> None:
    path = os.path.realpath(tempfile.mkdtemp())
    try:
        os.makedirs(f"{path}/data/below")
        write(f"{path}/data/file", "file")
        host = f"""
from pytest_isolate.kernel.mounts import bind
bind({path!r} + "/data", {path!r} + "/data", readonly=True)
"""
        code = "result = [see(root), attempt(root + '/data/file')]"
        seen, written = inside(path, ("data/file", "data/below"), code, None, host=host).result
        assert set(seen) == {"data", "data/file", "data/below"}
        assert written == "+"  # a small file is a copy
        seen, written = inside(path, ("data",), code, None, host=host).result
        assert written == 30  # EROFS
    finally:
        shutil.rmtree(path)


def test_working_directory_and_places_are_there_and_empty(project: str, user: int | None) -> None:
    told = inside(
        project,
        ("src",),
        "result = [sorted(os.listdir(root)), os.listdir(root + '/deep/er'), sorted(os.listdir(root + '/mid')), attempt(root + '/mid/beside')]",
        user,
        here=f"{project}/deep/er",
        places=(f"{project}/mid",),
    ).result
    assert told == [["deep", "mid", "src"], [], ["beside", "data"], "+"]
    with open(f"{project}/mid/beside") as file:  # a place is the host's own
        assert file.read() == "mid/beside+"


def test_hidden_parts_and_outlines_of_several_sandboxes(project: str, user: int | None) -> None:
    spec = {"hide": [f"{project}/deep/er", f"{project}/other", f"{project}/deep/large"]}
    found = inside(project, ("deep",), "result = [see(root), open(root + '/deep/large').read()]", user, spec=spec, boxes=2)
    first = [{"deep": "0o750", "deep/beside": "0o644", "deep/er": "0o755", "deep/large": "0o444"}, ""]
    assert [[dict(sorted(seen.items())), text] for seen, text in found.results] == [first, first]


def test_project_that_is_no_part_of_anything_is_refused(user: int | None) -> None:
    error = run_inside(
        "result = 1", user=user, spec={"inputs": ["/etc"], "project": {"root": "/", "here": "/", "kept": []}}
    ).error
    assert error is not None
    assert "inputs= /" in error["text"]
    assert "in a directory of its own" in error["text"]


def test_set_id_bits_of_files_survive(project: str, user: int | None) -> None:
    if user is None:
        os.chown(f"{project}/tool", 12, 34)
    os.chmod(f"{project}/tool", 0o4755)
    mode = inside(project, ("tool",), "result = os.stat(root + '/tool').st_mode", user).result
    assert stat.S_IMODE(mode) == 0o4755
