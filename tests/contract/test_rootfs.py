"""``rootfs="host"`` on the real kernel, as root and as an unprivileged user: what is seen, what is kept, what is refused."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator

import pytest

from pytest_isolate.kernel.mounts import mountinfo
from pytest_isolate.model.net import Net
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs.foreign import describe_plan
from tests.support.capabilities import requires
from tests.support.nsdriver import run_inside
from tests.support.unprivileged import USER_ID, run_python

STRANGE = "a:b,c\\d e=\u00e4"

root_only = requires("root")
as_root = pytest.param(None, marks=requires("root"), id="root")
as_user = pytest.param(USER_ID if os.geteuid() == 0 else None, marks=requires("userns"), id="user")


@pytest.fixture(params=[as_root, as_user])
def user(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.fixture
def work(request: pytest.FixtureRequest) -> Iterator[str]:
    """A directory of the sandboxes' user, with a strange name and some files."""
    user = request.getfixturevalue("user") if "user" in request.fixturenames else None
    path = tempfile.mkdtemp(prefix=f"isolate-rootfs {STRANGE}")
    write(f"{path}/file", "host")
    os.makedirs(f"{path}/directory/below")
    write(f"{path}/directory/below/file", "host")
    os.mkdir(f"{path}/empty")
    own(path, user)
    yield path
    shutil.rmtree(path)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def own(path: str, user: int | None) -> None:
    if user is None:
        return
    os.chown(path, user, user)
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            os.lchown(os.path.join(directory, name), user, user)


def listing(path: str) -> list[str]:
    return sorted(os.path.join(directory, name) for directory, names, files in os.walk(path) for name in (*names, *files))


TRY = """
import os
def attempt(function, *args):
    try:
        function(*args)
    except OSError as error:
        return error.errno
    return 0
def opened(path, flags=os.O_WRONLY):
    os.close(os.open(path, flags))
"""


def test_writes_are_seen_inside_and_gone_afterwards(user: int | None, work: str) -> None:
    before = listing(work)
    inside = run_inside(
        f"""
        import os, shutil
        work = {work!r}
        seen = sorted(os.listdir(work)), open(work + "/file").read(), os.path.exists("/tmp/new")
        open(work + "/file", "a").write("+inside")
        open(work + "/new", "w").write("new")
        open("/tmp/new", "w").write("new")
        shutil.rmtree(work + "/directory")
        os.mkdir(work + "/made")
        os.rename(work + "/made", work + "/renamed")
        os.mkdir(work + "/directory")
        result = [*seen, open(work + "/file").read(), os.listdir(work + "/directory"), sorted(os.listdir(work))]
        """,
        user=user,
        trees=(work, "/tmp"),
        boxes=2,
    )
    first = [["directory", "empty", "file"], "host", False, "host+inside", [], ["directory", "empty", "file", "new", "renamed"]]
    assert inside.results == [first, first]
    assert listing(work) == before
    assert read(f"{work}/file") == "host"


@root_only
def test_root_may_write_anywhere_and_nothing_stays() -> None:
    inside = run_inside(
        """
        import os
        paths = ["/new", "/etc/new", "/usr/bin/new", "/root/new", "/var/lib/new"]
        for path in paths:
            open(path, "w").close()
        os.unlink("/etc/passwd")
        result = [paths, os.path.exists("/etc/passwd")]
        """
    )
    paths, passwd = inside.result
    assert not passwd
    assert os.path.exists("/etc/passwd")
    assert not [path for path in paths if os.path.exists(path)]


@root_only
def test_directory_of_the_lower_layer_renames_and_inode_numbers_survive_copy_up_as_root(work: str) -> None:
    inside = run_inside(
        f"""
        import os
        work = {work!r}
        before = os.stat(work + "/file").st_ino
        open(work + "/file", "a").write("x")
        os.rename(work + "/directory", work + "/moved")
        result = [before == os.stat(work + "/file").st_ino, os.listdir(work + "/moved/below")]
        """
    )
    assert inside.result == [True, ["file"]]


@pytest.mark.parametrize("user", [as_user])
def test_directory_of_the_hosts_does_not_rename_for_a_user(user: int | None, work: str) -> None:
    """Overlay's redirects can't be trusted from a user namespace: EXDEV, on which mv and shutil.move copy."""
    code = TRY + f'import shutil; work = {work!r}; result = attempt(os.rename, work + "/directory", work + "/moved")\n'
    code += 'shutil.move(work + "/directory", work + "/moved"); result = [result, os.listdir(work + "/moved/below")]'
    assert run_inside(code, user=user, trees=(work,)).result == [errno.EXDEV, ["file"]]


