"""Caps, groups and the disk behind a path."""

from __future__ import annotations

import json
import os

import pytest

from pytest_isolate.kernel import block
from pytest_isolate.kernel.cgroup import Caps, Group, IoCap, detect
from pytest_isolate.model.errors import MissingCapability, SetupError, SpecError
from pytest_isolate.model.spec import IoLimit, Spec
from tests.support.capabilities import requires


def test_caps_of_bare_spec_ask_nothing() -> None:
    caps = Caps.of(Spec(), "/")
    assert caps == Caps()
    assert caps.needs() == {}


def test_needs_name_the_keys_that_were_given() -> None:
    caps = Caps.of(Spec(cpu=0.2, memory=1 << 24, swap=0, pids=3), "/")
    assert caps.needs() == {"cpu": ["cpu"], "memory": ["memory", "swap"], "pids": ["pids"]}
    assert Caps.of(Spec(memory=1 << 24), "/").needs() == {"memory": ["memory"]}


def test_io_on_tmpfs_is_a_missing_capability_that_names_the_file_system() -> None:
    with pytest.raises(MissingCapability) as caught:
        Caps.of(Spec(io=IoLimit(write=1000, path="/dev/shm")), "/")
    assert caught.value.capability == "cgroup-io"
    assert caught.value.keys == ["io"]
    assert "/dev/shm lies on tmpfs without a block device" in caught.value.why
    assert "path" in caught.value.hint


def test_io_on_missing_path_names_it() -> None:
    with pytest.raises(SetupError, match=r"/no/such/path.*ENOENT") as caught:
        IoCap.of("/no/such/path", None, 1)
    assert caught.value.hint


@requires("disk")
def test_io_takes_the_disk_that_holds_the_working_directory() -> None:
    cwd = os.environ.get("TMPDIR", "/tmp")
    (cap,) = Caps.of(Spec(io=IoLimit(read=5, write=7)), cwd).io
    assert (cap.read, cap.write) == (5, 7)
    assert (cap.major, cap.minor) in block.mounted_disks()
    assert not os.path.exists(f"/sys/dev/block/{cap.major}:{cap.minor}/partition")


def test_device_without_sysfs_entry_is_left_as_it_is() -> None:
    assert block.whole_disk((4000, 7)) == (4000, 7)
    assert not block.is_stacked((4000, 7))


def test_group_survives_json() -> None:
    group = Group("7", "run", (("memory", "/a/run/7"), ("cpu", "/b/run/7"), ("cpuacct", "/b/run/7")), True)
    assert Group.from_json(json.loads(json.dumps(group.to_json()))) == group
    assert group.directories() == ("/a/run/7", "/b/run/7")
    assert group.file("cpuacct", "tasks") == "/b/run/7/tasks"
    assert group.file("pids", "tasks") is None


@pytest.mark.parametrize("path", ["", "/", "..", "a/../../b"])
def test_delegated_path_outside_the_mount_points_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match="cgroup"):
        detect(path)
