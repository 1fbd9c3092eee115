"""The store's directory: what lies where, who has it, and what makes it safe to share.

``store.json`` says the format's version and whose the store is, since root's layers carry ``trusted.overlay.*`` attributes and others'
``user.overlay.*``. ``layers/HEX`` is a layer, by its chain id; ``images/HEX.json`` what a source came to; ``kept/HEX.json`` a layer that was
made, by its key; ``locks/`` has a file per thing that is being made; ``tmp/`` what isn't finished. Whatever is in
``tmp/`` is locked (flock(2)) by the process that makes it, and its worker: what nobody locks is somebody's who was killed, and is removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from pytest_isolate.images.layer import Layer
from pytest_isolate.images.owners import Owners
from pytest_isolate.images.worker_process import Worker
from pytest_isolate.model.errors import ImageError, IsolateError, error_from_json

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["Place", "default_path"]

VERSION: Final = 1
_UNFINISHED: Final = "tmp"
_PARTS: Final = ("layers", "images", "kept", "refused", "locks", _UNFINISHED)
_BESIDE: Final = ("runtime", "uppers")
"""What others keep here: `runtime`, and writable layers on a disk."""
_HEADER: Final = "store.json"
_HALF: Final = ".half-"
_FORGOTTEN: Final = 86400
"""Seconds after which nobody asks any more why a run's image was refused."""


def default_path() -> str:
    """``$XDG_DATA_HOME/pytest-isolate``, or below ``~/.local/share``."""
    base = os.environ.get("XDG_DATA_HOME", "")
    # The specification of base directories wants relative paths ignored.
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.local/share"), "pytest-isolate")