@pytest.mark.parametrize("user", [as_user])
def test_rest_of_the_host_is_read_only_for_a_user(user: int | None) -> None:
    inside = run_inside(
        TRY + 'result = [attempt(opened, path, os.O_WRONLY | os.O_CREAT) for path in ("/x", "/etc/x", "/var/x", "/usr/x")]',
        user=user,
        trees=("/tmp",),
    )
    assert set(inside.result) == {errno.EROFS}


def test_temporary_directories_keep_their_mode(user: int | None) -> None:
    code = 'import os; result = [oct(os.stat(path).st_mode) for path in ("/", "/tmp", "/var/tmp")]'
    inside = run_inside(code, user=user, trees=("/tmp", "/var/tmp"))
    assert inside.result == [oct(os.stat(path).st_mode) for path in ("/", "/tmp", "/var/tmp")]


def test_owner_of_a_tree_is_kept_for_its_user(user: int | None, work: str) -> None:
    os.chmod(work, 0o2751)
    inside = run_inside(
        f"import os; status = os.stat({work!r}); result = [status.st_mode, status.st_uid, status.st_gid]",
        user=user,
        trees=(work,),
    )
    status = os.stat(work)
    assert inside.result == [status.st_mode, status.st_uid, status.st_gid]


def test_disk_caps_the_writes_and_statvfs_tells(user: int | None, work: str) -> None:
    inside = run_inside(
        TRY
        + f"""
before = os.statvfs({work!r})
def fill():
    with open({work!r} + "/big", "wb", buffering=0) as file:
        for _ in range(64):
            file.write(bytes(65536))
number = attempt(fill)
after = os.statvfs({work!r})
figures = os.statvfs("/dev/disk" if os.path.exists("/dev/disk") else "/")
result = [number, before.f_blocks * before.f_frsize, after.f_bfree, figures.f_blocks * figures.f_frsize, figures.f_bfree]
""",
        user=user,
        trees=(work,),
        spec={"disk": 2 << 20},
    )
    assert inside.result == [errno.ENOSPC, 2 << 20, 0, 2 << 20, 0]
    assert inside.disk_path == ("/dev/disk" if inside.rootless else "/")


def test_proc_shows_only_the_sandbox(user: int | None) -> None:
    inside = run_inside(
        'import os; result = [sorted(int(name) for name in os.listdir("/proc") if name.isdigit()), os.getpid()]',
        user=user,
    )
    assert inside.result == [[1, 2], 2]


def test_dev_is_minimal_and_works(user: int | None) -> None:
    inside = run_inside(
        TRY
        + """
import pty, stat
names = sorted(os.listdir("/dev"))
devices = {name: [os.major(status.st_rdev), os.minor(status.st_rdev), oct(status.st_mode)]
           for name in names if stat.S_ISCHR((status := os.lstat("/dev/" + name)).st_mode)}
with open("/dev/null", "w") as null:
    null.write("x")
zero, full = open("/dev/zero", "rb").read(2) == bytes(2), attempt(os.write, os.open("/dev/full", os.O_WRONLY), b"x")
random = len(open("/dev/urandom", "rb").read(8)) + len(open("/dev/random", "rb").read(8))
leader, follower = pty.openpty()
terminal = os.ttyname(follower), sorted(os.listdir("/dev/pts"))
read_end, write_end = os.pipe()
os.write(write_end, b"fd")
through = open(f"/dev/fd/{read_end}", "rb", buffering=0).read(2).decode()
open("/dev/shm/segment", "w").write("x")
mine = os.listdir("/dev/shm"), os.listdir("/dev/mqueue")
new = attempt(opened, "/dev/new", os.O_WRONLY | os.O_CREAT)
result = [names, devices, zero, full, random, terminal, through, mine, new]
""",
        user=user,
        boxes=2,
    )
    nodes = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
    devices = {name: [1, minor, "0o20666"] for name, minor in nodes.items()} | {"tty": [5, 0, "0o20666"]}
    links = ["fd", "mqueue", "ptmx", "pts", "shm", "stderr", "stdin", "stdout"]
    own = ["disk"] if inside.rootless else []
    expected = [
        sorted([*devices, *links, *own]),
        devices,
        True,
        errno.ENOSPC,
        16,
        ["/dev/pts/0", ["0", "ptmx"]],
        "fd",
        [["segment"], []],
        errno.EROFS,
    ]
    assert inside.results == [expected, expected]


