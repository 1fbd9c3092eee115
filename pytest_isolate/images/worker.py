"""The process that unpacks, copies, reads and removes layers: a fresh interpreter, in a user namespace where the caller isn't root.

It may be killed at any moment: what it makes lies in a directory of `tmp/` until its caller renames it. It ends with its caller,
by SIGKILL too (a thread polls the caller's pidfd).
"""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pytest_isolate.images.compression import Limits, Pipeline
from pytest_isolate.images.copying import copy_tree, entries_of
from pytest_isolate.images.lower import Lower
from pytest_isolate.images.owners import Owners
from pytest_isolate.images.tar_writer import write_layer
from pytest_isolate.images.tree import Notes
from pytest_isolate.images.tree_record import Entry, differences, digest, lines
from pytest_isolate.images.unpack import unpack
from pytest_isolate.kernel.channel import Channel
from pytest_isolate.kernel.fresh_interpreter import ignore_terminal
from pytest_isolate.kernel.removal import remove_tree
from pytest_isolate.machine.user_namespace import enter_user_namespace
from pytest_isolate.model.errors import ImageError, IsolateError

__all__ = ["main"]

_DEEPEST: Final = 20_000
"""Directories in each other: two functions for each."""
_REPORTED: Final = 0.1
"""Seconds between two reports of progress."""
_BATCH: Final = 200
_OPAQUE: Final = "overlay.opaque"


def main(arguments: list[str]) -> None:
    """See `kernel.fresh_interpreter`."""
    ignore_terminal()
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    caller = int(arguments[1])
    sys.setrecursionlimit(_DEEPEST)
    os.umask(0)
    try:
        uid, gid = os.geteuid(), os.getegid()
        owners = Owners.of(enter_user_namespace(), uid, gid)
    except IsolateError as error:
        channel.send({"error": error.to_json()})
        return
    threading.Thread(target=_end_with, args=(caller,), daemon=True).start()
    channel.send({"owners": owners.to_json()})
    worker = _Worker(channel, owners)
    while (received := channel.receive()) is not None:
        message, fds = received
        try:
            answer = worker.operations[message.pop("op")](*fds, **message)
        except IsolateError as error:
            answer = {"error": error.to_json()}
        except OSError as error:
            about = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            answer = {"error": ImageError(f"{about}{error.strerror or error}").to_json()}
        finally:
            for fd in fds:
                os.close(fd)
        channel.send(answer)


def _end_with(caller: int) -> None:
    select.select([caller], [], [])
    os._exit(1)


