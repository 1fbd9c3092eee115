"""From a layer's archive to a directory in overlayfs's format.

Whiteouts (``.wh.NAME``) become character devices 0/0, opaque directories (``.wh..wh..opq``) the attribute ``overlay.opaque`` (OCI
image-spec, layer.md; overlayfs.rst). A whiteout hides what is below its layer, never what the layer itself holds, in whatever order.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pytest_isolate.images.compression import Limits, Pipeline
from pytest_isolate.images.content import Content, Hasher, copy_contents
from pytest_isolate.images.lower import Lower
from pytest_isolate.images.owners import Owners
from pytest_isolate.images.tar_reader import Member, TarReader, shown_name
from pytest_isolate.images.tree import Directory, Notes, Tree
from pytest_isolate.images.tree_record import Entry
from pytest_isolate.model.errors import ImageError

__all__ = ["NO_END", "Unpacked", "unpack"]

NO_END: Final = "truncated: it has no end-of-archive blocks"

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_AUFS: Final = b".wh..wh."
"""Names of aufs's own files, which aren't the image's."""

_LONGEST_PATH: Final = 4095
_LARGE: Final = 1 << 15
"""Bytes: a file from here on is hashed in the other thread; handing it over costs as much as hashing a few pages."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Unpacked:
    """
    Attributes:
        diff_id: sha256 of the archive, uncompressed, in hexadecimal.
        digest: sha256 of it as it lies.
        entries: what is there now.
        size: bytes of files, holes included.
    """

    diff_id: str
    digest: str
    entries: dict[bytes, Entry]
    size: int


def unpack(
    pipeline: Pipeline, root: int, lower: Lower, owners: Owners, notes: Notes, limits: Limits, *, strict: bool
) -> Unpacked:
    """Fill the empty directory `root` with what the archive holds.

    The caller's umask is 0.

    Args:
        strict: an archive without its two last blocks is truncated. Where a digest says what is whole, some tools leave them out.

    Raises:
        ImageError: see `TarReader`, and for whatever would touch something outside; named by member.
    """
    whole = hashlib.sha256()
    hasher = Hasher()
    tree = Tree(root, lower, owners, notes)
    try:
        work = _Unpacker(tree, TarReader(hasher.passing(pipeline, whole)), hasher, limits, lower, strict=strict)
        work.run()
        tree.finish()
    finally:
        tree.close()
        hasher.close()
    work.write_down_contents()
    return Unpacked(whole.hexdigest(), pipeline.digest or whole.hexdigest(), tree.entries, work.size)


class _Unpacker:
    def __init__(self, tree: Tree, reader: TarReader, hasher: Hasher, limits: Limits, lower: Lower, *, strict: bool) -> None:
        self._tree, self._reader, self._hasher, self._limits, self._lower, self._strict = (
            tree,
            reader,
            hasher,
            limits,
            lower,
            strict,
        )
        self._contents: list[tuple[Entry, Content]] = []
        self.size = 0
        self._by_kind: dict[str, Callable[[bytes, Member], None]] = {
            "0": self._file, "1": self._hard_link, "2": self._link, "3": self._device, "4": self._device, "5": self._directory, "6": self._fifo,
        }  # fmt: skip

    def run(self) -> None:
        for number, member in enumerate(self._reader.members()):
            if number >= self._limits.entries:
                raise ImageError(f"more than {self._limits.entries} members in one layer")
            try:
                self._add(member)
            except ImageError as error:
                shown = shown_name(member.name)
                raise (
                    error
                    if error.message.startswith((shown, "truncated", "damaged"))
                    else ImageError(f"{shown}: {error.message}", error.hint)
                ) from None
            except OSError as error:
                raise self._failed(member, error) from error
        if not self._reader.ended and self._strict:
            raise ImageError(NO_END)

    def write_down_contents(self) -> None:
        """Once all is hashed."""
        for entry, content in self._contents:
            entry.content = content.digest()

    @staticmethod
    def _failed(member: Member, error: OSError) -> ImageError:
        hints = {
            errno.ENOSPC: "free some space, or keep the store elsewhere: --isolate-store",
            errno.EDQUOT: "free some space, or keep the store elsewhere: --isolate-store",
        }
        code = errno.errorcode.get(error.errno or 0, str(error.errno))
        return ImageError(f"{shown_name(member.name)}: {code} ({error.strerror})", hints.get(error.errno or 0, ""))

    def _add(self, member: Member) -> None:
        path = _clean(member.name)
        for lost in member.lost:
            self._tree.notes.add(f"{lost} left out", path)
        if not path:
            if member.kind != "5":
                raise ImageError("it would replace the root")
            self._describe(b"", member)
            return
        name = path.rpartition(b"/")[2]
        if name.startswith(_WHITEOUT):
            self._whiteout(path, name)
            return
        add = self._by_kind.get(member.kind)
        if add is None:
            raise ImageError(f"its type {member.kind!r} is unknown")
        add(path, member)

    def _device(self, path: bytes, _member: Member) -> None:
        self._tree.notes.add("device nodes left out", path)

    def _file(self, path: bytes, member: Member) -> None:
        self.size += member.size
        if self.size > self._limits.size:
            raise ImageError(
                f"with it, the files of the layer come to more than {self._limits.size} bytes, the cap for a layer",
                "if that is right, a larger one: layers import --max-size",
            )
        tree = self._tree
        place, name, parent = tree.place(path)
        if place in tree.entries:
            tree.remove(place)
            parent = tree.fd(place.rpartition(b"/")[0])
        mode = member.mode
        ids, uid, gid = tree.owner(place, member.uid, member.gid)
        fd = os.open(name, _CREATE, mode & 0o777 if ids is None else 0o600, dir_fd=parent)
        try:
            content = Content(fd, self._hasher if member.size >= _LARGE else None)
            if member.pieces is None:
                for piece in self._reader.data():
                    content.write(piece)
            else:
                self._pieces(content, member)
            content.end(member.size)
            if ids is not None:
                os.fchown(fd, *ids)
            if ids is not None or mode > 0o777:
                os.fchmod(fd, mode)
            xattrs = tree.set_xattrs(place, fd, member.xattrs) if member.xattrs else {}
            os.utime(fd, ns=(member.mtime, member.mtime))
        finally:
            os.close(fd)
        tree.entries[place] = entry = Entry("f", mode, uid, gid, member.size, b"", 0, xattrs)
        self._contents.append((entry, content))

    def _pieces(self, content: Content, member: Member) -> None:
        data = self._reader.data()
        rest = memoryview(b"")
        assert member.pieces is not None
        for offset, length in member.pieces:
            content.hole(offset)
            while length:
                if not rest:
                    rest = next(data)
                piece, rest = rest[:length], rest[length:]
                content.write(piece)
                length -= len(piece)  # noqa: PLW2901

    def _directory(self, path: bytes, member: Member) -> None:
        tree = self._tree
        place, _name, _parent = tree.place(path)
        entry = tree.entries.get(place)
        if entry is None or entry.kind != "d":
            tree.make_directory(place)
        self._describe(place, member)

    def _describe(self, place: bytes, member: Member) -> None:
        made = self._tree.directories[place]
        opaque = made.opaque
        self._tree.directories[place] = Directory(member.mode, member.uid, member.gid, member.mtime, member.xattrs, opaque)

    def _link(self, path: bytes, member: Member) -> None:
        if not member.link or b"\0" in member.link:
            raise ImageError("a symbolic link to nothing")
        self._special(path, member, "l", lambda name, parent: os.symlink(member.link, name, dir_fd=parent))

    def _fifo(self, path: bytes, member: Member) -> None:
        self._special(path, member, "p", lambda name, parent: os.mkfifo(name, member.mode, dir_fd=parent))

    def _special(self, path: bytes, member: Member, kind: str, make: Callable[[bytes, int], None]) -> None:
        tree = self._tree
        place, name, _ = tree.place(path)
        tree.remove(place)
        parent = tree.fd(place.rpartition(b"/")[0])
        make(name, parent)
        ids, uid, gid = tree.owner(place, member.uid, member.gid)
        if ids is not None:
            os.chown(name, *ids, dir_fd=parent, follow_symlinks=False)
        mode = 0o777 if kind == "l" else member.mode
        if kind == "p":
            os.chmod(name, mode, dir_fd=parent)
        xattrs = tree.set_xattrs(place, b"/proc/self/fd/%d/%s" % (parent, name), member.xattrs) if member.xattrs else {}
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
        tree.entries[place] = Entry(kind, mode, uid, gid, 0, member.link if kind == "l" else b"", 0, xattrs)

    def _hard_link(self, path: bytes, member: Member) -> None:
        tree = self._tree
        target = _clean(member.link)
        source = tree.find(target)
        if source is None or tree.entries[source].kind == "w":
            source = self._from_below(target, member)
        entry = tree.entries[source]
        if entry.kind == "d":
            raise ImageError(f"a hard link to the directory {shown_name(member.link)}")
        place, name, _ = tree.place(path)
        if place == source:
            return
        tree.remove(place)
        above, _, source_name = source.rpartition(b"/")
        kept = os.dup(tree.fd(above))  # asking for the other one may close it
        try:
            parent = tree.fd(place.rpartition(b"/")[0])
            os.link(source_name, name, src_dir_fd=kept, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(kept)
        entry.identity = entry.identity or tree.identity()
        tree.entries[place] = entry

    def _from_below(self, target: bytes, member: Member) -> bytes:
        """A file of a lower layer, copied up as overlayfs does before it links one."""
        tree = self._tree
        found = self._lower.find(target) if target else None
        if found is None or not (stat.S_ISREG(found[1].st_mode)):
            raise ImageError(f"a hard link to {shown_name(member.link)}, which is no file of this layer or of one below")
        source, status = found
        place, name, parent = tree.place(target)
        if place in tree.entries:
            raise ImageError(f"a hard link to {shown_name(member.link)}, which this layer takes away")
        self.size += status.st_size
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        below = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            content = copy_contents(below, fd, status.st_size)
            os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, stat.S_IMODE(status.st_mode))
            xattrs = {each: os.getxattr(below, each) for each in os.listxattr(below)}
            kept = tree.set_xattrs(place, fd, {each: value for each, value in xattrs.items() if ".overlay." not in each})
            os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(below)
            os.close(fd)
        uid, gid = tree.meant(status.st_uid, status.st_gid)
        tree.entries[place] = Entry("f", stat.S_IMODE(status.st_mode), uid, gid, status.st_size, content, tree.identity(), kept)
        return place

    def _whiteout(self, path: bytes, name: bytes) -> None:
        tree = self._tree
        above = path.rpartition(b"/")[0]
        if above and self._tree.is_replaced(above):
            return
        if name == _OPAQUE:
            tree.directories[tree.directory(above)].opaque = True
            return
        if name.startswith(_AUFS):
            return
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise ImageError("a whiteout of no name")
        place, hidden, parent = tree.place(above + b"/" + hidden if above else hidden)
        entry = tree.entries.get(place)
        if entry is None:
            os.mknod(hidden, stat.S_IFCHR | 0o000, 0, dir_fd=parent)
            tree.entries[place] = Entry("w")
        elif entry.kind == "d":
            tree.directories[place].opaque = True


def _clean(name: bytes) -> bytes:
    """Without ``.`` and double slashes; the root is ``b""``. Raises ImageError for what leads out."""
    if name.startswith(b"/") and name.strip(b"/"):  # umoci insert calls the root so
        raise ImageError("an absolute path")
    if b"\0" in name:
        raise ImageError("a name with a NUL in it")
    if not name:
        raise ImageError("an empty name")
    name = name.removeprefix(b"./")
    if b"//" in name or b"./" in name or name.endswith((b"/", b".")) or name.startswith(b"/"):
        parts = name.split(b"/")
        if b".." in parts:
            raise ImageError("a path with '..'")
        name = b"/".join(part for part in parts if part not in (b"", b"."))
    if len(name) > _LONGEST_PATH:
        raise ImageError(f"ENAMETOOLONG ({os.strerror(errno.ENAMETOOLONG)})")
    return name