def test_sysfs_is_the_sandboxes_own_and_read_only(user: int | None) -> None:
    inside = run_inside(
        TRY
        + 'result = [os.listdir("/sys/class/net"), attempt(opened, "/sys/class/net/lo/mtu"), os.access("/sys/kernel", os.R_OK)]',
        user=user,
    )
    assert inside.result == [["lo"], errno.EROFS, True]


def test_host_network_shows_its_sysfs_read_only(user: int | None) -> None:
    inside = run_inside(
        TRY + 'result = [sorted(os.listdir("/sys/class/net")), attempt(opened, "/sys/class/net/lo/mtu")]',
        user=user,
        spec={"net": {"mode": "host"}},
    )
    interfaces, opened = inside.result
    assert interfaces == sorted(os.listdir("/sys/class/net"))
    assert opened in (errno.EROFS, errno.EACCES)


@pytest.mark.parametrize("net", ["none", "host"])
def test_cgroup_hierarchies_are_the_hosts_read_only(user: int | None, net: str) -> None:
    inside = run_inside(
        """
        import os
        found = {line.split()[4]: line.split()[5].split(",")[0] for line in open("/proc/self/mountinfo") if " - cgroup" in line}
        writable = [path for path in found for name in os.listdir(path)
                    if os.access(path + "/" + name, os.W_OK) and not os.statvfs(path + "/" + name).f_flag & os.ST_RDONLY]
        # The kernel shows the cgroup namespace's root as "/".
        # Of two mounts on one point the later one is seen.
        shown = {line.split()[4]: line.split()[3] for line in open("/proc/self/mountinfo") if " - cgroup" in line}
        roots = sorted(set(shown.values()))
        result = [found, writable, roots]
        """,
        user=user,
        spec={"net": {"mode": net}},
    )
    hosts = {mount.point for mount in mountinfo() if mount.fstype in ("cgroup", "cgroup2")}
    found, writable, roots = inside.result
    assert set(found) == hosts
    assert set(found.values()) == {"ro"}
    assert writable == []
    assert roots == ["/"]


@root_only
@pytest.mark.parametrize("net", ["none", "host"])
def test_root_with_dockers_capabilities_changes_nothing_of_the_kernel(net: str) -> None:
    inside = run_inside(
        TRY
        + """
import glob
named = ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname"]
patterns = ["/sys/block/*/queue/*", "/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*", "/proc/irq/*/*", "/proc/sys/*/*", "/proc/sys/*/*/*",
            "/sys/kernel/*", "/sys/module/*/parameters/*", "/sys/power/*", "/proc/fs/*/*", "/proc/bus/*/*", "/sys/devices/system/cpu/*/*"]
paths = [*(path for path in named if os.path.exists(path)), *(path for pattern in patterns for path in glob.glob(pattern))]
status = open("/proc/self/status").read()
result = [len(paths), [path for path in paths if os.path.isfile(path) and attempt(opened, path) == 0],
          attempt(opened, "/proc/sys/kernel/core_pattern"), status.split("CapEff:")[1].split()[0]]
""",
        spec={"net": {"mode": net}},
    )
    tried, opened, core_pattern, capabilities = inside.result
    assert capabilities == "00000000a80425fb"
    assert tried > 100
    assert opened == []
    assert core_pattern == errno.EROFS


@root_only
def test_roots_masks_are_empty() -> None:
    inside = run_inside(
        """
        import os
        masked = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats", "/proc/scsi",
                  "/proc/acpi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap"]
        result = {path: len(os.listdir(path)) if os.path.isdir(path) else os.path.getsize(path)
                  for path in masked if os.path.exists(path)}
        """
    )
    assert inside.result
    assert set(inside.result.values()) == {0}


def test_writable_paths_pass_through_both_ways(user: int | None, work: str) -> None:
    inside = run_inside(
        f"""
        work = {work!r}
        open(work + "/file", "a").write("+inside")
        open(work + "/directory/new", "w").write("inside")
        open(work + "/empty/lost", "w").write("inside")
        result = open(work + "/directory/below/file").read()
        """,
        user=user,
        trees=(work,),
        spec={"writable": [f"{work}/file", f"{work}/directory"]},
    )
    assert inside.result == "host"
    assert read(f"{work}/file") == "host+inside"
    assert read(f"{work}/directory/new") == "inside"
    assert os.listdir(f"{work}/empty") == []


