"""What a sandbox did to its files: its upper directories, read as overlayfs wrote them, against what lies below them.

As ``docker diff`` tells it, with one difference: a directory is changed (C) where its own mode, owner or attributes are, not
where something in it is. A file is changed where overlayfs copied it up: it was opened for writing, or its mode, owner,
times or attributes were set. What was there before is looked up in the layers as they are now; a file of the host that came
or went meanwhile is taken for what it is now.

The upper is walked by descriptors, never by a path that leads through it, because the sandbox may still be writing: a directory
that becomes a symbolic link meanwhile leads nowhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pytest_isolate.kernel.overlay_marks import DOTTED, OPAQUE_FILE, PRIVATE, is_whiteout, read_attributes, read_marks
from pytest_isolate.model.changes import MOST, Change, Changes, Kind
from pytest_isolate.rootfs.fuse import FuseOverlay
from pytest_isolate.rootfs.in_root import InRoot
from pytest_isolate.rootfs.inputs import FileOverlay
from pytest_isolate.rootfs.lower import Found, Lower
from pytest_isolate.rootfs.plan import Directory, Overlay, Plan, Upper

__all__ = ["Tree", "changes", "points_of", "trees_of"]

_DEEPEST: Final = 200
"""Levels of directories: each holds a descriptor open while it is looked through."""

_ATTRIBUTES: Final = ("user.", "system.posix_acl_")
"""Of a directory, what a test can set. Labels of security modules differ from file system to file system."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One overlay of a sandbox.

    Attributes:
        number: name of its directory in the upper layer.
        path: where it is inside.
        lowers: absolute paths of what it covers, top to bottom.
        root: mode and owner that its directory had at first.
        dotted: fuse-overlayfs serves it, which may spell whiteouts as names.
    """

    number: int
    path: str
    lowers: tuple[str, ...]
    root: Directory
    dotted: bool = False


def trees_of(plan: Plan, workspace: str) -> list[Tree]:
    """The overlays of a sandbox that is mounted as `plan` says."""
    steps = [step.operation if isinstance(step, InRoot) else step for step in (*plan.outside, *plan.inside)]
    (upper,) = (step for step in steps if isinstance(step, Upper))
    return [
        Tree(
            step.number,
            os.path.dirname(step.target) if isinstance(step, FileOverlay) else step.target,
            tuple(f"{workspace}/{lower}" for lower in step.lowers),
            upper.directories[step.number],
            isinstance(step, FuseOverlay),
        )
        for step in steps
        if isinstance(step, (Overlay, FuseOverlay, FileOverlay))
    ]


def points_of(plan: Plan) -> frozenset[str]:
    """What something is mounted on, and the directories on the way there: where they aren't in the layers, the plan made them."""
    points = set[str]()
    for step in (*plan.outside, *plan.inside):
        path = step.target
        while path.startswith("/") and path not in points:
            points.add(path)
            path = os.path.dirname(path)
    return frozenset(points)


def changes(upper: int, trees: Sequence[Tree], points: Collection[str] = (), most: int = MOST) -> Changes:
    """What was written.

    Args:
        upper: descriptor of the upper layer, O_PATH will do.
        points: paths that aren't told where they were added (`points_of`).

    Raises:
        OSError: the upper layer can't be read.
    """
    walk = _Walk(points, most)
    for tree in trees:
        walk.tree(upper, tree)
    return Changes(sorted(walk.found, key=lambda change: os.fsencode(change.path)), truncated=walk.truncated)


