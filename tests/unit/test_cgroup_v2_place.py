"""Which directory of the v2 tree is whose, from the texts of real machines and from real directories."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from pytest_isolate.kernel.cgroup_mounts import CgroupMount, Place
from pytest_isolate.kernel.cgroup_v2_base import LEAF, needs_no_return
from pytest_isolate.kernel.cgroup_v2_place import is_delegated, own_directory, unified_hint, unified_place_of
from pytest_isolate.sandbox import command

V2 = [CgroupMount(2, "/", "/sys/fs/cgroup", frozenset())]
CONTAINER = [CgroupMount(2, "/docker/1a", "/sys/fs/cgroup", frozenset())]
SCOPE = "pytest-isolate-12-3456-0.4026531836.scope"


@pytest.mark.parametrize(
    "mounts,own,expected",
    [
        (V2, {"": "/user.slice/a:b.scope"}, "/sys/fs/cgroup/user.slice/a:b.scope"),
        (V2, {"": "/"}, "/sys/fs/cgroup"),
        (V2, {"": f"/x/{SCOPE}/{LEAF}"}, f"/sys/fs/cgroup/x/{SCOPE}"),
        (CONTAINER, {"": "/docker/1a"}, "/sys/fs/cgroup"),
        (CONTAINER, {"": "/docker/2b"}, ""),
        (V2, {"": "/../other"}, ""),
        ([], {"": "/"}, ""),
        (V2, {}, ""),
    ],
)
def test_own_directory_is_what_the_mounts_show(mounts: list[CgroupMount], own: dict[str, str], expected: str) -> None:
    assert own_directory(mounts, own) == expected


def test_machine_without_any_cgroup_tree_says_so() -> None:
    place = unified_place_of([], {}, None)
    assert not place.directory
    assert "no cgroup2 tree is mounted" in place.why
    assert "mount -t cgroup2" in place.hint


def test_container_that_does_not_show_its_own_cgroup_names_it() -> None:
    assert "/docker/2b" in unified_place_of(CONTAINER, {"": "/docker/2b"}, None).why


def test_missing_delegated_directory_is_named() -> None:
    assert unified_place_of(V2, {"": "/"}, "no/such") == Place("", "the delegated directory /sys/fs/cgroup/no/such doesn't exist")


@pytest.mark.parametrize(
    "name,expected", [(SCOPE, True), ("run-u7.scope", False), ("pytest-isolate-12", False), ("init.scope", False)]
)
def test_scope_that_was_made_for_a_run_is_told_by_its_name(tmp_path: Path, name: str, expected: bool) -> None:
    directory = tmp_path / name
    directory.mkdir()
    assert needs_no_return(str(directory)) is expected
    assert is_delegated(str(directory)) is expected


def test_mark_of_systemd_is_read(tmp_path: Path) -> None:
    assert not is_delegated(str(tmp_path))
    os.setxattr(tmp_path, "user.delegate", b"1")
    assert is_delegated(str(tmp_path))


def test_hint_says_what_to_type() -> None:
    hint = unified_hint(V2, "pytest -k 'a b'")
    assert hint.endswith("pytest -k 'a b'")
    assert hint.startswith("systemd-run") is os.path.isdir("/run/systemd/system")


@pytest.mark.parametrize(
    "words,expected",
    [
        (["/x/python", "-m", "pytest", "-k", "a b"], "pytest -k 'a b'"),
        (["/x/python", "/x/bin/pytest", "tests"], "/x/bin/pytest tests"),
        (["python", "run.py"], "python run.py"),
        (["python", "-c", "x" * 300], "pytest …"),
    ],
)
def test_own_command_is_what_a_shell_takes(monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    assert command.own_command() == expected
    assert expected.endswith("…") or shlex.split(expected)