def test_writable_path_outside_the_users_trees_passes_through(user: int | None, work: str) -> None:
    run_inside(f'open({work!r} + "/new", "w").close()', user=user, spec={"writable": [work]}).result  # noqa: B018
    assert os.path.exists(f"{work}/new")


def test_writable_through_a_symbolic_link_reaches_its_target(user: int | None, work: str) -> None:
    os.symlink(f"{work}/directory", f"{work}/link")
    run_inside(f'open({work!r} + "/link/new", "w").close()', user=user, trees=(work,), spec={"writable": [f"{work}/link"]}).result  # noqa: B018
    assert os.path.exists(f"{work}/directory/new")


def test_hidden_paths_are_empty_and_read_only(user: int | None, work: str) -> None:
    inside = run_inside(
        TRY
        + f"""
work = {work!r}
result = [os.listdir(work + "/directory"), attempt(opened, work + "/directory/new", os.O_WRONLY | os.O_CREAT),
          open(work + "/file").read(), attempt(opened, work + "/file"), os.listdir("/proc/sys"), open("/proc/cpuinfo").read()]
""",
        user=user,
        trees=(work,),
        spec={"hide": [f"{work}/directory", f"{work}/file", "/proc/sys", "/proc/cpuinfo"]},
    )
    refused = (errno.EROFS, errno.EACCES)
    directory, made, content, opened, sysctls, cpus = inside.result
    assert (directory, content, sysctls, cpus) == ([], "", [], "")
    assert made in refused
    assert opened in refused


@root_only
def test_what_is_hidden_cannot_be_unmounted_with_every_capability_of_a_nested_namespace(work: str) -> None:
    inside = run_inside(
        TRY
        + f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x10020000) == 0  # CLONE_NEWUSER | CLONE_NEWNS
done = libc.umount2({work!r}.encode() + b"/directory", 2)
result = [done, ctypes.get_errno(), os.listdir({work!r} + "/directory")]
""",
        spec={"hide": [f"{work}/directory"]},
    )
    assert inside.result == [-1, errno.EINVAL, []]


def test_place_inside_a_hidden_directory_stays(user: int | None, work: str) -> None:
    inside = run_inside(
        f"""
        import os
        work = {work!r}
        open(work + "/directory/below/new", "w").close()
        result = [os.listdir(work), os.listdir(work + "/directory"), sorted(os.listdir(work + "/directory/below"))]
        """,
        user=user,
        trees=(work,),
        places=(f"{work}/directory/below",),
        spec={"hide": [work]},
    )
    assert inside.result == [["directory"], ["below"], ["file", "new"]]
    assert os.path.exists(f"{work}/directory/below/new")


def test_hiding_a_place_of_pytests_own_is_refused(user: int | None, work: str) -> None:
    inside = run_inside("", user=user, places=(work,), spec={"hide": [work]})
    assert inside.error is not None
    assert f"take {work} out of hide=" in inside.error["text"]


def test_place_in_shared_memory_is_bound_into_the_sandboxes_own(user: int | None) -> None:
    place = tempfile.mkdtemp(dir="/dev/shm", prefix="isolate-rootfs-")
    os.mkdir(f"{place}/deep")
    own(place, user)
    try:
        inside = run_inside(
            f'import os; open({place!r} + "/deep/new", "w").close(); result = os.listdir("/dev/shm")',
            user=user,
            places=(f"{place}/deep",),
        )
        assert inside.result == [os.path.basename(place)]
        assert os.listdir(f"{place}/deep") == ["new"]
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("key", ["writable", "hide"])
def test_path_that_does_not_exist_is_named_with_the_remedy(user: int | None, work: str, key: str) -> None:
    inside = run_inside("", user=user, spec={key: [f"{work}/missing"]})
    assert inside.error is not None
    step, path, number, hint, _detail = inside.error["args"]
    assert (step, path, number) == (f"{key}=", f"{work}/missing", errno.ENOENT)
    assert f"take it out of {key}=" in hint


def test_workspace_with_a_strange_name_works(user: int | None, work: str) -> None:
    workspace = f"{work}/{STRANGE}"
    os.mkdir(workspace)
    own(workspace, user)
    inside = run_inside(
        f'open("/tmp/new", "w").close(); import os; result = os.listdir({workspace!r})',
        user=user,
        trees=("/tmp",),
        workspace=workspace,
    )
    assert inside.result == []
    assert os.listdir(workspace) == []


def test_nothing_stays_mounted(user: int | None, work: str) -> None:
    before = mountinfo()
    run_inside("", user=user, trees=(work,), places=(work,), boxes=3)
    assert mountinfo() == before


def test_host_is_left_behind(user: int | None) -> None:
    """No mount of the host's own tree stays reachable: the only root is the sandbox's."""
    inside = run_inside(
        """
        import os
        points = [line.split()[4] for line in open("/proc/self/mountinfo")]
        result = [points.count("/"), os.stat("/..").st_ino == os.stat("/").st_ino, os.getcwd()]
        """,
        user=user,
    )
    assert inside.result == [1, True, "/"]


SUBMOUNTS = f"""
import os, socket
from pytest_isolate.kernel.mounts import MS_BIND, MS_RDONLY, mount
base = "/mnt/isolate-submounts"
mount("tmpfs", "/mnt", "tmpfs")
strange = {STRANGE!r}
def submount(name, flags=0, fstype="tmpfs", mode="1777"):
    os.makedirs(f"{{base}}/{{name}}", exist_ok=True)
    if fstype == "tmpfs":
        mount("tmpfs", f"{{base}}/{{name}}", "tmpfs", 0, f"mode={{mode}}")
        open(f"{{base}}/{{name}}/file", "w").write(name)
        os.chmod(f"{{base}}/{{name}}/file", 0o666)
        if flags:
            mount("", f"{{base}}/{{name}}", "", 32 | flags)
    else:
        mount(fstype, f"{{base}}/{{name}}", fstype)
