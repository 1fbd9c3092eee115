"""The decisions behind ``rootfs="host"``, and how operations tell of themselves and of their failures."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import stat
from pathlib import Path

import pytest

from pytest_isolate.kernel.mounts import MS_NOSUID, MS_RDONLY, Mount, mountinfo
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.net import Net
from pytest_isolate.model.paths import within
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs import host, trees
from pytest_isolate.rootfs.foreign import describe_plan
from pytest_isolate.rootfs.host import HostRoot
from pytest_isolate.rootfs.layout import HOST, Bound, Layer, Trees
from pytest_isolate.rootfs.plan import (
    EMPTY,
    Bind,
    Directory,
    EnterRoot,
    FileSystem,
    Hide,
    Operation,
    Overlay,
    PivotRoot,
    Plan,
    ReadOnly,
    Upper,
    apply,
)
from pytest_isolate.rootfs.sockets import host_sockets
from pytest_isolate.rootfs.survey import Hierarchy, around, depth, hierarchies, submounts


def mounted(
    point: str, fstype: str = "tmpfs", options: str = "rw", *, readonly: bool = False, number: int = 9, parent: int = 1
) -> Mount:
    if point == "/":
        number, parent = 1, 0
    return Mount(number, parent, "0:9", "/", point, readonly, 0, fstype, fstype, tuple(options.split(",")))


PLAIN = Directory(0o755, 0, 0)
LAYERS = Trees((Layer("/", PLAIN, HOST), Layer("/home", PLAIN, f"{HOST}/home")), (Bound("/opt/readonly"),))


def root(
    wanted: Trees = LAYERS, *, places: tuple[str, ...] = (), sockets: tuple[str, ...] = (), rootless: bool = False
) -> HostRoot:
    return HostRoot("/work space", rootless, places, wanted, sockets, (FileSystem("proc", "/proc"), FileSystem("sysfs", "/sys")))


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (Bind("/a", "/b"), "bind /b (read-write)"),
        (Bind("host/a", "/b", readonly=True), "bind /b (read-only)"),
        (Upper(64 << 20, ()), "tmpfs for writes, 64.0 MiB"),
        (Upper(None, ()), "tmpfs for writes, half of the memory"),
        (Overlay(("host",), "/", 0, ""), "overlay / (the host's below, writes are thrown away)"),
        (FileSystem("sysfs", "/sys", MS_RDONLY), "sysfs /sys (own, read-only)"),
        (FileSystem("tmpfs", "/dev/shm"), "tmpfs /dev/shm (own)"),
        (Hide("/secret", EMPTY), "hidden /secret"),
        (ReadOnly("/proc/sys"), "read-only /proc/sys"),
        (EnterRoot("host", readonly=True), "bind / (the host, read-only)"),
        (PivotRoot(), "pivot_root, then the host's tree is detached"),
    ],
)
def test_operation_describes_itself(operation: Operation, text: str) -> None:
    assert operation.describe() == text


def test_plan_describes_both_halves_and_its_notes() -> None:
    plan = Plan((Bind("/a", "/b"),), (PivotRoot(),), ("a surprise",))
    assert plan.describe() == ["bind /b (read-write)", "pivot_root, then the host's tree is detached", "note: a surprise"]


def test_plan_pickles_and_compares() -> None:
    plan = root().plan(Spec())
    assert pickle.loads(pickle.dumps(plan)) == plan == root().plan(Spec())


def test_failed_operation_names_step_path_errno_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        Bind("/missing source", "/target").apply(str(tmp_path))
    error = caught.value
    assert (error.step, error.path) == ("bind", "/target")
    assert error.errno in (errno.ENOENT, errno.EPERM)
    assert error.hint


def test_apply_stops_at_the_first_failure(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        apply([ReadOnly("/first"), ReadOnly("/second")], str(tmp_path))
    assert caught.value.path == "/first"


@pytest.mark.parametrize(
    ("operation", "number", "remedy"),
    [
        (Bind("/x", "/x"), errno.ENOENT, "make /x on the host"),
        (Hide("/x", EMPTY), errno.ENOENT, "take it out of hide="),
        (FileSystem("proc", "/proc"), errno.EPERM, "systempaths=unconfined"),
        (FileSystem("tmpfs", "/dev/shm"), errno.EPERM, "CAP_SYS_ADMIN"),
        (Overlay(("host",), "/", 0, ""), errno.ENODEV, "modprobe overlay"),
        (Overlay(("host",), "/", 0, ""), errno.EINVAL, "an overlay on an overlay"),
        (Upper(1, ()), errno.ENOSPC, "mount-max"),
    ],
)
def test_remedy_fits_the_errno(operation: Operation, number: int, remedy: str) -> None:
    assert remedy in operation.hint(number)


@pytest.mark.parametrize(("path", "levels"), [("/", 0), ("/a", 1), ("/a/b/c", 3)])
def test_depth_counts_components(path: str, levels: int) -> None:
    assert depth(path) == levels


@pytest.mark.parametrize(
    ("path", "tree", "answer"),
    [("/a", "/", True), ("/a/b", "/a", True), ("/a", "/a", True), ("/ab", "/a", False), ("/", "/a", False)],
)
def test_within_compares_whole_components(path: str, tree: str, *, answer: bool) -> None:
    assert within(path, tree) is answer


def test_root_plan_mounts_the_tree_outside_and_its_own_file_systems_inside() -> None:
    plan = root().plan(Spec(disk=1 << 20))
    assert [type(step) for step in plan.outside] == [Upper, Overlay, Overlay, Bind, Bind]
    assert [type(step) for step in plan.inside] == [EnterRoot, FileSystem, FileSystem, PivotRoot]
    upper = plan.outside[0]
    assert isinstance(upper, Upper)
    assert (upper.size, len(upper.directories)) == (1 << 20, 2)


def test_rootless_plan_does_everything_inside_but_the_writable_layer() -> None:
    plan = root(Trees((Layer("/tmp", Directory(0o1777), f"{HOST}/tmp"),), ()), rootless=True).plan(Spec())
    assert [type(step) for step in plan.outside] == [Upper]
    assert [type(step) for step in plan.inside][:2] == [EnterRoot, Overlay]
    assert isinstance(plan.inside[-1], PivotRoot)
    overlay = plan.inside[1]
    assert isinstance(overlay, Overlay)
    assert "userxattr" in overlay.options


def test_host_network_binds_the_hosts_sysfs_instead_of_a_fresh_one() -> None:
    plan = root().plan(Spec(net=Net("host")))
    assert "sysfs" not in [step.fstype for step in plan.inside if isinstance(step, FileSystem)]
    assert Bind("/sys", "/sys", recursive=False, readonly=True) in plan.outside


def test_shallow_paths_come_before_what_lies_in_them(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    spec = Spec(writable=(str(deep), str(tmp_path / "a")), hide=(str(tmp_path),))
    plan = root(places=(str(deep.parent),)).plan(spec)
    targets = [step.target for step in plan.outside if isinstance(step, (Overlay, Bind, Hide)) and step.target != "/dev"]
    assert targets == sorted(targets, key=depth)
    assert targets.index(str(tmp_path)) < targets.index(str(tmp_path / "a")) < targets.index(str(deep))


def test_layer_below_a_writable_path_is_not_mounted() -> None:
    plan = root(Trees((*LAYERS.layers, Layer("/usr/bin", PLAIN, f"{HOST}/usr/bin")), ())).plan(Spec(writable=("/usr",)))
    overlays = [step for step in plan.outside if isinstance(step, Overlay)]
    assert [(step.target, step.number) for step in overlays] == [("/", 0), ("/home", 1)]


def test_symbolic_link_in_a_path_of_the_spec_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    plan = root().plan(Spec(writable=(str(tmp_path / "link"),)))
    assert str(tmp_path / "real") in [step.target for step in plan.outside]


def test_path_listed_twice_is_bound_once(tmp_path: Path) -> None:
    plan = root(places=(str(tmp_path),)).plan(Spec(writable=(str(tmp_path),)))
    assert [step.target for step in plan.outside].count(str(tmp_path)) == 1


@pytest.mark.parametrize("key", ["writable", "hide"])
def test_missing_path_is_told_before_anything_is_mounted(key: str) -> None:
    with pytest.raises(SetupError) as caught:
        root().plan(Spec(**{key: ("/no/such path",)}))
    assert (caught.value.step, caught.value.path, caught.value.errno) == (f"{key}=", "/no/such path", errno.ENOENT)


def test_socket_is_masked_unless_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)
        listener.bind("s")
        path = str(tmp_path / "s")
        masked = [step.target for step in root(sockets=(path,)).plan(Spec()).outside if isinstance(step, Hide)]
        allowed = root(sockets=(path,)).plan(Spec(writable=(path,))).outside
    assert masked == [path]
    assert not [step for step in allowed if isinstance(step, Hide)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/opt/readonly/s", True), ("/home/s", False), ("/run/s", False), ("/opt/readonly/sub/s", False)],
)
def test_socket_is_reachable_only_through_the_innermost_bind(path: str, *, expected: bool) -> None:
    wanted = Trees((*LAYERS.layers, Layer("/opt/readonly/sub", PLAIN, f"{HOST}/opt/readonly/sub")), LAYERS.binds)
    assert bool(host._reachable((path,), wanted)) is expected


def test_every_socket_outside_the_overlays_is_reachable_rootless() -> None:
    wanted = Trees((Layer("/tmp", PLAIN, f"{HOST}/tmp"), Layer("/home", PLAIN, "trees/0")), ())
    paths = ("/home/s", "/run/s", "/tmp/s")
    assert host._reachable(paths, wanted) == ("/home/s", "/run/s")


def test_bound_socket_of_this_machine_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "with blank"
    directory.mkdir()
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(f"{directory}/s" if len(f"{directory}/s") < 100 else "s")
        abstract.bind("\0/abstract")
        listener.listen()
        (directory / "plain").touch()
        found = host_sockets([mounted(str(directory / "s")), mounted(str(directory / "plain")), mounted("/missing")])
    assert str(directory / "s") in found
    assert str(directory / "plain") not in found
    assert not [path for path in found if "abstract" in path]


def test_only_visible_mounts_of_real_file_systems_are_put_back() -> None:
    real = [found for found in mountinfo() if found.point != "/"]
    points = {submount.point for submount in submounts(mountinfo())}
    assert points <= {found.point for found in real}
    assert not [point for point in points if any(within(point, own) for own in ("/proc", "/sys", "/dev"))]
    assert submounts([mounted("/tmp", number=-5), mounted("/missing"), mounted("/usr", "nsfs")]) == ()


def test_mount_around_a_path_is_the_one_that_path_resolution_finds() -> None:
    home = mounted("/home", number=2)
    covered = mounted("/home/user/covered", number=3, parent=2)
    over = mounted("/home/user", number=4, parent=2)
    stacked = mounted("/home/user", number=5, parent=4)
    mounts = [mounted("/"), home, covered, over, stacked]
    found = {path: around(path, mounts) for path in ("/", "/etc", "/homely", "/home/x", "/home/user/covered/y")}
    assert found == {"/": mounts[0], "/etc": mounts[0], "/homely": mounts[0], "/home/x": home, "/home/user/covered/y": stacked}
    assert around("/", []) is None


def test_users_tree_over_covered_mounts_is_one_overlay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    covered = mounted(f"{tmp_path}/a", number=2)
    found = trees.user_trees([mounted("/"), covered, mounted(str(tmp_path), number=3)], [str(tmp_path)])
    assert [layer.lower for layer in found.layers] == [f"{HOST}{tmp_path}"]


def test_hierarchies_are_told_by_their_options_once() -> None:
    found = hierarchies(
        [
            mounted("/sys/fs/cgroup", "tmpfs"),
            mounted("/sys/fs/cgroup/systemd", "cgroup", "rw,xattr,release_agent=/x,name=systemd"),
            mounted("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            mounted("/sys/fs/cgroup/again", "cgroup", "rw,cpu,cpuacct"),
            mounted("/elsewhere", "cgroup", "rw,memory"),
            mounted("/sys/fs/cgroup/unified", "cgroup2", "rw,nsdelegate"),
        ]
    )
    assert found == (
        Hierarchy("/sys/fs/cgroup/systemd", "cgroup", "none,name=systemd"),
        Hierarchy("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
        Hierarchy("/sys/fs/cgroup/unified", "cgroup2", ""),
    )


def test_users_trees_that_are_missing_nested_or_the_sandboxes_own_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "tree" / "nested").mkdir(parents=True)
    (tmp_path / "link").symlink_to("tree")
    wanted = [str(tmp_path / name) for name in ("tree", "tree/nested", "missing", "link")]
    found = trees.user_trees([mounted("/")], [*wanted, "/", "/dev/shm", "/proc/self"])
    assert [layer.path for layer in found.layers] == [str(tmp_path / "tree")]
    assert found.notes == ()


def test_users_tree_on_a_read_only_mount_stays_so_and_says_it(tmp_path: Path) -> None:
    found = trees.user_trees([mounted("/"), mounted(str(tmp_path.parent), readonly=True)], [str(tmp_path)])
    assert found.layers == ()
    assert found.notes == (f"{tmp_path} is read-only inside, as on the host",)


def test_users_tree_with_a_mount_below_is_outlined(tmp_path: Path) -> None:
    for name in ("plain", "mount", "a/b/mount", "kernel"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "small").write_text("small")
    (tmp_path / "small").chmod(0o640)
    (tmp_path / "large").write_bytes(bytes(70_000))
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    below = [mounted(f"{tmp_path}/{name}", number=number) for number, name in enumerate(("mount", "a/b/mount"), 5)]
    found = trees.user_trees([mounted("/"), *below, mounted(f"{tmp_path}/kernel", "proc")], [str(tmp_path)])
    layers = {layer.path.removeprefix(str(tmp_path)): layer.lower.removeprefix(HOST + str(tmp_path)) for layer in found.layers}
    assert layers == {
        "": "trees/0", "/a": "trees/1", "/a/b": "trees/2", "/a/b/mount": "/a/b/mount", "/mount": "/mount", "/plain": "/plain",
    }  # fmt: skip
    assert {bound.path for bound in found.binds} == {f"{tmp_path}/kernel", f"{tmp_path}/large"}
    outline = found.skeletons[0]
    assert (outline.directories, outline.copies, outline.points) == (
        ("a", "kernel", "mount", "plain"),
        ("link", "small"),
        ("large",),
    )


def test_skeleton_is_made_with_modes_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "mount").mkdir(parents=True)
    (tmp_path / "tree" / "small").write_text("small")
    (tmp_path / "tree" / "small").chmod(0o640)
    (tmp_path / "tree" / "link").symlink_to("nowhere")
    (tmp_path / "tree" / "gone").touch()
    found = trees.user_trees([mounted("/"), mounted(f"{tmp_path}/tree/mount")], [f"{tmp_path}/tree"])
    (tmp_path / "tree" / "gone").unlink()
    monkeypatch.chdir(tmp_path)
    notes = list(trees.make_skeletons(found.skeletons))
    made = tmp_path / "trees" / "0"
    assert (made / "small").read_text() == "small"
    assert stat.S_IMODE((made / "small").stat().st_mode) == 0o640
    assert os.readlink(made / "link") == "nowhere"
    assert (made / "mount").is_dir()
    assert notes == [f"{tmp_path}/tree/gone is missing inside: No such file or directory"]


def test_more_overlays_than_a_test_can_afford_become_read_only_binds(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    for number in range(60):
        (tmp_path / f"z{number:02}").mkdir()
    found = trees.user_trees([mounted("/"), mounted(f"{tmp_path}/mount")], [str(tmp_path)])
    assert len(found.layers) == 48
    assert len(found.binds) == 14
    assert sum("would slow down every test" in note for note in found.notes) == 14


def test_devices_and_late_file_systems_are_not_executable_or_setuid() -> None:
    kernel = host._kernel_file_systems((), rootless=True, unified=False)
    assert all(step.flags & MS_NOSUID for step in kernel if isinstance(step, FileSystem))


def test_describing_mounts_nothing() -> None:
    before = mountinfo()
    lines = describe_plan(Spec(hide=("/etc/passwd",)), ("/usr",), rootless=False)
    assert mountinfo() == before
    assert "hidden /etc/passwd" in lines
    assert "bind /usr (read-write)" in lines
