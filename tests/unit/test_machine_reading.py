"""What containers, WSL and continuous integration are recognised by; the rest is read on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_isolate.machine.reading import container_of, places_of, read_machine
from pytest_isolate.machine.subordinate import subordinate_range

NOTHING = {"told": "", "containerenv": False, "dockerenv": False, "kubernetes": False, "cgroups": "0::/\n"}


@pytest.mark.parametrize(
    "marks,engine",
    [
        ({}, ""),
        ({"dockerenv": True}, "docker"),
        ({"cgroups": "5:pids:/docker/0123abc\n"}, "docker"),
        ({"containerenv": True}, "podman"),
        ({"told": "podman"}, "podman"),
        ({"told": "oci"}, "container"),
        ({"told": "lxc"}, "lxc"),
        ({"told": "systemd-nspawn"}, "systemd-nspawn"),
        ({"kubernetes": True, "dockerenv": True}, "kubernetes"),
        ({"cgroups": "0::/kubepods.slice/x\n"}, "kubernetes"),
    ],
)
def test_engine_is_told_by_what_it_leaves(marks: dict[str, object], engine: str) -> None:
    assert container_of(**{**NOTHING, **marks}) == engine  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "environment,release,places",
    [
        ({}, "6.1.0-18-amd64", ()),
        ({}, "5.15.153.1-microsoft-standard-WSL2", ("wsl2",)),
        ({}, "4.4.0-19041-Microsoft", ("wsl1",)),
        ({"GITHUB_ACTIONS": "true"}, "6.8.0-azure", ("github-actions",)),
        ({"GITLAB_CI": "true"}, "6.1", ("gitlab-ci",)),
        ({"GITHUB_ACTIONS": "false"}, "6.1", ()),
    ],
)
def test_places_are_told_by_kernel_and_environment(environment: dict[str, str], release: str, places: tuple[str, ...]) -> None:
    assert places_of(environment, release) == places


def test_subordinate_range_is_found_by_number_and_is_the_first(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("nobody-here:1:2\n987654:100000:65536\n987654:1:1\n")
    assert subordinate_range(str(file), 987654) == (100000, 65536)
    assert subordinate_range(str(file), 987655) is None
    file.write_text("987654:garbage\n")
    assert subordinate_range(str(file), 987654) is None
    assert subordinate_range(str(tmp_path / "none"), 987654) is None


def test_this_machine_is_read_as_its_files_say() -> None:
    machine = read_machine()
    assert machine.kernel == os.uname().release
    assert machine.uid == os.geteuid()
    assert machine.mapped_ids > 0
    assert machine.root_type
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    assert machine.seccomp == int(status["Seccomp"])
    assert machine.capabilities == int(status["CapEff"], 16)
