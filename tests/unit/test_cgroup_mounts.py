"""Where the controllers are, from the texts of real machines."""

from __future__ import annotations

import os

import pytest

from pytest_isolate.kernel.cgroup_mounts import Place, cgroup_mounts, delegation_hint, layout, own_cgroups, place_of

V1 = """\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
"""
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
V2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
OWN_V1 = "9:name=systemd:/\n8:pids:/\n7:blkio:/\n4:memory:/jobs/a:b c\n2:cpu,cpuacct:/\n"
OWN_V2 = "0::/user.slice\n"


def place(controller: str, mountinfo: str, own: str, delegated: str | None = None) -> Place:
    return place_of(controller, list(cgroup_mounts(mountinfo)), own_cgroups(own), delegated)


@pytest.mark.parametrize(
    "mountinfo,own,expected",
    [
        (V1, OWN_V1, "v1"),
        (V1 + UNIFIED, OWN_V1 + OWN_V2, "hybrid"),
        (V2, OWN_V2, "v2"),
        ("", OWN_V2, "none"),
        # systemd's named tree beside v2 holds no controller: that is not hybrid
        (V2 + "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n", "1:name=systemd:/\n0::/\n", "v2"),
        # a hierarchy that is mounted but disabled (cgroup_disable=) isn't in /proc/self/cgroup
        (V1, "0::/\n", "none"),
    ],
)
def test_layout_follows_controllers_not_mounts(mountinfo: str, own: str, expected: str) -> None:
    assert layout(list(cgroup_mounts(mountinfo)), own_cgroups(own)) == expected


def test_own_directory_is_below_the_mount_point_with_colons_and_spaces_kept() -> None:
    assert place("memory", V1, OWN_V1) == Place("/sys/fs/cgroup/memory/jobs/a:b c")


def test_comounted_controllers_share_one_directory() -> None:
    assert {place(name, V1, OWN_V1).directory for name in ("cpu", "cpuacct")} == {"/sys/fs/cgroup/cpu,cpuacct"}


def test_escaped_mount_point_is_unescaped() -> None:
    text = r"35 31 0:32 / /mnt/my\040cgroups/a\134b rw - cgroup cgroup rw,memory"
    assert place("memory", text, "4:memory:/").directory == r"/mnt/my cgroups/a\b"


def test_container_that_sees_only_its_own_part_uses_the_mount_point() -> None:
    text = "35 31 0:32 /docker/0a1b /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"
    assert place("memory", text, "4:memory:/docker/0a1b").directory == "/sys/fs/cgroup/memory"
    assert place("memory", text, "4:memory:/docker/0a1b/sub").directory == "/sys/fs/cgroup/memory/sub"


def test_similar_prefix_is_not_taken_for_an_ancestor() -> None:
    text = "35 31 0:32 /docker/0a /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"
    found = place("memory", text, "4:memory:/docker/0a1b")
    assert not found.directory
    assert "/docker/0a1b" in found.why


@pytest.mark.parametrize("root,own", [("/..", "/"), ("/", "/../sibling")])
def test_cgroup_above_the_cgroup_namespace_is_not_guessed(root: str, own: str) -> None:
    text = f"35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
    assert not place("memory", text, f"4:memory:{own}").directory


def test_second_mount_that_shows_the_own_cgroup_is_found() -> None:
    text = (
        "35 31 0:32 /other /mnt/other rw - cgroup cgroup rw,memory\n"
        "36 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
    assert place("memory", text, "4:memory:/mine").directory == "/sys/fs/cgroup/memory/mine"


def test_unmounted_controller_names_the_mount_command() -> None:
    assert place("memory", UNIFIED, OWN_V1).hint.startswith("mount -t cgroup -o memory")


def test_missing_delegated_directory_is_named() -> None:
    assert place("memory", V1, OWN_V1, "no/such") == Place(
        "", "the delegated directory /sys/fs/cgroup/memory/no/such doesn't exist"
    )


def test_delegation_hint_names_each_directory_once_and_the_option() -> None:
    hint = delegation_hint(list(cgroup_mounts(V1)), own_cgroups(OWN_V1), "ci/isolate")
    directories = [f"/sys/fs/cgroup/{name}/ci/isolate" for name in ("cpu,cpuacct", "memory", "blkio", "pids")]
    assert hint == f"as root: install -d -o {os.geteuid()} {' '.join(directories)}; then pytest --isolate-cgroup=ci/isolate"