class _Worker:
    def __init__(self, channel: Channel, owners: Owners) -> None:
        self._channel, self._owners = channel, owners
        self._told = 0.0
        self.operations: dict[str, Callable[..., dict[str, Any]]] = {
            "unpack": self._unpack,
            "copy": self._copy,
            "verify": self._verify,
            "export": self._export,
            "remove": self._remove,
        }

    def _tell(self, done: int) -> None:
        if (now := time.monotonic()) - self._told >= _REPORTED:
            self._told = now
            self._channel.send({"done": done})

    def _unpack(
        self,
        archive: int,
        target: int,
        *,
        offset: int,
        size: int,
        below: list[str],
        limits: list[int],
        expected: str,
        digest: str,
        packages: str,
    ) -> dict[str, Any]:
        """Fill `target`/diff. `expected` is the diff id and `digest` that of the blob; empty: not known. `packages`: where to look for zstandard."""
        if packages and packages not in sys.path:
            sys.path.append(packages)
        bounds, self._told = Limits(*limits), 0.0
        notes = Notes()
        pipeline = Pipeline(archive, offset, size, bounds, self._tell, hashed=bool(digest))
        root = _made(target)
        try:
            lower = Lower(below, self._owners.attribute)
            done = unpack(pipeline, root, lower, self._owners, notes, bounds, strict=not expected)
        finally:
            os.close(root)
        for what, wanted, got in (("its digest", digest, done.digest), ("its diff id", expected, done.diff_id)):
            if wanted and wanted != got:
                raise ImageError(
                    f"digest mismatch: {what} is sha256:{wanted}, its content has sha256:{got}", "get the image again"
                )
        return self._described(target, done.entries, notes, diff_id=done.diff_id, size=done.size)

    def _copy(self, target: int, *sources: int, paths: list[str], base: list[str]) -> dict[str, Any]:
        """Fill `target`/diff with what is in each directory of `sources`, at its one of `paths`; those above come before those in them.

        overlayfs marks each new directory as opaque. Where none of `base` has one of that name, the mark would only hide
        what other layers have in theirs.
        """
        notes = Notes()
        root = _made(target)
        try:
            os.fchmod(root, 0o755)
            entries = {b"": self._directory(root)}
            for source, path in zip(sources, paths, strict=True):
                place = self._below(root, path, entries)
                try:
                    copied = copy_tree(source, place, self._owners, notes, self._tell)
                finally:
                    os.close(place)
                entries |= {_joined(path, at): entry for at, entry in copied.items()}
            for at, entry in entries.items():
                if _OPAQUE in entry.xattrs and not any(os.path.lexists(os.path.join(os.fsencode(each), at)) for each in base):
                    os.removexattr(b"/proc/self/fd/%d/%s" % (root, at), f"{self._owners.attribute}opaque")
                    del entry.xattrs[_OPAQUE]
        finally:
            os.close(root)
        return self._described(target, entries, notes, size=_bytes_of(entries))

    def _below(self, root: int, path: str, entries: dict[bytes, Entry]) -> int:
        """An fd of the directory `path` below `root`, made where it isn't there, with the host's mode where that has one; `entries` learns of it."""
        fd = os.dup(root)
        at = ""
        for name in path.strip("/").split("/") if path.strip("/") else ():
            at += f"/{name}"
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=fd)
                with suppress(OSError):
                    os.chmod(name, stat.S_IMODE(os.stat(at).st_mode), dir_fd=fd)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = inner
            entries.setdefault(os.fsencode(at[1:]), self._directory(fd))
        return fd

    def _directory(self, fd: int) -> Entry:
        status = os.fstat(fd)
        return Entry("d", stat.S_IMODE(status.st_mode), *self._owners.meant(status.st_uid, status.st_gid))

    def _described(self, target: int, entries: dict[bytes, Entry], notes: Notes, **more: Any) -> dict[str, Any]:
        """Write down what is in `target`/diff beside it."""
        made = list(lines(entries))
        fd = os.open("tree", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        with os.fdopen(fd, "wb") as file:
            file.writelines(made)
        return {"tree": digest(made), "entries": len(entries), "notes": notes.sentences(), **more}

    def _verify(self, layer: int, *, tree: str) -> dict[str, Any]:
        """Compare `layer`/diff with what was written down, whose digest is `tree`."""
        fd = os.open("tree", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer)
        with os.fdopen(fd, "rb") as file:
            before = file.readlines()
        found = [] if digest(before) == tree else ["the layer's own list of files: altered"]
        root = os.open("diff", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer)
        try:
            after = list(lines(entries_of(root, self._owners, self._tell)))
        finally:
            os.close(root)
        if digest(after) != digest(before):
            found += differences(before, after)
        for at in range(0, len(found), _BATCH):
            self._channel.send({"altered": found[at : at + _BATCH]})
        return {"tree": digest(after)}

    def _export(self, layer: int, out: int) -> dict[str, Any]:
        """`layer`/diff as an archive into the file `out`."""
        root = os.open("diff", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer)
        try:
            with os.fdopen(out, "wb", buffering=1 << 18, closefd=False) as file:
                made, size = write_layer(root, file, self._owners, self._tell)
        finally:
            os.close(root)
        return {"digest": made, "size": size}

    def _remove(self, parent: int, *, name: str) -> dict[str, Any]:
        remove_tree(os.fsencode(name), parent)
        return {}


def _joined(directory: str, path: bytes) -> bytes:
    above = os.fsencode(directory.strip("/"))
    return b"/".join(part for part in (above, path) if part)


def _bytes_of(entries: dict[bytes, Entry]) -> int:
    """Of all files, each counted once."""
    return sum({id(entry): entry.size for entry in entries.values()}.values())


def _made(target: int) -> int:
    """An fd of a new directory diff in `target`."""
    os.mkdir("diff", 0o700, dir_fd=target)
    return os.open("diff", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
