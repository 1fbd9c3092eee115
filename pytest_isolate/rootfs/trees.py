"""Rootless: which of the user's trees get an overlay, and what is done with one that has mounts below it.

In a user namespace the mounts of the host are locked together, and overlay refuses a lower directory with
locked mounts below it (EINVAL): it would show what they cover. Such a tree (/tmp with a bound /tmp/.X11-unix)
is taken apart: an overlay over a skeleton of it, made once per run, and in that an overlay for each directory
that has no mounts below it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pytest_isolate.kernel.mounts import Mount
from pytest_isolate.model.paths import outermost, within
from pytest_isolate.rootfs.layout import HOST, SKELETONS, Bound, Layer, Skeleton, Trees
from pytest_isolate.rootfs.plan import Directory
from pytest_isolate.rootfs.survey import KERNEL_TYPES, OWN_TREES, around

__all__ = ["COPIED", "copy_file", "make_skeletons", "user_trees"]

_MOST_LAYERS: Final = 48
"""Overlays of one run's sandboxes; each costs about 0.1 ms of every test."""

COPIED: Final = 65536
"""Files up to this size are copied into a skeleton, larger ones bound read-only."""


def user_trees(mounts: Sequence[Mount], trees: Sequence[str]) -> Trees:
    """Decide for those of `trees` that exist, can be entered and aren't inside another one. Mounts nothing."""
    found = _Finding(mounts)
    for tree in _outermost(trees):
        mount = around(tree, mounts)
        if mount and mount.readonly:
            found.notes.append(f"{tree} is read-only inside, as on the host")
        else:
            found.cover(tree)
    return Trees(tuple(found.layers), tuple(found.binds), tuple(found.skeletons), tuple(found.notes))


def _outermost(trees: Sequence[str]) -> list[str]:
    real = {os.path.realpath(tree) for tree in trees if os.path.isdir(tree) and os.access(tree, os.R_OK | os.X_OK)}
    usable = {tree for tree in real if tree != "/" and not any(within(tree, own) for own in OWN_TREES)}
    return sorted(outermost(usable))


@dataclass
class _Finding:
    """The decisions so far."""

    mounts: Sequence[Mount]
    layers: list[Layer] = field(default_factory=list)
    binds: list[Bound] = field(default_factory=list)
    skeletons: list[Skeleton] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def cover(self, path: str) -> None:
        """An overlay of `path`, or of a skeleton and what is in it."""
        try:
            status = os.stat(path)
            entries = sorted(os.scandir(path), key=lambda entry: entry.name) if self._split(path) else None
        except OSError as error:
            self.notes.append(f"{path} is read-only inside: {error.strerror}")
            self.binds.append(Bound(path, recursive=True))
            return
        directory = Directory(stat.S_IMODE(status.st_mode))
        mount = around(path, self.mounts)
        flags = mount.flags if mount else 0
        if entries is None:
            self.layers.append(Layer(path, directory, HOST + path, flags))
            return
        name = f"{SKELETONS}/{len(self.skeletons)}"
        self.layers.append(Layer(path, directory, name, flags))
        self.notes.append(f"{path} has mounts below it: its larger files are read-only, its directories can't be renamed")
        # Reserve the place: what is found below comes after.
        place = len(self.skeletons)
        self.skeletons.append(Skeleton(path, name, (), (), ()))
        self.skeletons[place] = Skeleton(path, name, *self._outline(entries))

    def _split(self, path: str) -> bool:
        on = around(path, self.mounts)
        return any(on and mount.parent == on.id and mount.point != path and within(mount.point, path) for mount in self.mounts)

    def _outline(self, entries: list[os.DirEntry[str]]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        directories, copies, points = [], [], []
        for entry in entries:
            if entry.is_symlink():
                copies.append(entry.name)
            elif entry.is_dir():
                directories.append(entry.name)
                self._directory(entry.path)
            elif entry.is_file():
                status = entry.stat()
                if status.st_size <= COPIED and os.access(entry.path, os.R_OK) and not self._mounted(entry.path):
                    copies.append(entry.name)
                else:
                    points.append(entry.name)
                    self.binds.append(Bound(entry.path, recursive=True))
        return tuple(directories), tuple(copies), tuple(points)

    def _mounted(self, path: str) -> Mount | None:
        mount = around(path, self.mounts)
        return mount if mount and mount.point == path else None

    def _directory(self, path: str) -> None:
        mount = self._mounted(path)
        if mount and (mount.readonly or mount.fstype in KERNEL_TYPES):
            self.binds.append(Bound(path, recursive=True))
        elif len(self.layers) >= _MOST_LAYERS:
            self.notes.append(f"{path} is read-only inside: more than {_MOST_LAYERS} overlays would slow down every test")
            self.binds.append(Bound(path, recursive=True))
        else:
            self.cover(path)


def make_skeletons(skeletons: Sequence[Skeleton]) -> Iterator[str]:
    """Make them in the working directory, the workspace; yields a note for each file that vanished meanwhile.

    Raises:
        OSError
    """
    for skeleton in skeletons:
        os.makedirs(skeleton.name)
        for name in skeleton.directories:
            os.mkdir(f"{skeleton.name}/{name}", 0o755)
        for name in skeleton.points:
            os.close(os.open(f"{skeleton.name}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for name in skeleton.copies:
            source = f"{skeleton.path}/{name}"
            try:
                copy_file(source, f"{skeleton.name}/{name}")
            except OSError as error:
                yield f"{source} is missing inside: {error.strerror}"


def copy_file(source: str, target: str) -> None:
    """A small file or a symbolic link; mode and times too. By hand: shutil would be the builder's largest import."""
    status = os.lstat(source)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
        return
    with open(source, "rb") as original, open(target, "xb") as copy:
        copy.write(original.read())
        copy.flush()  # a write would take set-id bits away
        os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