os.mkdir(base)
submount("covered")
submount("covered/below")
submount("covered")
submount("writable", mode="2771")
submount("writable/nested")
submount("readonly", MS_RDONLY)
submount(strange)
submount("proc", fstype="proc")
open(base + "/single", "w").write("under")
os.chmod(base + "/single", 0o666)
mount(base + "/readonly/file", base + "/single", "", MS_BIND)
"""


@root_only
def test_submounts_come_back_one_by_one() -> None:
    inside = run_inside(
        TRY
        + f"""
base, strange = "/mnt/isolate-submounts", {STRANGE!r}
def content(name):
    return open(f"{{base}}/{{name}}/file").read()
def change(name):
    return attempt(opened, f"{{base}}/{{name}}/file", os.O_WRONLY | os.O_TRUNC)
names = ["covered", "writable", "writable/nested", "readonly", strange]
result = [[content(name) for name in names], [change(name) for name in names], oct(os.stat(base + "/writable").st_mode),
          os.listdir(base + "/covered"), os.listdir(base + "/proc"), open(base + "/single").read(),
          attempt(opened, base + "/single"), open(base + "/" + strange + "/file").read()]
""",
        host=SUBMOUNTS,
        after='after = [open(base + "/writable/file").read(), open(f"{base}/{strange}/file").read()]',
    )
    names = ["covered", "writable", "writable/nested", "readonly", STRANGE]
    assert inside.result == [
        names,
        [0, 0, 0, errno.EROFS, 0],
        "0o42771",
        ["file"],
        [],
        "readonly",
        errno.EROFS,
        "",
    ]
    assert inside.after == ["writable", STRANGE]
    assert inside.notes == []


@root_only
def test_file_system_that_takes_no_overlay_is_bound_read_only_and_said_so() -> None:
    """Overlay refuses a lower directory that is stacked too deep already."""
    host = """
    import os
    from pytest_isolate.kernel.mounts import mount
    mount("tmpfs", "/mnt", "tmpfs")
    os.chdir("/mnt")
    for name in "l1 u1 w1 m1 u2 w2 m2".split():
        os.mkdir(name)
    open("l1/file", "w").write("deep")
    mount("overlay", "m1", "overlay", 0, "lowerdir=l1,upperdir=u1,workdir=w1")
    mount("overlay", "m2", "overlay", 0, "lowerdir=m1,upperdir=u2,workdir=w2")
    """
    inside = run_inside(
        TRY + 'result = [open("/mnt/m2/file").read(), attempt(opened, "/mnt/m2/file"), attempt(opened, "/mnt/m1/file")]',
        host=host,
    )
    assert inside.result == ["deep", errno.EROFS, 0]
    assert len(inside.notes) == 1
    assert inside.notes[0].startswith("/mnt/m2 is read-only inside")


@root_only
def test_submount_whose_options_would_not_fit_a_page_is_bound_read_only() -> None:
    """Each colon is escaped: the path fits PATH_MAX, overlay's options don't fit their page."""
    host = """
    import os
    from pytest_isolate.kernel.mounts import mount
    mount("tmpfs", "/mnt", "tmpfs")
    path = "/mnt" + ("/" + 250 * ":") * 12
    os.makedirs(path)
    mount("tmpfs", path, "tmpfs")
    open(path + "/file", "w").write("deep")
    """
    code = TRY + 'path = "/mnt" + ("/" + 250 * ":") * 12; result = [open(path + "/file").read(), attempt(opened, path + "/file")]'
    inside = run_inside(code, host=host)
    assert inside.result == ["deep", errno.EROFS]
    assert "Argument list too long" in inside.notes[0]


@pytest.mark.parametrize("user", [as_user])
def test_user_as_root_inside_works_on_its_own_trees(user: int | None, work: str) -> None:
    inside = run_inside(
        TRY
        + f"""