class Place:
    """
    Args:
        path: absolute.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._checked = False

    def layer(self, chain: str) -> str:
        return f"{self.path}/layers/{chain}"

    def exists(self) -> bool:
        """Whether there is a store of the caller's. Raises ImageError if it is somebody else's, or something else."""
        if self._checked:
            return True
        try:
            with open(f"{self.path}/{_HEADER}", encoding="utf-8") as file:
                header = json.load(file)
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            raise ImageError(f"the layer store {self.path} can't be read: {error}", _ELSEWHERE) from None
        self._check(header)
        self._checked = True
        return True

    def _check(self, header: Any) -> None:
        if not isinstance(header, dict) or header.get("version") != VERSION:
            version = header.get("version") if isinstance(header, dict) else None
            raise ImageError(
                f"the layer store {self.path} has the format {version!r}; this version of pytest-isolate has {VERSION}",
                _ELSEWHERE,
            )
        there = Owners.from_json(header["owners"])
        if there.uid != os.geteuid() or there.rootless != (not may_mount()):
            whose = f"user {there.uid}'s" if there.rootless else "root's"
            raise ImageError(
                f"the layer store {self.path} is {whose}: its layers aren't marked so that user {os.geteuid()} could stack them",
                _ELSEWHERE,
            )

    def open(self, owners: Owners) -> None:
        """Make it where it isn't there.

        Raises:
            ImageError: it is something else, can't be made, or was made when the caller had other subordinate ids.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            if not os.path.exists(f"{self.path}/{_HEADER}"):
                if any(not name.startswith(_HALF) and name not in _BESIDE for name in os.listdir(self.path)):
                    raise ImageError(
                        f"{self.path} is no layer store, and not empty", "name an empty directory, or one that isn't there"
                    )
                self.write(_HEADER, {"version": VERSION, "owners": owners.to_json()}, replace=False)
            for part in _PARTS:
                os.makedirs(f"{self.path}/{part}", mode=0o700, exist_ok=True)
        except OSError as error:
            raise ImageError(f"the layer store can't be made: {error.filename}: {error.strerror}", _ELSEWHERE) from None
        self.exists()
        there = Owners.from_json((self.read(_HEADER) or {})["owners"])
        if there != owners:
            raise ImageError(
                f"the layer store {self.path} was made when user {owners.uid} had other subordinate ids: {there.uids} and {there.gids}, now {owners.uids} and {owners.gids}",
                f"python -m pytest_isolate layers prune --all, and remove {self.path}; or another store: --isolate-store",
            )  # fmt: skip

    def layers(self) -> list[Layer]:
        """Every layer, by chain id."""
        return [Layer.from_json(data) for chain in self.names("layers") if (data := self.read(f"layers/{chain}/meta.json"))]

    def names(self, part: str) -> list[str]:
        """What lies in a part of it."""
        try:
            return sorted(os.listdir(f"{self.path}/{part}"))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> dict[str, Any] | None:
        """A document; None where it isn't there or isn't whole."""
        try:
            with open(f"{self.path}/{name}", encoding="utf-8") as file:
                data = json.load(file)
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def write(self, name: str, data: dict[str, Any], *, replace: bool = True) -> None:
        """A document, whole or not at all. Raises OSError."""
        half = f"{self.path}/{_HALF}{secrets.token_hex(8)}"
        with open(half, "x", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        try:
            if replace:
                os.rename(half, f"{self.path}/{name}")
                return
            with suppress(FileExistsError):
                os.link(half, f"{self.path}/{name}")
        finally:
            with suppress(FileNotFoundError):
                os.unlink(half)

    def refuse(self, key: str, run: str, error: ImageError) -> None:
        """Remember for the other processes of `run` why the image of `key` was refused."""
        self.write(f"refused/{key}.json", {"run": run, "error": error.to_json()})
        for name in self.names("refused"):
            with suppress(FileNotFoundError):
                if time.time() - os.stat(path := f"{self.path}/refused/{name}").st_mtime > _FORGOTTEN:
                    os.unlink(path)

    def refusal(self, key: str, run: str) -> IsolateError | None:
        """What `refuse` was told in `run`."""
        data = self.read(f"refused/{key}.json")
        return error_from_json(data["error"]) if data and data["run"] == run else None

    def lock(self, name: str) -> BaseFileLock:
        """Of what is being made under `name`; to be acquired."""
        from filelock import FileLock

        return FileLock(f"{self.path}/locks/{name}", mode=0o600, thread_local=False)

    @contextmanager
    def scratch(self, worker: Worker) -> Iterator[tuple[str, int]]:
        """A new directory in ``tmp/`` and its fd; what is left of it at the end is removed."""
        while True:
            name = secrets.token_hex(8)
            path = f"{self.path}/{_UNFINISHED}/{name}"
            os.mkdir(path, 0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # somebody who sweeps was faster
                os.close(fd)
                continue
            break
        try:
            with suppress(OSError):  # inherited from above, it would change every file's mode
                os.removexattr(fd, "system.posix_acl_default")
            os.fchmod(fd, 0o700)
            yield path, fd
        finally:
            try:
                if os.path.lexists(path):
                    with suppress(ImageError):  # a worker that was killed: the next one sweeps
                        self.remove(worker, path)
            finally:
                os.close(fd)

    def sweep(self, worker: Worker) -> None:
        """Remove what those left who were killed."""
        for name in os.listdir(f"{self.path}/{_UNFINISHED}"):
            path = f"{self.path}/{_UNFINISHED}/{name}"
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                self.remove(worker, path)
            finally:
                os.close(fd)

    def remove(self, worker: Worker, path: str) -> None:
        """A directory of the store's, with all that is in it."""
        above, name = os.path.split(path)
        fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            worker.ask("remove", (fd,), name=name)
        finally:
            os.close(fd)


_ELSEWHERE: Final = "keep another one: --isolate-store=DIRECTORY, or XDG_DATA_HOME"

_CAP_SYS_ADMIN: Final = 21


def may_mount() -> bool:
    """Whether the caller needs no user namespace to mount (capabilities(7)): decides as `machine.user_namespace` does, without trying."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return os.geteuid() == 0
