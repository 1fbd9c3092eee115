"""Root file systems of layers on the real kernel, as root and as an unprivileged user: stacked alone, and over the host."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.callers import CALLERS, Caller, caller
from tests.support.capabilities import requires
from tests.support.roots import make_root
from tests.support.unprivileged import USER_ID

__all__ = ["caller"]

COUNT = 150
"""More layers than the hundred that are asked for."""


@pytest.fixture
def layers(caller: Caller) -> Iterator[Path]:
    """A root and layers over it, the caller's own, in a directory with a name that overlay must be told carefully."""
    place = caller.directory / "la:y,e r\\s"
    make_root(place / "root", etc__motd="old\n", etc__gone="here\n", data__a="below\n", data__b="below\n")
    one = place / "one"
    (one / "data").mkdir(parents=True)
    (one / "data/a").write_text("above\n")
    two = place / "two/etc"
    two.mkdir(parents=True)
    os.mknod(two / "gone", 0o600 | 0o020000, 0)
    (two / "motd").write_text("new\n")
    if not caller.is_root and os.geteuid() == 0:
        for path in (place, *place.rglob("*")):
            os.lchown(path, USER_ID, USER_ID)
    yield place
    shutil.rmtree(place)


def run(caller: Caller, rootfs: list[str], *commands: str, **spec: Any) -> list[str]:
    """What each shell command prints in one sandbox."""
    code = f"""
rootfs = parse_key("rootfs", {rootfs!r}, "/")
with box(rootfs=rootfs, **{spec!r}) as opened:
    tell([(done.stdout + done.stderr).decode() for command in {commands!r} for done in [opened.run(["/bin/sh", "-c", command], timeout=30)]])
"""
    return caller.run(code)  # type: ignore[no-any-return]


