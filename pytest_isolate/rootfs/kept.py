"""What a sandbox wrote as a directory: made from its upper layer, and put into the upper layer of another one.

A kept directory has one directory for each overlay that was written to, by number, in overlayfs's format, and `ABOUT`, which says what they
are. The directories can be mounted as layers.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from pytest_isolate.kernel.calls import NOW, Calls
from pytest_isolate.kernel.removal import remove_tree
from pytest_isolate.model.errors import SetupError
from pytest_isolate.rootfs.changes import Tree, trees_of
from pytest_isolate.rootfs.copying import PRIVILEGED, UNPRIVILEGED, copy_tree
from pytest_isolate.rootfs.plan import HINTS, UPPER, Operation, Plan, Upper

__all__ = ["ABOUT", "export", "reopened"]

ABOUT: Final = "kept.json"
_FORMAT: Final = 1
_HALF: Final = ".half"
_READ: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def export(upper: int, trees: Sequence[Tree], directory: int, name: str, about: dict[str, Any], *, rootless: bool) -> list[str]:
    """Make the kept directory `name`, in place of one that is there. It appears whole or not at all.

    Args:
        upper: descriptor of the upper layer, of a sandbox in which nothing runs any more.
        directory: descriptor of the directory that it is to be in.
        about: goes into `ABOUT`, beside what is said here.

    Returns:
        What was left out, a sentence each.

    Raises:
        OSError: nothing of it stays.
    """
    _sweep(directory)
    half = f".{name[:200]}.{os.getpid()}{_HALF}"
    os.mkdir(half, 0o700, dir_fd=directory)
    try:
        notes, described = [], []
        top = os.open(half, _READ, dir_fd=directory)
        try:
            for tree in trees:
                if (left_out := _export_tree(upper, tree, top, UNPRIVILEGED if rootless else PRIVILEGED)) is not None:
                    notes += [f"{tree.path}: {note}" for note in left_out]
                    described.append({"number": tree.number, "path": tree.path, "lower": "host"})
            whole = {
                "format": _FORMAT,
                "attributes": UNPRIVILEGED if rootless else PRIVILEGED,
                "trees": described,
                "notes": notes,
                **about,
            }
            fd = os.open(ABOUT, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=top)
            with open(fd, "w", encoding="ascii") as file:
                json.dump(whole, file, indent=1)
        finally:
            os.close(top)
        _replace(half, name, directory)
    except BaseException:
        remove_tree(half, directory)
        raise
    return notes


def _export_tree(upper: int, tree: Tree, top: int, prefix: str) -> list[str] | None:
    """What was left out; None for a tree to which nothing was written."""
    number = str(tree.number)
    source = os.open(number, _READ | os.O_NOFOLLOW, dir_fd=upper)
    try:
        if not os.listdir(source) and stat.S_IMODE(os.fstat(source).st_mode) == tree.root.mode:
            return None
        os.mkdir(number, 0o700, dir_fd=top)
        target = os.open(number, _READ, dir_fd=top)
        try:
            return copy_tree(source, target, prefix, dotted=tree.dotted)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _sweep(directory: int) -> None:
    """Remove what killed builders have left half made."""
    for name in os.listdir(directory):
        pid = name.removesuffix(_HALF).rpartition(".")[2]
        if name.startswith(".") and name.endswith(_HALF) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            with suppress(OSError):  # another one's
                remove_tree(name, directory)


def _replace(half: str, name: str, directory: int) -> None:
    """Give the finished directory its name; what had it goes."""
    old = f".old{half}"  # ends as the other one does, with the process that made it
    try:
        os.rename(half, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        os.rename(name, old, src_dir_fd=directory, dst_dir_fd=directory)
        os.rename(half, name, src_dir_fd=directory, dst_dir_fd=directory)
        remove_tree(old, directory)


@dataclass(frozen=True, slots=True)
class Refill(Operation):
    """The upper layer begins as a copy of a kept directory.

    Attributes:
        numbers: for each directory of it, the overlay that it belongs to now.
    """

    step: ClassVar[str] = "reopen"
    target: str
    numbers: tuple[tuple[int, int], ...]
    prefix: str

    def describe(self) -> str:
        return f"writes begin as a copy of {self.target}"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        del root, calls  # never written down: it looks at what is there
        for kept, now in self.numbers:
            source = os.open(f"{self.target}/{kept}", _READ)
            target = os.open(f"{UPPER}/{now}", _READ)
            try:
                copy_tree(source, target, self.prefix)
            finally:
                os.close(source)
                os.close(target)

    def hint(self, number: int) -> str:
        if number == errno.ENOSPC:
            return "give it more room: disk="
        return HINTS.get(number, "")


def reopened(plan: Plan, directory: str, *, rootless: bool) -> Plan:
    """`plan`, its writable layer beginning as the kept directory.

    Raises:
        SetupError: it is none, or was made by a sandbox with other writable trees.
    """
    try:
        with open(f"{directory}/{ABOUT}", encoding="ascii") as file:
            trees = [(tree["number"], tree["path"]) for tree in json.load(file)["trees"]]
    except OSError as error:
        raise SetupError.from_os_error("reopen", error, directory) from None
    except (ValueError, LookupError, TypeError) as error:
        raise SetupError("reopen", directory, detail=f"{ABOUT} isn't what was written there: {error!r}") from None
    now = {tree.path: tree.number for tree in trees_of(plan, "")}
    if missing := [path for _, path in trees if path not in now]:
        detail = f"{', '.join(missing)} had a writable layer of its own, and has none now"
        raise SetupError("reopen", directory, detail=detail, hint="run it as the same user, with the same mounts")
    refill = Refill(directory, tuple((number, now[path]) for number, path in trees), UNPRIVILEGED if rootless else PRIVILEGED)
    place = next(index for index, step in enumerate(plan.outside) if isinstance(step, Upper)) + 1
    return replace(plan, outside=(*plan.outside[:place], refill, *plan.outside[place:]))
