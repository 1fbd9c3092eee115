"""The mount system calls, and how paths are written for and by the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_isolate.kernel import mounts
from pytest_isolate.kernel.mounts import MS_NOEXEC, MS_NOSUID, Mount, bind, escape_overlay, mount, mountinfo, pivot_root, umount2
from pytest_isolate.kernel.namespaces import CLONE_NEWNS
from pytest_isolate.kernel.syscalls import unshare
from tests.support.capabilities import requires


def in_own_namespace(work: Callable[[], object]) -> None:
    """Do `work` in a child with private mounts; a failure there is one here."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            unshare(CLONE_NEWNS)
            mount("none", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
            work()
        except BaseException as error:
            os.write(writing, repr(error).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        failure = file.read()
    os.waitpid(pid, 0)
    assert failure == ""


@pytest.mark.parametrize(
    ("path", "escaped"),
    [
        ("/plain", "/plain"),
        ("/a:b", r"/a\:b"),
        ("/a,b", r"/a\,b"),
        ("/a\\b", r"/a\\b"),
        ("/ \u00e4\n", "/ \u00e4\n"),
        (r"/\:", r"/\\\:"),
    ],
)
def test_overlay_path_has_its_special_characters_escaped(path: str, escaped: str) -> None:
    assert escape_overlay(path) == escaped


def test_mountinfo_line_with_octal_escapes_and_no_optional_fields() -> None:
    line = (
        rb"36 35 98:0 /mnt\0401 /tmp/a\040b\011c\012d\134e\043 rw,nosuid,noexec,noatime - ext3 /dev/with\040blank rw,errors=continue"
        b"\n"
    )
    assert mounts._parse(line) == Mount(
        id=36,
        parent=35,
        device="98:0",
        root="/mnt 1",
        point="/tmp/a b\tc\nd\\e#",
        readonly=False,
        flags=MS_NOSUID | MS_NOEXEC,
        fstype="ext3",
        source="/dev/with blank",
        options=("rw", "errors=continue"),
    )


@pytest.mark.parametrize(("flags", "options"), [(b"ro,noatime", b"rw"), (b"rw", b"ro,size=4k")])
def test_mount_is_read_only_by_its_own_flag_or_its_file_systems(flags: bytes, options: bytes) -> None:
    assert mounts._parse(b"1 2 0:3 / /x " + flags + b" shared:1 master:2 - tmpfs t " + options).readonly


def test_mountinfo_line_with_bytes_that_are_not_utf8_round_trips() -> None:
    found = mounts._parse(b"1 2 0:3 / /x\xff rw - tmpfs t rw")
    assert os.fsencode(found.point) == b"/x\xff"


def test_mountinfo_of_this_process_has_its_root() -> None:
    assert [found for found in mountinfo() if found.point == "/"]


def test_mountinfo_of_a_missing_process_names_the_file() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        mountinfo(2**22 + 1)
    assert "mountinfo" in str(caught.value.filename)


def test_mount_options_that_do_not_fit_a_page_are_refused_instead_of_cut_off(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="don't fit a page") as caught:
        mount("tmpfs", str(tmp_path), "tmpfs", 0, "x" * 4096)
    assert caught.value.errno == errno.E2BIG
    assert caught.value.filename == str(tmp_path)


def test_failed_call_names_its_target(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for call in (lambda: umount2(missing), lambda: mount("x", missing, "tmpfs"), lambda: pivot_root(missing, missing)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.filename == missing
        assert caught.value.errno in (errno.ENOENT, errno.EPERM)


@requires("root")
def test_unknown_file_system_is_enodev(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        mount("x", str(tmp_path), "nosuchfs")
    assert caught.value.errno == errno.ENODEV


@requires("root")
def test_bind_read_only_holds_for_the_whole_tree(tmp_path: Path) -> None:
    def work() -> None:
        for name in ("source", "target", "plain"):
            os.mkdir(tmp_path / name)
        mount("tmpfs", str(tmp_path / "source"), "tmpfs")
        os.mkdir(tmp_path / "source" / "below")
        mount("tmpfs", str(tmp_path / "source" / "below"), "tmpfs")
        bind(str(tmp_path / "source"), str(tmp_path / "target"), recursive=True, readonly=True)
        bind(str(tmp_path / "source"), str(tmp_path / "plain"))
        for name in ("target/file", "target/below/file"):
            with pytest.raises(OSError) as caught:
                (tmp_path / name).touch()
            assert caught.value.errno == errno.EROFS
        (tmp_path / "plain/file").touch()
        (tmp_path / "plain/below/file").touch()
        assert sorted(os.listdir(tmp_path / "source")) == ["below", "file"]
        assert os.listdir(tmp_path / "source/below") == []

    in_own_namespace(work)


@requires("root")
def test_overlay_takes_escaped_paths(tmp_path: Path) -> None:
    def work() -> None:
        lower = tmp_path / "a:b,c\\d e"
        lower.mkdir()
        (lower / "file").touch()
        for name in ("merged", "tmpfs"):
            os.mkdir(tmp_path / name)
        mount("tmpfs", str(tmp_path / "tmpfs"), "tmpfs")
        for name in ("upper", "work"):
            os.mkdir(tmp_path / "tmpfs" / name)
        os.chdir(tmp_path)
        mount("overlay", "merged", "overlay", 0, f"lowerdir={escape_overlay(str(lower))},upperdir=tmpfs/upper,workdir=tmpfs/work")
        assert os.listdir("merged") == ["file"]

    in_own_namespace(work)


@requires("root")
def test_mount_point_with_blanks_is_found_in_mountinfo(tmp_path: Path) -> None:
    def work() -> None:
        path = str(tmp_path / "a b\tc\nd\\e")
        os.mkdir(path)
        mount("tmpfs", path, "tmpfs", mounts.MS_RDONLY)
        found = [line for line in mountinfo() if line.point == path]
        assert [(line.fstype, line.readonly) for line in found] == [("tmpfs", True)]

    in_own_namespace(work)


@requires("root")
def test_pivot_root_leaves_only_the_new_root(tmp_path: Path) -> None:
    def work() -> None:
        mount("tmpfs", str(tmp_path), "tmpfs")
        os.mkdir(tmp_path / "only")
        os.mkdir(tmp_path / "proc")
        mount("proc", str(tmp_path / "proc"), "proc")
        os.chdir(tmp_path)
        pivot_root(".", ".")
        umount2(".", mounts.MNT_DETACH)
        os.chdir("/")
        assert sorted(os.listdir("/")) == ["only", "proc"]
        assert [line.point for line in mountinfo()] == ["/", "/proc"]

    in_own_namespace(work)
