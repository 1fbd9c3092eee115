"""The shared libraries that an interpreter and its extension modules load, as a layer to lie below an image's.

A root file system that isn't the host's may lack them. Below the image they only fill gaps: where the image has a library of its own
at the same path, that one is loaded, so it must not be older than what the interpreter was linked for (`too_old`).

Found by asking the dynamic loader (ldd(1)), once for all extension modules, and kept in the store by paths, sizes and times.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.paths import within

__all__ = ["libc_of", "make_runtime", "needed_glibc", "too_old"]

_GLIBC: Final = re.compile(rb"GLIBC_2\.(\d+)\0")
_LIBC: Final = "libc.so.6"
_AT_ONCE: Final = 200
"""Files per ldd(1)."""


def make_runtime(store: str, executable: str, modules: Sequence[str], trees: Sequence[str]) -> str:
    """A directory with the libraries of `executable` and `modules` at their paths, but for those in `trees`, and with `executable`'s links.

    Args:
        store: directory of the layer store.
        executable: the interpreter, as it was started.
        modules: paths of extension modules.
        trees: directories that are there inside anyway.

    Raises:
        SetupError: it can't be made.
    """
    key = hashlib.sha256(
        json.dumps([executable, trees, [_identity(path) for path in (executable, *modules)]]).encode()
    ).hexdigest()
    place = os.path.join(store, "runtime", key)
    if os.path.isdir(place):
        return place
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        made = tempfile.mkdtemp(prefix=".new-", dir=os.path.dirname(place))
        os.chmod(made, 0o755)  # noqa: S103 - it becomes a root directory
        try:
            for path in _libraries([os.path.realpath(executable), *modules]):
                if not any(within(path, tree) for tree in trees):
                    _copy(path, made)
            _links(executable, made, trees)
            try:
                os.rename(made, place)
            except OSError:
                if not os.path.isdir(place):  # else another process was faster
                    raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        hint = "name a directory that you can write: --isolate-store=PATH"
        raise SetupError.from_os_error("collect the interpreter's libraries", error, place, hint) from None
    return place


def _identity(path: str) -> tuple[str, int, int]:
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


def _libraries(files: Sequence[str]) -> Iterator[str]:
    """Paths of what `files` load, as the loader says; those that aren't for it are passed by."""
    found: dict[str, None] = {}
    for start in range(0, len(files), _AT_ONCE):
        done = subprocess.run(["ldd", *files[start : start + _AT_ONCE]], capture_output=True, check=False)
        for line in done.stdout.splitlines():
            if match := re.match(rb"\t(?:\S+ => )?(/\S+) \(0x", line):
                found[os.fsdecode(match[1])] = None
    yield from found


def _copy(path: str, root: str) -> None:
    """At its path, and at the one that its directory really has: an image may have a link there, or a directory."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    for name in {path, real}:
        target = root + name
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(target):
            shutil.copy2(path, target)


def _links(executable: str, root: str, trees: Sequence[str]) -> None:
    """The links from an interpreter's name to its file, where they lie outside of `trees`."""
    path = executable
    while os.path.islink(path):
        text = os.readlink(path)
        if not any(within(path, tree) for tree in trees):
            os.makedirs(root + os.path.dirname(path), exist_ok=True)
            if not os.path.lexists(root + path):
                os.symlink(text, root + path)
        path = os.path.normpath(os.path.join(os.path.dirname(path), text))


def needed_glibc(files: Iterable[str]) -> int:
    """N of the newest ``GLIBC_2.N`` that `files` refer to; 0: of none."""
    return max((_newest(path) for path in files), default=0)


def _newest(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return max((int(number) for number in _GLIBC.findall(file.read())), default=0)
    except OSError:
        return 0


def libc_of(directories: Sequence[str], names: Iterable[str]) -> str:
    """The C library that the layers have at one of the paths `names`; empty: none. `directories`: bottom to top."""
    for directory in reversed(directories):
        for name in names:
            if os.path.isfile(directory + name):
                return directory + name
    return ""


def too_old(directories: Sequence[str], files: Sequence[str]) -> str:
    """Why `files` can't be started on these layers: their C library is older than what they were linked for. Empty: they can."""
    ours = [path for path in _libraries(files[:1]) if os.path.basename(path) == _LIBC]
    names = {*ours, *(os.path.realpath(path) for path in ours)}
    libc = libc_of(directories, sorted(names))
    if not libc:
        return ""
    has, needs = _newest(libc), needed_glibc(files)
    return f"its {min(names)} is glibc 2.{has}, and {files[0]} was linked for 2.{needs}" if has < needs else ""