work = {work!r}
result = [os.getuid(), os.stat(work).st_uid, attempt(opened, work + "/file"), attempt(opened, work + "/new", os.O_WRONLY | os.O_CREAT),
          attempt(opened, "/etc/passwd"), attempt(opened, "/proc/sys/kernel/core_pattern"), open("/proc/sys/kernel/hostname").read() != ""]
""",
        user=user,
        trees=(work,),
        spec={"user": "root"},
    )
    assert inside.result == [0, 0, 0, 0, errno.EACCES, errno.EACCES, True]
    assert read(f"{work}/file") == "host"


@root_only
def test_mounts_of_a_container_engine_stay_read_only() -> None:
    host = """
    import os
    from pytest_isolate.kernel.mounts import mount
    mount("tmpfs", "/var/lib", "tmpfs")
    os.makedirs("/var/lib/docker/overlay2/1/merged")
    mount("tmpfs", "/var/lib/docker/overlay2/1/merged", "tmpfs")
    """
    code = (
        TRY
        + """
def made(path):
    return attempt(opened, path + "/new", os.O_WRONLY | os.O_CREAT)
result = [made("/var/lib/docker/overlay2/1/merged"), made("/var/lib/docker/overlay2/1")]
"""
    )
    assert run_inside(code, host=host).result == [errno.EROFS, 0]


@root_only
def test_device_nodes_of_the_hosts_tree_do_not_open(user: int | None) -> None:
    """A disk's node may lie in a chroot somewhere; as null and mem it lies here in each kind of mount."""
    host = """
    import os, stat
    from pytest_isolate.kernel.mounts import MS_RDONLY, mount
    mount("tmpfs", "/mnt", "tmpfs", 0, "mode=1777")
    mount("tmpfs", "/media", "tmpfs")
    mount("tmpfs", "/srv", "tmpfs")
    for place in ("/mnt", "/media", "/srv"):
        os.mknod(place + "/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chmod(place + "/null", 0o666)
    mount("", "/media", "", 32 | MS_RDONLY)
    """
    code = TRY + 'result = [attempt(opened, place + "/null") for place in ("/mnt", "/media", "/srv", "/dev")]'
    inside = run_inside(code, user=user, trees=("/mnt",), host=host)
    assert inside.result == [errno.EACCES, errno.EACCES, errno.EACCES, 0]


@root_only
def test_noexec_of_a_submount_holds_inside(user: int | None) -> None:
    host = """
    import os, shutil
    from pytest_isolate.kernel.mounts import MS_NOEXEC, mount
    mount("tmpfs", "/mnt", "tmpfs", MS_NOEXEC, "mode=1777")
    shutil.copy("/bin/true", "/mnt/true")
    """
    code = """
    import shutil, subprocess
    try:
        result = subprocess.run("/mnt/true").returncode
    except PermissionError as error:
        result = error.errno
    """
    assert run_inside(code, user=user, trees=("/mnt",), host=host).result == errno.EACCES


@root_only
def test_hundred_submounts_work() -> None:
    host = """
    import os
    from pytest_isolate.kernel.mounts import mount
    mount("tmpfs", "/mnt", "tmpfs")
    for number in range(100):
        os.mkdir(f"/mnt/{number}")
        mount("tmpfs", f"/mnt/{number}", "tmpfs")
    """
    code = 'import os; result = sum(os.stat(f"/mnt/{number}").st_dev != os.stat("/mnt").st_dev for number in range(100))'
    assert run_inside(code, host=host).result == 100