class _Walk:
    """Through the trees of one sandbox.

    Attributes:
        found: so far.
        truncated: not everything was looked at.
    """

    def __init__(self, points: Collection[str], most: int) -> None:
        self.found: list[Change] = []
        self.truncated = False
        self._points = points
        self._most = most
        self._root = Lower.root(())
        self._dotted = False

    def tree(self, upper: int, tree: Tree) -> None:
        self._root = Lower.root(tree.lowers)
        self._dotted = tree.dotted
        with _directory(str(tree.number), upper) as fd:
            if fd is None:
                return
            status, root = os.fstat(fd), tree.root
            owner = (status.st_uid, status.st_gid)
            if stat.S_IMODE(status.st_mode) != root.mode or (root.uid is not None and owner != (root.uid, root.gid)):
                self._tell("C", tree.path)
            self._inside(_Place(fd, "" if tree.path == "/" else tree.path, self._root, self._root), 0)

    def _inside(self, place: _Place, depth: int) -> None:
        """Everything in a directory."""
        if depth > _DEEPEST:
            self.truncated = True
            return
        names, gone = self._entries(place.fd)
        if not place.merged:
            for other in (place.source, place.base):
                names |= other.names() if other is not None else set()
        for name in sorted(names):
            if len(self.found) >= self._most:
                self.truncated = True
                return
            self._entry(place, name, depth, gone=name in gone)

    def _entries(self, fd: int | None) -> tuple[set[str], set[str]]:
        """Names that an upper directory says something of, and those of them that are gone by fuse-overlayfs's spelling."""
        names = set(os.listdir(fd)) if fd is not None else set[str]()
        if not self._dotted:
            return names, set()
        marks = {name for name in names if name.startswith(DOTTED)}
        gone = {name.removeprefix(DOTTED) for name in marks - {OPAQUE_FILE}}
        return (names - marks) | gone, gone

    def _entry(self, place: _Place, name: str, depth: int, *, gone: bool) -> None:
        path = f"{place.path}/{name}"
        before = place.base.find(name) if place.base is not None else None
        below = before if place.merged else place.source.find(name) if place.source is not None else None
        own = _status(name, place.fd) if place.fd is not None else None
        if gone or (own is not None and is_whiteout(own)):
            if before is not None:
                self._tell("D", path, before.status)
        elif own is not None and stat.S_ISDIR(own.st_mode):
            assert place.fd is not None
            self._directory(place.fd, name, path, before, below, place.source, depth)
        elif own is not None:
            self._tell_present(path, own, before)
        elif below is None:
            if before is not None:
                self._tell("D", path, before.status)
        elif before is None or below.path != before.path or below.directory != before.directory:
            self._moved(path, before, below, depth)

    def _directory(
        self, fd: int, name: str, path: str, before: Found | None, below: Found | None, source: Lower | None, depth: int
    ) -> None:
        """A directory of the upper layer."""
        with _directory(name, fd) as inner:
            if inner is None:  # not any more
                return
            marks = read_marks(inner)
            if marks.opaque or (self._dotted and OPAQUE_FILE in os.listdir(inner)):
                shown = None
            elif marks.redirect:
                start = self._root if marks.redirect.startswith("/") else source
                shown = start.below(marks.redirect) if start is not None else None
            else:
                shown = below.directory if below is not None else None
            if before is None or before.directory is None:
                self._tell_present(path, os.fstat(inner), before)
            elif _traits(os.fstat(inner), inner) != _traits(before.status, before.path):
                self._tell("C", path)
            self._inside(_Place(inner, path, before.directory if before is not None else None, shown), depth + 1)

    def _moved(self, path: str, before: Found | None, below: Found, depth: int) -> None:
        """What came along with a renamed directory."""
        self._tell_present(path, below.status, before)
        if below.directory is not None:
            base = before.directory if before is not None else None
            self._inside(_Place(None, path, base, below.directory), depth + 1)

    def _tell_present(self, path: str, status: os.stat_result, before: Found | None) -> None:
        if before is not None:
            self._tell("C", path, status)
        elif path not in self._points:
            self._tell("A", path, status)

    def _tell(self, kind: Kind, path: str, status: os.stat_result | None = None) -> None:
        size = status.st_size if status is not None and stat.S_ISREG(status.st_mode) else 0
        self.found.append(Change(kind, path, size))


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory on the way.

    Attributes:
        fd: of the upper directory, None where all of it comes from `source`.
        path: inside; of the root empty.
        base: what was there before, None if nothing was.
        source: what shows through now: `base`, nothing below an opaque directory, something else below a renamed one.
    """

    fd: int | None
    path: str
    base: Lower | None
    source: Lower | None

    @property
    def merged(self) -> bool:
        """Whether what isn't in the upper directory is as it was."""
        return self.source == self.base


@contextmanager
def _directory(name: str, parent: int) -> Iterator[int | None]:
    """A descriptor of a directory in another one; None if it is none (any more)."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _status(name: str, parent: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _traits(status: os.stat_result, directory: int | str) -> tuple[object, ...]:
    """What is a directory's own."""
    attributes = read_attributes(directory, _ATTRIBUTES)
    own = {name: value for name, value in attributes.items() if not name.startswith(PRIVATE)}
    return status.st_mode, status.st_uid, status.st_gid, own
