"""Images made by other people's tools, in several layers, offline; and what these tools themselves show of them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pytest_isolate.images.copying import entries_of
from pytest_isolate.images.owners import Owners
from pytest_isolate.images.tree_record import lines

__all__ = ["LISTING", "buildah_image", "buildah_image_elsewhere", "busybox_tarball", "listing", "tool", "umoci_image"]

AS_ROOT: Final = Owners(False, 0, 0)

DEEP: Final = "/".join(f"directory-{number}" for number in range(30))


def tool(*argv: str | os.PathLike[str], cwd: Path | None = None) -> str:
    """Run it; what it printed. Fails with what it said."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def first(root: Path) -> None:
    """What the lowest layer holds."""
    for name in (
        "bin",
        "etc/deep",
        "gone/deep/er",
        "opaque/old",
        "tmp",
        "usr/lib",
        "var/mail",
        "becomes-file/x",
        "becomes-link/x",
        "empty",
        DEEP,
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "var/run").symlink_to("/run")
    (root / "becomes-directory").symlink_to("etc")
    for number, name in enumerate(
        (
            "etc/passwd",
            "etc/group",
            "etc/deep/kept",
            "gone/deep/file",
            "opaque/old/file",
            "opaque/file",
            "usr/lib/so",
            "etc/removed",
            "etc/touched",
            f"{DEEP}/{'n' * 200}",
        )
    ):
        (root / name).write_text(f"{name} {number}\n" * (number + 1))
    (root / "bin/big").write_bytes(os.urandom(300_000))
    with open(root / "etc/sparse", "wb") as file:
        file.write(b"begin")
        file.seek(5_000_000)
        file.write(b"middle")
        file.truncate(9_000_000)
    with open(os.fsencode(root) + b"/etc/\xff\xe4 odd\nname=,", "wb") as file:
        file.write(b"odd")
    os.link(root / "bin/big", root / "bin/same")
    os.link(root / "bin/big", root / "usr/lib/same")
    os.mkfifo(root / "var/fifo", 0o640)
    os.mknod(root / "var/device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(root / "etc/group", "user.note", b"\0binary\xff")
    os.setxattr(root / "bin/big", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.chmod(root / "tmp", 0o1777)
    os.chown(root / "var/mail", 8, 12)
    os.chmod(root / "var/mail", 0o2775)
    os.chown(root / "etc/passwd", 65534, 65534)
    os.chown(root / "var/run", 7, 7, follow_symlinks=False)
    (root / "bin/setuid").write_text("#!")
    os.chmod(root / "bin/setuid", 0o4755)


def second(root: Path) -> None:
    """Changes of every kind."""
    (root / "etc/removed").unlink()
    shutil.rmtree(root / "gone")
    shutil.rmtree(root / "becomes-file")
    (root / "becomes-file").write_text("file")
    shutil.rmtree(root / "becomes-link")
    (root / "becomes-link").symlink_to("etc")
    (root / "becomes-directory").unlink()
    (root / "becomes-directory").mkdir()
    (root / "becomes-directory/new").write_text("new")
    (root / "etc/group").write_text("changed")
    os.chmod(root / "etc/touched", 0o600)
    os.chown(root / "usr/lib/so", 100, 101)
    os.link(root / "etc/deep/kept", root / "etc/linked")
    (root / "bin/same").unlink()
    (root / "empty/full").write_text("full")


def third(root: Path) -> None:
    """A directory that is made anew, and a file that comes back."""
    shutil.rmtree(root / "opaque")
    (root / "opaque").mkdir(mode=0o711)
    (root / "opaque/new").write_text("new")
    (root / "etc/removed").write_text("back")
    (root / "gone").mkdir()
    (root / "becomes-file").unlink()
    (root / "becomes-file/again").mkdir(parents=True)


CHANGES: Final[tuple[Callable[[Path], None], ...]] = (first, second, third)


def umoci_image(directory: Path) -> tuple[Path, list[str]]:
    """An OCI layout with the tag ``three``, by umoci; and what umoci unpacks of it. As root."""
    layout = directory / "oci"
    tool("umoci", "init", "--layout", layout)
    tool("umoci", "new", "--image", f"{layout}:empty")
    former = "empty"
    for number, change in enumerate(CHANGES, 1):
        bundle = directory / f"bundle{number}"
        tool("umoci", "unpack", "--image", f"{layout}:{former}", bundle)
        change(bundle / "rootfs")
        former = str(number) if change is not third else "three"
        tool("umoci", "repack", "--image", f"{layout}:{former}", bundle)
        shutil.rmtree(bundle)
    tool(
        "umoci",
        "config",
        "--image",
        f"{layout}:three",
        "--config.env",
        "GREETING=hello=world",
        "--config.user",
        "8:12",
        "--config.workingdir",
        "/var",
    )
    tool("umoci", "unpack", "--image", f"{layout}:three", directory / "shown")
    found = listing(directory / "shown/rootfs")
    shutil.rmtree(directory / "shown")
    return layout, found


def buildah_image(directory: Path, podman_saves: Mapping[str, Path] = MappingProxyType({})) -> tuple[Path, list[str]]:
    """An OCI layout with the tag ``three``, by buildah with overlays; and what its container shows. As root.

    Args:
        podman_saves: what `podman save` makes of the same image: by its ``--format``, where.
    """
    state = tempfile.mkdtemp(dir="/tmp", prefix="img-")  # podman takes no path of more than 50 characters
    buildah = ["buildah", "--root", f"{directory}/storage", "--runroot", state, "--storage-driver", "overlay"]
    layout = directory / "oci"
    base, found = "scratch", list[str]()
    try:
        for number, change in enumerate(CHANGES, 1):
            container = tool(*buildah, "from", base)
            change(Path(tool(*buildah, "mount", container)))
            base = f"localhost/step{number}"
            tool(*buildah, "commit", container, base)
            if change is third:
                tool(*buildah, "commit", container, f"oci:{layout}:three")
                for form, path in podman_saves.items():
                    tool("podman", *buildah[1:], "save", "--quiet", f"--format={form}", f"--output={path}", f"{base}:latest")
                found = listing(Path(tool(*buildah, "mount", container)))
            tool(*buildah, "umount", container)
    finally:
        tool(*buildah, "rm", "--all")
        tool(*buildah, "rmi", "--all", "--force")
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            for point in [line.split()[4] for line in file if f" {directory}/" in line]:
                tool("umount", point)
        shutil.rmtree(state, ignore_errors=True)
    return layout, found


def buildah_image_elsewhere(directory: Path, podman_saves: Mapping[str, Path] = MappingProxyType({})) -> tuple[Path, list[str]]:
    """`buildah_image` in a mount namespace of its own: its mounts come and go, and are nobody else's business."""
    code = "print(json.dumps(buildah_image(Path(sys.argv[1]), {form: Path(path) for form, path in json.loads(sys.argv[2]).items()})[1]))"
    imports = "import json, sys; from pathlib import Path; from tests.support.image_tools import buildah_image"
    saves = json.dumps({form: str(path) for form, path in podman_saves.items()})
    place = Path(__file__).parents[2]
    shown = tool("unshare", "--mount", sys.executable, "-c", f"{imports}; {code}", directory, saves, cwd=place)
    return directory / "oci", json.loads(shown)


_BUSYBOX: Final = """
set -e
cd "$1"
mkdir -p proc sys dev tmp etc root
echo root:x:0:0::/root:/bin/sh > etc/passwd
busybox=$(ls bin/busybox usr/bin/busybox 2>/dev/null | head -n 1)
chroot . /$busybox mkdir -p /bin /sbin /usr/bin /usr/sbin
chroot . /$busybox --install -s
"""


def busybox_tarball(directory: Path) -> Path:
    """A root file system that mmdebstrap makes of Debian's busybox-static: no libc, no loader, no dpkg. Ten seconds, as root."""
    target = directory / "busybox.tar"
    hook = directory / "hook"
    hook.write_text(f"#!/bin/sh{_BUSYBOX}")
    hook.chmod(0o755)
    # Nothing of it may run before it is there: dpkg unpacks from outside.
    options = ("--quiet", "--mode=chrootless", "--variant=custom", "--include=busybox-static", "--skip=check/empty")
    tool("mmdebstrap", *options, f"--customize-hook={hook}", "bookworm", target, "http://deb.debian.org/debian")
    return target


def listing(root: Path) -> list[str]:
    """What root sees in a directory, as `tree_record` writes it down; devices, which layers have none of, left out."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return [line.decode("utf-8", "surrogateescape") for line in lines(entries_of(fd, AS_ROOT)) if not line.startswith(b"c")]
    finally:
        os.close(fd)


LISTING: Final = """
import json, os, sys
from pytest_isolate.images.copying import entries_of
from pytest_isolate.images.owners import Owners
from pytest_isolate.images.tree_record import lines
from pytest_isolate.kernel.mounts import mount
from pytest_isolate.machine.user_namespace import enter_user_namespace

def merged(directories):
    # What an overlay of them shows; the calling process goes into namespaces for it.
    uid, gid = os.geteuid(), os.getegid()
    owners = Owners.of(enter_user_namespace(), uid, gid)
    os.makedirs("empty", exist_ok=True), os.makedirs("point", exist_ok=True)
    mount("none", "/", flags=0x4000 | 0x40000)
    data = ":".join([*reversed(directories), os.path.abspath("empty")])
    mount("overlay", "point", "overlay", data=f"lowerdir={data}{',userxattr' if owners.rootless else ''}")
    fd = os.open("point", os.O_RDONLY)
    return [line.decode("utf-8", "surrogateescape") for line in lines(entries_of(fd, owners))]
"""
"""For a case of `callers`: the same of a stack, as its caller sees it mounted."""