OVERLAY_HOST = """
import os
from pytest_isolate.kernel.mounts import MNT_DETACH, MS_BIND, MS_REC, mount, pivot_root, umount2
mount("tmpfs", "/mnt", "tmpfs")
for name in ("upper", "work", "root"):
    os.mkdir("/mnt/" + name)
mount("overlay", "/mnt/root", "overlay", 0, "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work")
for name in ("proc", "sys", "dev"):
    mount("/" + name, "/mnt/root/" + name, "", MS_BIND | MS_REC)
os.chdir("/mnt/root")
pivot_root(".", ".")
umount2(".", MNT_DETACH)
os.chdir("/")
open("/etc/on-overlay", "w").write("host")
"""


@root_only
def test_host_whose_root_is_an_overlay_works(user: int | None) -> None:
    inside = run_inside(
        """
        import os
        path = "/tmp/new"
        open(path, "w").close()
        kind = [line.split(" - ")[1].split()[0] for line in open("/proc/self/mountinfo") if line.split()[4] == "/"]
        result = [open("/etc/on-overlay").read(), kind]
        """,
        user=user,
        trees=("/tmp",),
        host=OVERLAY_HOST,
        after='after = [os.path.exists("/tmp/new"), [line.split(" - ")[1].split()[0] for line in open("/proc/self/mountinfo") if line.split()[4] == "/"]]',
    )
    assert inside.result == ["host", ["overlay"]]
    assert inside.after == [False, ["overlay"]]


LISTEN = """
import os, socket
from pytest_isolate.kernel.mounts import MS_BIND, MS_RDONLY, mount
os.umask(0)
os.makedirs("/mnt/isolate-sockets", exist_ok=True)
mount("tmpfs", "/mnt/isolate-sockets", "tmpfs", 0, "mode=1777")
os.mkdir("/mnt/isolate-sockets/tree", 0o777)
listeners = []
for path in ("/mnt/isolate-sockets/bound", "/mnt/isolate-sockets/allowed", "/mnt/isolate-sockets/tree/overlaid"):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(8)
    listeners.append(listener)
if readonly:
    mount("", "/mnt/isolate-sockets", "", 32 | MS_RDONLY)
"""

CONNECT = (
    TRY
    + """
import socket
def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/mnt/isolate-sockets/" + path)
result = [attempt(connect, path) for path in ("bound", "allowed", "tree/overlaid")]
"""
)


@root_only
def test_hosts_unix_sockets_are_out_of_reach_unless_writable(user: int | None) -> None:
    os.makedirs("/mnt/isolate-sockets", exist_ok=True)
    try:
        inside = run_inside(
            CONNECT,
            user=user,
            trees=("/mnt/isolate-sockets/tree",),
            host=f"readonly = {user is None}\n" + LISTEN,
            spec={"writable": ["/mnt/isolate-sockets/allowed"]},
        )
    finally:
        os.rmdir("/mnt/isolate-sockets")
    assert inside.result == [errno.ECONNREFUSED, 0, errno.ECONNREFUSED]


@root_only
def test_single_bound_socket_as_a_container_gets_dockers_is_masked(user: int | None) -> None:
    host = """
    import os, socket
    from pytest_isolate.kernel.mounts import MS_BIND, mount
    os.umask(0)
    mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755")
    os.mkdir("/mnt/engine")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("/mnt/engine/docker.sock")
    listener.listen(8)
    open("/mnt/docker.sock", "w").close()
    mount("/mnt/engine/docker.sock", "/mnt/docker.sock", "", MS_BIND)
    os.chmod("/mnt/engine", 0o700)
    """
    code = TRY + 'import socket; result = attempt(socket.socket(socket.AF_UNIX).connect, "/mnt/docker.sock")'
    assert run_inside(code, user=user, host=host).result == errno.ECONNREFUSED


