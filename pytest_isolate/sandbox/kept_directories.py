"""Directories of what sandboxes wrote, on the side of whoever keeps them: where they can be made, how they are found and removed."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pytest_isolate.kernel.removal import remove_tree
from pytest_isolate.model.errors import IsolateError
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs.copying import PRIVILEGED, UNPRIVILEGED
from pytest_isolate.rootfs.kept import ABOUT

__all__ = ["IN_CACHE", "Kept", "bases", "find", "refusal", "remove"]

IN_CACHE: Final = os.path.join(".pytest_cache", "d", "isolate-keep")
"""Where pytest's cache has them, from the rootdir on."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept directory.

    Attributes:
        path: absolute.
        nodeid: the test; empty where it was none.
        spec: of the sandbox.
        cwd: the working directory that it was used in.
        places: host paths that it had read-write.
    """

    path: str
    nodeid: str
    spec: Spec
    cwd: str
    places: tuple[str, ...]

    @classmethod
    def read(cls, path: str) -> Kept:
        """Raises OSError, or ValueError: there is none."""
        with open(os.path.join(path, ABOUT), encoding="ascii") as file:
            about = json.load(file)
        try:
            places = tuple(map(str, about.get("places", ())))
            return cls(
                os.path.abspath(path), about.get("nodeid", ""), Spec.from_json(about["spec"]), about.get("cwd", "/"), places
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}/{ABOUT}: {error!r}") from None


def refusal(directory: str) -> str:
    """Why nothing can be kept in `directory`, found out by trying; empty if it can. It is made if it isn't there."""
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".trial-") as trial:
            os.mknod(os.path.join(trial, "whiteout"), stat.S_IFCHR, os.makedev(0, 0))
            _mark(trial)
    except OSError as error:
        answer = f"{errno.errorcode.get(error.errno or 0, error.errno)} ({error.strerror})"
        if error.errno in (errno.EPERM, errno.ENOTSUP):
            return f"{answer}: its file system doesn't take what overlayfs leaves behind, device nodes 0/0 and attributes"
        return answer
    return ""


def _mark(directory: str) -> None:
    """As the builder will, which is root or isn't."""
    try:
        os.setxattr(directory, f"{PRIVILEGED}opaque", b"y")
    except OSError:
        os.setxattr(directory, f"{UNPRIVILEGED}opaque", b"y")


def bases(start: str) -> Iterator[str]:
    """Where to look for kept directories from the directory `start`: pytest's cache there, and above."""
    while True:
        if os.path.isdir(base := os.path.join(start, IN_CACHE)):
            yield base
        if (above := os.path.dirname(start)) == start:
            return
        start = above


def find(wanted: str, places: Sequence[str]) -> Kept:
    """A kept directory by its path, or by node id, of which a part will do, in one of `places`.

    Raises:
        IsolateError: there is none, or there are several.
    """
    with suppress(OSError, ValueError):
        return Kept.read(wanted)
    known = [kept for place in places for kept in _all(place)]
    for found in ([kept for kept in known if kept.nodeid == wanted], [kept for kept in known if wanted in kept.nodeid]):
        if len(found) == 1:
            return found[0]
        if found:
            raise IsolateError(f"{wanted!r} fits more than one: {', '.join(kept.nodeid for kept in found)}", "name one of them")
    names = ", ".join(kept.nodeid for kept in known) or "none"
    where = ", ".join(places) or f"no {IN_CACHE} here or above"
    raise IsolateError(
        f"nothing is kept of {wanted!r}; kept in {where}: {names}",
        "run pytest with --isolate-keep=failed, or name the directory",
    )


def _all(place: str) -> list[Kept]:
    found = []
    for name in sorted(os.listdir(place)):
        with suppress(OSError, ValueError):
            found.append(Kept.read(os.path.join(place, name)))
    return found


def remove(kept: Kept) -> None:
    """Remove a kept directory; files of subordinate ids from inside a user namespace that has them.

    Raises:
        OSError: it can't be removed.
        MissingCapability: there is no such namespace.
    """
    place, name = os.path.split(kept.path)
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(name, fd)
    except PermissionError:
        if os.geteuid() == 0:
            raise
        from pytest_isolate.sandbox.identity import enter_run_namespace

        enter_run_namespace()  # for the rest of this process's life, which is short
        remove_tree(name, fd)
    finally:
        os.close(fd)