def test_layers_are_stacked_bottom_to_top_and_nothing_of_the_host_is_there(caller: Caller, layers: Path):
    stack = [str(layers / name) for name in ("root", "one", "two")]
    a, b, motd, gone, top, here = run(
        caller, stack, "cat /data/a", "cat /data/b", "cat /etc/motd", "cat /etc/gone", "ls -A /", "pwd; id -u"
    )
    assert (a, b, motd) == ("above\n", "below\n", "new\n")
    assert "No such file" in gone
    assert set(top.split()) == {"bin", "data", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sys", "tmp", "usr", "var"}
    assert here.split() == ["/", "0"]


def test_kernel_file_systems_are_the_sandbox_s_own(caller: Caller, layers: Path):
    told = run(
        caller,
        [str(layers / "root")],
        "cat /proc/1/comm; echo x > /proc/sys/kernel/core_pattern; echo $?; ls /dev/pts /dev/shm; cat /etc/hosts",
    )[0]
    assert "pytest-is" in told.splitlines()[0]
    assert "127.0.0.1\tlocalhost" in told
    assert "\n0\n" not in told


def _digest(place: Path) -> str:
    listing = subprocess.run(
        ["tar", "-C", place, "--sort=name", "--xattrs", "--pax-option=delete=atime,delete=ctime", "-cf", "-", "."],
        capture_output=True,
        check=True,
    ).stdout
    return hashlib.sha256(listing).hexdigest()


def test_a_test_can_t_alter_a_layer(caller: Caller, layers: Path):
    stack = [str(layers / name) for name in ("root", "one", "two")]
    before = _digest(layers)
    told = run(
        caller,
        stack,
        "echo x > /data/a && rm -r /etc && mkdir /etc && echo y > /etc/new && rm /data/b && touch /root/z && ls /data /etc /root",
    )
    assert told[0] == "/data:\na\n\n/etc:\nnew\n\n/root:\nz\n"
    assert _digest(layers) == before
    assert run(caller, stack, "cat /data/b")[0] == "below\n"


def test_more_than_a_hundred_layers(caller: Caller, layers: Path):
    stack = [str(layers / "root")]
    for number in range(COUNT):
        (layers / f"n{number}/many").mkdir(parents=True)
        (layers / f"n{number}/many/last").write_text(str(number))
        (layers / f"n{number}/many/{number}").touch()
        stack.append(str(layers / f"n{number}"))
    if not caller.is_root and os.geteuid() == 0:
        for path in layers.glob("n*/**/*"):
            os.chown(path, USER_ID, USER_ID)
    last, names = run(caller, stack, "cat /many/last", "ls /many")
    assert last == str(COUNT - 1)
    assert len(names.split()) == COUNT + 1


def test_a_layer_over_the_host_of_which_it_is_a_part(caller: Caller, layers: Path):
    inside = layers / "over" / str(caller.directory).lstrip("/")
    inside.mkdir(parents=True)
    (inside / "made").write_text("layer\n")
    (caller.directory / "mine").write_text("host\n")
    os.mknod(inside / "gone", 0o600 | 0o020000, 0)
    (caller.directory / "gone").write_text("host\n")
    for path in (layers / "over").rglob("*"):
        if not caller.is_root and os.geteuid() == 0:
            os.chown(path, USER_ID, USER_ID)
    told = run(caller, ["host", str(layers / "over")], f"cd '{caller.directory}'; cat mine made; ls; echo x > made; cat made")[0]
    assert told.startswith("host\nlayer\n")
    assert told.endswith("x\n")
    assert "gone" not in told.split()
    assert (inside / "made").read_text() == "layer\n"
    assert not (caller.directory / "made").exists()


def test_a_link_of_the_image_leads_no_mount_out_of_it(caller: Caller, layers: Path):
    (layers / "two/tmp").symlink_to("/var")  # where the shared directory lies, on the host
    (layers / "two/etc/resolv.conf").symlink_to("../../../../../../var/resolv")
    (layers / "two/var").mkdir()
    (layers / "two/var/resolv").write_text("image\n")
    target = caller.directory / "shared"
    target.mkdir()
    (target / "file").write_text("shared\n")
    if not caller.is_root and os.geteuid() == 0:
        os.chown(target, USER_ID, USER_ID)
    stack = [str(layers / name) for name in ("root", "two")]
    told = run(caller, stack, f"cat '{target}/file'; cat /var/resolv", writable=(str(target),))
    assert told == ["shared\nimage\n"]


def test_hide_covers_a_path_of_the_image(caller: Caller, layers: Path):
    told = run(caller, [str(layers / "root")], "cat /etc/motd; ls -A /data", hide=("/etc/motd", "/data"))
    assert told == [""]


def test_hide_of_what_no_layer_has_is_told(caller: Caller, layers: Path):
    done = caller.process(
        f"""
with box(rootfs=parse_key("rootfs", {str(layers / "root")!r}, "/"), hide=("/nowhere",)): pass
"""
    )
    assert "hide= /nowhere: ENOENT" in done.stderr
    assert "take it out of hide=" in done.stderr


def test_a_user_of_the_image(caller: Caller, layers: Path):
    assert run(caller, [str(layers / "root")], "id -u; id -g", user=33)[0].split() == ["33", "33"]


@pytest.mark.parametrize("kind", ["host", "root"])
def test_upper_on_a_disk_takes_the_writes_and_is_removed(caller: Caller, layers: Path, kind: str):
    rootfs = ["host"] if kind == "host" else [str(layers / "root")]
    told = caller.run(
        f"""
path = {str(caller.directory)!r}
rootfs = parse_key("rootfs", {rootfs!r}, "/")
with box(rootfs=rootfs, upper="disk") as opened:
    command = f"mkdir -p '{{path}}' && cd '{{path}}' && dd if=/dev/zero of=big bs=1M count=20 2>&1 >/dev/null | tail -c 0; stat -c %s big; cat /proc/self/mountinfo"
    out = opened.run(["/bin/sh", "-c", command]).stdout.decode()
    store = os.environ["XDG_DATA_HOME"] + "/pytest-isolate/uppers"
    sizes = [os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(store) for name in names] if os.geteuid() == 0 else None
    tell([out.splitlines()[0], sizes, opened.usage().disk_written_bytes, [change.path for change in opened.changes() if change.path.endswith("/big")]])
""",
        env={"XDG_DATA_HOME": str(caller.directory / "data")},
    )
    assert told[0] == str(20 << 20)
    assert told[1] in (None, [20 << 20])
    assert told[2] == 20 << 20
    assert told[3] == [f"{caller.directory}/big"]
    assert not (caller.directory / "big").exists()
    assert not list((caller.directory / "data/pytest-isolate").glob("uppers/**/big"))
    assert not (caller.directory / "data/pytest-isolate/uppers").exists()


def test_upper_of_a_killed_run_is_removed_by_the_next(caller: Caller, layers: Path):
    env = {"XDG_DATA_HOME": str(caller.directory / "data")}
    killed = caller.process(
        """
import signal
with box(upper="disk") as opened:
    opened.run(["/bin/sh", "-c", f"echo x > '{os.getcwd()}/left'"])
    builder = POOL.launch().pid
    print(builder, flush=True)
    os.kill(builder, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
""",
        env=env,
    )
    assert killed.returncode == -9
    uppers = caller.directory / "data/pytest-isolate/uppers"
    assert len(list(uppers.iterdir())) == 1
    caller.run("with box(upper='disk') as opened: tell(1)", env=env)
    assert not uppers.exists()


FILL = """
with box(upper="disk", disk=8 << 20, **{more!r}) as opened:
    begun = opened.usage().disk_written_bytes
    command = "cd /var && dd if=/dev/zero of=big bs=64k count=400 2>&1; stat -c %s big"
    said = opened.run(["/bin/sh", "-c", command]).stdout.decode()
    tell([said, begun, opened.usage().disk_written_bytes, opened.events().disk_full, [str(each) for each in opened.changes() if each.path == "/var/big"]])
"""


def loop_files() -> list[str]:
    """Of the layer stores of tests, what loop devices are attached to."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            found.append(path.read_text().strip())
    return [path for path in found if "/uppers/" in path]


@pytest.mark.parametrize("caller", CALLERS[:1], indirect=True)
@pytest.mark.parametrize("kind", ["host", "root"])
@requires("loop-device")
def test_cap_of_a_disk_is_the_size_of_a_file_system(caller: Caller, layers: Path, kind: str):
    rootfs = ["host"] if kind == "host" else [str(layers / "root")]
    code = f"rootfs = parse_key('rootfs', {rootfs!r}, '/')" + FILL.replace("**{more!r}", "rootfs=rootfs")
    said, begun, written, full, changed = caller.run(code, env={"XDG_DATA_HOME": str(caller.directory / "data")})
    assert "No space left on device" in said
    size = int(said.splitlines()[-1])
    assert 8 << 20 <= size <= (8 << 20) + (64 << 10)
    assert begun == 0
    assert size <= written <= size + (64 << 10)
    assert full is True
    assert len(changed) == 1
    assert not (caller.directory / "data/pytest-isolate/uppers").exists()
    assert not [path for path in loop_files() if path.startswith(str(caller.directory))]


@pytest.mark.parametrize("caller", CALLERS[:1], indirect=True)
@requires("loop-device", "cgroup-memory")
def test_capped_disk_takes_more_than_the_memory_cap(caller: Caller):
    code = """
with box(upper="disk", disk=256 << 20, memory=64 << 20) as opened:
    done = opened.run(["/bin/sh", "-c", "dd if=/dev/zero of=/var/big bs=1M count=160 2>&1; stat -c %s /var/big"], timeout=100)
    tell([done.stdout.decode().splitlines()[-1], opened.events(network=False).oom_kills, opened.usage().disk_written_bytes])
"""
    size, kills, written = caller.run(code, env={"XDG_DATA_HOME": str(caller.directory / "data")})
    assert (int(size), kills) == (160 << 20, 0)
    assert written >= 160 << 20


@pytest.mark.parametrize("caller", CALLERS[:1], indirect=True)
@requires("loop-device")
def test_capped_disk_of_a_killed_run_leaves_nothing(caller: Caller):
    killed = caller.process(
        """
import signal
with box(upper="disk", disk=16 << 20) as opened:
    opened.run(["/bin/sh", "-c", "dd if=/dev/zero of=/var/left bs=1M count=8 2>/dev/null"])
    mine = [path for path in __import__("glob").glob("/sys/block/loop*/loop/backing_file") if os.environ["XDG_DATA_HOME"] in open(path).read()]
    print(len(mine), flush=True)
    os.kill(POOL.launch().pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
""",
        env={"XDG_DATA_HOME": str(caller.directory / "data")},
    )
    assert killed.returncode == -9
    assert killed.stdout == "1\n"
    deadline = time.monotonic() + 10
    while (left := [path for path in loop_files() if str(caller.directory) in path]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left
    # The directory of the run is empty: the file never had a name that could stay.
    assert list((caller.directory / "data/pytest-isolate/uppers").glob("*/*")) == []


@requires("unprivileged-user", "userns")
@pytest.mark.parametrize("caller", CALLERS[1:], indirect=True)
def test_cap_of_a_disk_is_a_named_capability_that_a_user_lacks(caller: Caller):
    done = caller.python(
        "-m",
        "pytest_isolate",
        "run",
        "--upper=disk",
        "--disk=1MiB",
        "--",
        "true",
        env={"XDG_DATA_HOME": str(caller.directory / "data")},
    )
    assert done.returncode != 0
    assert 'disk needs loop-device: a cap on upper="disk" is a file system of that size, which only root can mount' in done.stderr
    assert 'remedy: run as root, or cap a tmpfs: upper="tmpfs"' in done.stderr


def test_disk_without_a_cap_counts_what_was_written(caller: Caller):
    code = """
with box(upper="disk") as opened:
    opened.run(["/bin/sh", "-c", "cd /var/tmp && mkdir -p a/b && dd if=/dev/zero of=a/b/one bs=1M count=3 2>/dev/null && ln a/b/one two && rm -f none && truncate -s 1G hole"])
    tell(opened.usage().disk_written_bytes)
"""
    assert caller.run(code, env={"XDG_DATA_HOME": str(caller.directory / "data")}) == 3 << 20