def test_socket_in_a_users_tree_is_out_of_reach(user: int | None, work: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        short = tempfile.mkdtemp(prefix="isolate-s-")
        try:
            listener.bind(f"{short}/s")
            listener.listen()
            os.chmod(short, 0o755)
            os.chmod(f"{short}/s", 0o777)
            code = TRY + f'import socket; result = attempt(socket.socket(socket.AF_UNIX).connect, "{short}/s")'
            inside = run_inside(code, user=user, trees=(tempfile.gettempdir(),))
        finally:
            shutil.rmtree(short)
    assert inside.result == errno.ECONNREFUSED


LOCKED = """
import os
from pytest_isolate.kernel.mounts import MS_RDONLY, mount
for path, flags in ((work + "/mounted", 0), (work + "/directory/deep/mounted", 0), (work + "/sealed", MS_RDONLY)):
    os.makedirs(path, exist_ok=True)
    mount("tmpfs", path, "tmpfs", flags, "mode=1777")
for directory, names, files in os.walk(work):
    for name in (*names, *files):
        if not os.statvfs(os.path.join(directory, name)).f_flag & os.ST_RDONLY:
            os.chown(os.path.join(directory, name), 64321, 64321)
os.chmod(work + "/mounted", 0o1777)
"""


@root_only
def test_tree_with_mounts_below_it_is_taken_apart_for_a_user(work: str) -> None:
    write(f"{work}/large", "x" * 100_000)
    os.symlink("file", f"{work}/link")
    os.chmod(work, 0o1777)
    own(work, USER_ID)
    inside = run_inside(
        TRY
        + f"""
work = {work!r}
create = os.O_WRONLY | os.O_CREAT
paths = ["new", "file", "empty/new", "directory/new", "directory/below/file", "directory/deep/new", "directory/deep/mounted/new",
         "mounted/new", "large", "sealed/new"]
written = {{path: attempt(opened, work + "/" + path, create) for path in paths}}
result = [written, oct(os.stat(work).st_mode), os.readlink(work + "/link"), open(work + "/file").read(),
          len(open(work + "/large").read()), open(work + "/directory/below/file").read()]
""",
        user=USER_ID,
        trees=(work,),
        host=f"work = {work!r}\n" + LOCKED,
        boxes=2,
    )
    written, mode, link, small, large, below = inside.results[1]
    assert written == dict.fromkeys(written, 0) | {"large": errno.EROFS, "sealed/new": errno.EROFS}
    assert (mode, link, small, large, below) == ("0o41777", "file", "host", 100_000, "host")
    assert [note for note in inside.notes if note.startswith(f"{work} has mounts below it")]
    for left in ("directory/deep/mounted", "directory/deep", "mounted", "sealed"):
        os.rmdir(f"{work}/{left}")


@root_only
def test_root_of_a_user_namespace_that_does_not_own_the_mounts_gets_the_users_tree(work: str) -> None:
    own(work, USER_ID)
    inside = run_inside(
        TRY + f'result = [attempt(opened, {work!r} + "/new", os.O_WRONLY | os.O_CREAT), attempt(opened, "/etc/passwd")]',
        user=USER_ID,
        trees=(work,),
        as_root=True,
    )
    assert inside.rootless
    assert inside.result[0] == 0
    assert inside.result[1] in (errno.EROFS, errno.EACCES)
    assert not os.path.exists(f"{work}/new")


@root_only
def test_refused_root_overlay_fails_closed_with_step_and_remedy() -> None:
    """The root's lower directory is stacked too deep, and there is no FUSE: no way can give writes."""
    host = OVERLAY_HOST + OVERLAY_HOST.replace("/etc/on-overlay", "/etc/on-overlay-2")
    host += (
        "import subprocess\nsubprocess.run(['mount', '--bind', '/dev/null', '/dev/fuse'], check=os.path.exists('/dev/fuse'))\n"
    )
    inside = run_inside("", host=host, trees=("/tmp",))
    assert inside.error is not None
    assert inside.error["args"][2] == errno.EINVAL
    assert "overlay" in inside.error["text"]


@requires("unprivileged-user")
def test_prepare_without_the_right_to_mount_names_the_remedy() -> None:
    done = run_python(
        """
import os, tempfile
from pytest_isolate.model.errors import SetupError
from pytest_isolate.rootfs.host import HostRoot
workspace = tempfile.mkdtemp()
try:
    HostRoot.prepare(workspace, rootless=False, places=(), trees=())
except SetupError as error:
    print(error.errno, error)
os.rmdir(workspace)
"""
    )
    assert done.stdout.startswith(f"{errno.EPERM} sandbox could not be built: prepare workspace"), done.stderr
    assert "remedy: the builder may not mount here" in done.stdout


@pytest.mark.parametrize("spec", [Spec(), Spec(net=Net("host"), disk=1 << 20, hide=("/etc/passwd",), writable=("/var/tmp",))])
def test_described_plan_is_the_one_that_is_carried_out(user: int | None, spec: Spec) -> None:
    before = mountinfo()
    inside = run_inside("", user=user, trees=("/tmp",), places=("/usr",), spec=spec.to_json())
    rootless = user is not None or os.geteuid() != 0
    assert describe_plan(spec, ("/usr",), rootless=rootless, trees=("/tmp",)) == inside.plan
    assert mountinfo() == before
    assert stat.S_ISDIR(os.stat("/usr").st_mode)
