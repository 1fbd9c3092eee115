"""Mounts: the system calls, mountinfo, and how overlay wants its paths written.

Mechanism only: what is mounted where is decided in `pytest_isolate.rootfs`. Sources: mount(2), umount(2),
pivot_root(2), open_tree(2), move_mount(2), mount_setattr(2), proc_pid_mountinfo(5) and the kernel's
Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from dataclasses import dataclass
from typing import Final

from pytest_isolate.kernel.syscalls import check, libc, syscall

__all__ = [
    "AT_RECURSIVE",
    "MNT_DETACH",
    "MOUNT_ATTR_NODEV",
    "MOUNT_ATTR_NOEXEC",
    "MOUNT_ATTR_NOSUID",
    "MOUNT_ATTR_RDONLY",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "Mount",
    "attach",
    "bind",
    "escape_overlay",
    "fits_page",
    "mount",
    "mount_id",
    "mount_setattr",
    "mountinfo",
    "move_mount",
    "open_in_root",
    "open_tree",
    "pivot_root",
    "umount2",
]

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000

MNT_DETACH: Final = 0x2

AT_RECURSIVE: Final = 0x8000
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_OPEN_TREE_CLONE: Final = 0x1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_RESOLVE_IN_ROOT: Final = 0x10

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_mount = libc.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_mount.restype = ctypes.c_int
_umount2 = libc.umount2
_umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_umount2.restype = ctypes.c_int


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2).

    Raises:
        OSError: naming `target`; E2BIG where `data` doesn't fit the page that the kernel copies, which
            mount(2) itself would cut off silently.
    """
    encoded = fits_page(data, target)
    check(_mount(os.fsencode(source), os.fsencode(target), fstype.encode() or None, flags, encoded or None), target)


