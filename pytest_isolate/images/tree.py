"""A layer's directory while it is being filled: nothing is ever made outside of it, whatever the names say.

Every directory on the way to a name is opened by itself, relative to the one above, and never through a symbolic link
(`O_NOFOLLOW`); what is there is known from what was made. A member below a symbolic link goes where the link points if that is
a relative one within the tree, as in images whose /lib is a link to usr/lib; any other link in the way is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from pytest_isolate.images.lower import Lower
from pytest_isolate.images.owners import Owners
from pytest_isolate.images.tree_record import LABEL, Entry
from pytest_isolate.model.errors import ImageError

__all__ = ["Directory", "Notes", "Tree"]

_OPEN_DIRECTORIES: Final = 200
_MOST_LINKS: Final = 40
"""As the kernel follows in one path (path_resolution(7))."""


@dataclass(slots=True)
class Directory:
    """What is set when all is in it, for each name that is made in a directory changes its time.

    Attributes:
        xattrs: overlayfs's own not among them.
        mtime: nanoseconds; None: not set.
    """

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)
    opaque: bool = False


class Notes:
    """What differs from the archive, counted by reason, with the first names."""

    _SHOWN: Final = 3

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}
        self._count: dict[str, int] = {}

    def add(self, reason: str, name: bytes) -> None:
        self._count[reason] = self._count.get(reason, 0) + 1
        names = self._found.setdefault(reason, [])
        if len(names) < self._SHOWN:
            names.append(os.fsdecode(name).encode("utf-8", "backslashreplace").decode())

    def sentences(self) -> list[str]:
        return [
            f"{reason}: {self._count[reason]} ({', '.join(names)}{', …' if self._count[reason] > len(names) else ''})"
            for reason, names in self._found.items()
        ]


class Tree:
    """
    Args:
        root: fd of the empty directory. It stays the caller's.
        lower: the layers below.

    Attributes:
        entries: what was made, by path; the root is ``b""``.
        directories: what its directories are to be, by path.
    """

    def __init__(self, root: int, lower: Lower, owners: Owners, notes: Notes) -> None:
        self.root = root
        self._lower, self._owners, self.notes = lower, owners, notes
        self._ids = os.geteuid(), os.getegid()
        self.entries: dict[bytes, Entry] = {b"": Entry("d")}
        self.directories: dict[bytes, Directory] = {}
        self._fds: dict[bytes, int] = {}
        self._real: dict[bytes, bytes] = {}
        self._owned: dict[tuple[int, int], tuple[tuple[int, int] | None, int, int, bool]] = {}
        self._files = 0
        self._imply(b"")

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def place(self, path: bytes) -> tuple[bytes, bytes, int]:
        """Path, name and fd of the parent directory for a path of the archive, its parents made where they are missing.

        Raises:
            ImageError: it leads out of the tree, or below something that is no directory.
        """
        above, _, name = path.rpartition(b"/")
        real = self._real.get(above)
        if real is None:
            real = self.directory(above)
        return (real + b"/" + name if real else name), name, self.fd(real)

    def directory(self, path: bytes) -> bytes:
        """Where the directory `path` of the archive is in the tree; made if it isn't there."""
        if path not in self._real:
            self._real[path] = self._walk(b"", path, make=True)
        return self._real[path]

    def is_replaced(self, path: bytes) -> bool:
        """Whether this layer has something at `path`, or on its way, that is no directory: it hides all that was there.

        umoci takes away one by one the files of a directory that became a file or a link, and names them below that.
        """
        names = path.split(b"/")
        entries = (self.entries.get(b"/".join(names[:count])) for count in range(1, len(names) + 1))
        return any(entry is not None and entry.kind not in "dw" for entry in entries)

    def find(self, path: bytes) -> bytes | None:
        """Where `path` of the archive is in the tree, its last name not followed; None: it isn't there."""
        above, _, name = path.rpartition(b"/")
        with suppress(LookupError):
            real = self._walk(b"", above, make=False)
            whole = real + b"/" + name if real else name
            return whole if whole in self.entries else None
        return None

    def fd(self, path: bytes) -> int:
        """Of a directory of the tree (O_PATH), open until others were asked for since."""
        if not path:
            return self.root
        found = self._fds.pop(path, None)
        if found is not None:
            self._fds[path] = found  # the one that was asked for last is closed last
            return found
        above, _, name = path.rpartition(b"/")
        parent = self.fd(above)
        while len(self._fds) >= _OPEN_DIRECTORIES:
            oldest = next(iter(self._fds))
            os.close(self._fds.pop(oldest))
            parent = self.fd(above)
        found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        self._fds[path] = found
        return found

    def _walk(self, start: bytes, path: bytes, *, make: bool, links: int = 0) -> bytes:
        """Raises LookupError where something isn't there and isn't to be made."""
        real = start
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            if name == b"..":  # only in the target of a link
                if not real:
                    raise ImageError("a symbolic link on its way leads out of the root")
                real = real.rpartition(b"/")[0]
                continue
            child = real + b"/" + name if real else name
            target = self._target(child)
            if target is not None:
                real = self._follow(child, target, make=make, links=links)
                continue
            entry = self.entries.get(child)
            if entry is None or entry.kind == "w":
                if not make:
                    raise LookupError
                self.make_directory(child)
                if entry is None:
                    self._imply(child)
            elif entry.kind != "d":
                raise ImageError(f"{os.fsdecode(child)!r} on its way is no directory")
            real = child
        return real

    def _target(self, path: bytes) -> bytes | None:
        """Of a symbolic link at `path` of the tree, or in the layers below where the tree has nothing; None: there is none."""
        entry = self.entries.get(path)
        if entry is not None:
            return entry.content if entry.kind == "l" else None
        found = self._lower.find(path)
        return os.readlink(found[0]) if found is not None and stat.S_ISLNK(found[1].st_mode) else None

    def _follow(self, link: bytes, target: bytes, *, make: bool, links: int) -> bytes:
        if links >= _MOST_LINKS:
            raise ImageError("too many symbolic links on its way")
        if target.startswith(b"/"):
            raise ImageError(
                f"it lies below the symbolic link {os.fsdecode(link)!r}, which leads out of the root: {os.fsdecode(target)!r}"
            )
        return self._walk(link.rpartition(b"/")[0], target, make=make, links=links + 1)

    def make_directory(self, path: bytes) -> None:
        """A directory at `path` of the tree, in place of what is there; opaque where that was a whiteout."""
        above, _, name = path.rpartition(b"/")
        hidden = self.remove(path)
        os.mkdir(name, 0o700, dir_fd=self.fd(above))
        self.entries[path] = Entry("d")
        self.directories[path] = Directory(opaque=hidden)

    def _imply(self, path: bytes) -> None:
        """What a directory that the archive doesn't speak of looks like."""
        made = self.directories.setdefault(path, Directory())
        found = self._lower.find(path)
        if found is None or not stat.S_ISDIR(found[1].st_mode):
            return
        place, status = found
        made.mode = stat.S_IMODE(status.st_mode)
        made.uid, made.gid = self._owners.meant(status.st_uid, status.st_gid)
        made.mtime = status.st_mtime_ns
        for name in os.listxattr(place, follow_symlinks=False):
            if not name.startswith((self._owners.attribute, "trusted.overlay.")) and name != LABEL:
                made.xattrs[name] = os.getxattr(place, name, follow_symlinks=False)

    def remove(self, path: bytes) -> bool:
        """What is at `path` of the tree, directories with all that is in them. Returns whether it was a whiteout."""
        entry = self.entries.get(path)
        if entry is None:
            return False
        if entry.kind == "d":
            below = path + b"/"
            inside = sorted((each for each in self.entries if each.startswith(below)), reverse=True)
            for each in inside:
                self._remove_one(each)
        self._remove_one(path)
        if entry.kind in ("d", "l"):
            self._real.clear()
        return entry.kind == "w"

    def _remove_one(self, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        if (fd := self._fds.pop(path, None)) is not None:
            os.close(fd)
        parent = self.fd(above)
        if self.entries.pop(path).kind == "d":
            del self.directories[path]
            os.rmdir(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)

    def identity(self) -> int:
        """A new one for the names of one file."""
        self._files += 1
        return self._files

    def owner(self, path: bytes, uid: int, gid: int) -> tuple[tuple[int, int] | None, int, int]:
        """Ids to give to a new file (None: it has them), and what is written down of them."""
        found = self._owned.get((uid, gid))
        if found is None:
            one, other, kept = self._owners.stored(uid, gid)
            found = self._owned[uid, gid] = (
                None if (one, other) == self._ids else (one, other),
                *self._owners.meant(one, other),
                kept,
            )
        ids, meant_uid, meant_gid, kept = found
        if not kept:
            self.notes.add(_SQUASHED if self._owners.squashed else _UNMAPPED, path)
        return ids, meant_uid, meant_gid

    def meant(self, uid: int, gid: int) -> tuple[int, int]:
        """See `Owners.meant`."""
        return self._owners.meant(uid, gid)

    def set_xattrs(self, path: bytes, target: int | bytes, wanted: dict[str, bytes]) -> dict[str, bytes]:
        """Set what can be set; the rest is noted.

        Args:
            target: an fd, or a path whose last name isn't followed.

        Returns:
            What is set.
        """
        done = {}
        for name, value in wanted.items():
            if name.startswith(("trusted.overlay.", "user.overlay.")):
                self.notes.add(f"extended attribute {name} left out, it would tell overlayfs something", path)
                continue
            try:
                stored = self._owners.stored_xattr(name, value)
                if isinstance(target, int):
                    os.setxattr(target, name, stored)
                else:
                    os.setxattr(target, name, stored, follow_symlinks=False)
            except OSError as error:
                self.notes.add(f"extended attribute {name} can't be set here ({error.strerror})", path)
            else:
                done[name] = value
        return done

    def finish(self, progress: Callable[[], None] | None = None) -> None:
        """Give the directories what they are to have, the innermost first."""
        for path in sorted(self.directories, reverse=True):
            made, entry = self.directories[path], self.entries[path]
            entry.mode = made.mode
            ids, entry.uid, entry.gid = self.owner(path, made.uid, made.gid)
            above, _, name = path.rpartition(b"/")
            fd = os.open(name or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd(above))
            try:
                if ids:
                    os.fchown(fd, *ids)
                os.fchmod(fd, made.mode)
                if made.xattrs:
                    entry.xattrs = self.set_xattrs(path, fd, made.xattrs)
                if made.opaque:
                    os.setxattr(fd, f"{self._owners.attribute}opaque", b"y")
                    entry.xattrs["overlay.opaque"] = b"y"
                if made.mtime is not None:
                    os.utime(fd, ns=(made.mtime, made.mtime))
            finally:
                os.close(fd)
            if progress is not None:
                progress()


_SQUASHED: Final = "owned by root instead, since the caller has no subordinate ids"
_UNMAPPED: Final = "owned by root instead, since the caller has too few subordinate ids"