def fits_page(data: str, target: str) -> bytes:
    """`data` as mount(2) takes it. Raises OSError, E2BIG naming `target`."""
    encoded = os.fsencode(data)
    if len(encoded) >= _PAGE:
        raise OSError(errno.E2BIG, f"mount options of {len(encoded)} bytes don't fit a page of {_PAGE}", target)
    return encoded


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2). Raises OSError naming `target`."""
    check(_umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); with ``"."`` for both, the old root ends up on top of the new one, ready to be detached.

    Raises:
        OSError: EINVAL where `new_root` is no mount point or is locked by a user namespace.
    """
    syscall("pivot_root", os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def bind(source: str, target: str, *, recursive: bool = False, readonly: bool = False) -> None:
    """A bind mount; `readonly` holds for every mount of the copied tree.

    Raises:
        OSError: EINVAL without `recursive` where `source` has locked mounts below it.
    """
    if readonly:
        fd = open_tree(source, recursive=recursive)
        try:
            attach(fd, target, MOUNT_ATTR_RDONLY, recursive=recursive)
        finally:
            os.close(fd)
    else:
        mount(source, target, "", MS_BIND | MS_REC if recursive else MS_BIND)


def open_tree(path: str, *, recursive: bool = False) -> int:
    """open_tree(2) with OPEN_TREE_CLONE (Linux 5.2): a detached copy of the mount at `path`, as an fd.

    The copy ends with the fd unless it is moved somewhere first.

    Raises:
        OSError: naming `path`; EINVAL without `recursive` where locked mounts lie below it.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return syscall("open_tree", _AT_FDCWD, os.fsencode(path), flags, path=path)


def open_in_root(root: str, path: str) -> int:
    """openat2(2) with RESOLVE_IN_ROOT (Linux 5.6): an O_PATH fd of `path` in the tree at `root`, out of which no link leads.

    Raises:
        OSError: naming `path`.
    """
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
        return syscall("openat2", directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how), path=path)
    finally:
        os.close(directory)


def mount_setattr(fd: int, attributes: int, *, clear: int = 0, recursive: bool = False) -> None:
    """mount_setattr(2) (Linux 5.12) on the mount that `fd` refers to. Raises OSError."""
    attr = _MountAttr(attributes, clear, 0, 0)
    flags = _AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr))


def move_mount(fd: int, target: str) -> None:
    """move_mount(2) (Linux 5.2): attach the detached mount of `fd` at `target`. Raises OSError naming `target`."""
    syscall("move_mount", fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH, path=target)


def attach(fd: int, target: str, attributes: int, *, recursive: bool = False) -> None:
    """Attach the detached tree of `fd` at `target`, each mount of it with `attributes`.

    Before Linux 5.12 the attributes are set afterwards, one visible mount after the other.

    Raises:
        OSError: naming the mount point.
    """
    try:
        mount_setattr(fd, attributes, recursive=recursive)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    else:
        move_mount(fd, target)
        return
    move_mount(fd, target)
    wanted = sum(flag for attribute, flag in _FLAG_OF.items() if attributes & attribute)
    point = os.path.realpath(target)
    for mounted in mountinfo():
        if (mounted.point == point or (recursive and mounted.point.startswith(f"{point}/"))) and _is_visible(mounted):
            mount("", mounted.point, "", MS_REMOUNT | MS_BIND | wanted | mounted.flags)


def _is_visible(mounted: Mount) -> bool:
    """Whether its path leads to it, and to no mount that covers it."""
    try:
        fd = os.open(mounted.point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return mount_id(fd) == mounted.id
    finally:
        os.close(fd)


def mount_id(fd: int) -> int:
    """Of the mount that `fd` was opened on, as in mountinfo; -1 where the kernel doesn't tell."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    return -1


_FLAG_OF: Final = {MOUNT_ATTR_RDONLY: MS_RDONLY, MOUNT_ATTR_NODEV: MS_NODEV}


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo, its octal escapes decoded.

    Attributes:
        id: unique while the mount lives.
        parent: id of the mount it is on.
        device: ``major:minor`` of the file system.
        root: the directory (or file) of the file system that is mounted.
        point: where, seen from the reader's root.
        readonly: the mount or its file system is read-only.
        flags: MS_NOSUID, MS_NODEV and MS_NOEXEC, as far as they are set.
        fstype: such as ``ext4``, ``fuse.sshfs``.
        source: the device, or what the file system says instead.
        options: of the file system itself (``rw,memory``).
    """

    id: int
    parent: int
    device: str
    root: str
    point: str
    readonly: bool
    flags: int
    fstype: str
    source: str
    options: tuple[str, ...]


_FLAGS: Final = {b"nosuid": MS_NOSUID, b"nodev": MS_NODEV, b"noexec": MS_NOEXEC}


def _unescape(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))


def mountinfo(pid: int | str = "self") -> list[Mount]:
    """The mounts that `pid` sees, in the kernel's order: a later one at the same point covers an earlier one.

    Raises:
        OSError: no such process, or not allowed to look.
    """
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        return [_parse(line) for line in file]


def _parse(line: bytes) -> Mount:
    fields = line.rstrip(b"\n").split(b" ")
    # Optional fields (propagation) end at a lone "-"; a mount point can't be one, since it starts with a slash.
    dash = fields.index(b"-", 6)
    fstype, source, options = fields[dash + 1 : dash + 4]
    flags = fields[5].split(b",")
    super_options = tuple(_unescape(options).split(","))
    return Mount(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=fields[2].decode(),
        root=_unescape(fields[3]),
        point=_unescape(fields[4]),
        flags=sum(number for name, number in _FLAGS.items() if name in flags),
        readonly=b"ro" in flags or "ro" in super_options,
        fstype=_unescape(fstype),
        source=_unescape(source),
        options=super_options,
    )


def escape_overlay(path: str) -> str:
    r"""`path` as overlay's lowerdir, upperdir and workdir want it: ``\``, ``:`` and ``,`` after a backslash."""
    return re.sub(r"([\\:,])", r"\\\1", path)
