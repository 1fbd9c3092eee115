"""``inputs=`` in pytest: which files of the project a test has besides, and what it looked for outside of them.

What isn't shown is missing inside (ENOENT), as if it weren't in the project at all, so the test fails with an error that doesn't
tell of isolation. The test process notes what it looks for, and the pytest process, which sees all of the project, names in a failing
test's report what is there. Noted are: an audit hook's (PEP 578) opens, listings and the like; imports that found nothing, through a
last finder on sys.meta_path; and the path of a FileNotFoundError that reaches the report, since stat(2) has no audit event. All are
of this process and the processes forked from it: other programs, and os.path.exists, go unseen.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.machinery import all_suffixes
from typing import TYPE_CHECKING, Any, Final

from pytest_isolate.model.project import Project
from pytest_isolate.plugin.board import Board
from pytest_isolate.sandbox.project import project_of

if TYPE_CHECKING:
    import pytest

    from pytest_isolate.model.spec import Spec

__all__ = ["Missed", "with_project"]

TITLE: Final = "isolate: outside of inputs="
_SIZE: Final = 1 << 16
_LONGEST: Final = 4200
"""Characters of a line: a path (PATH_MAX) and a letter."""

_MOST_SEEN: Final = 1000
_MOST_LISTED: Final = 20
_DEEPEST: Final = 50
"""Exceptions of one chain that are looked at."""

_FRAMES: Final = 6
"""From ours to linecache's, where that opens a file: it goes through tokenize."""

_FILE, _MODULE = "f", "m"
"""Before the path on the board: what it would be."""

_WITH_A_TEST: Final = ("conftest.py", "__init__.py")
"""In the test's directory and those above it: they belong to its module."""

_PATH_OF: Final = {
    "open": 0, "os.listdir": 0, "os.scandir": 0, "os.chdir": 0, "os.exec": 0, "os.posix_spawn": 0, "subprocess.Popen": 0,
    "sqlite3.connect": 0, "ctypes.dlopen": 0,
}  # fmt: skip
"""Audit events, and which of their arguments is the path."""


def with_project(spec: Spec, item: pytest.Item) -> Spec:
    """`spec` with what of the project is shown beside the inputs for this test: tracebacks and its own children read it."""
    root = str(item.config.rootpath)
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = str(item.config.invocation_params.dir)
    return replace(spec, project=_project(root, here, str(item.path)))


@cache
def _project(root: str, here: str, path: str) -> Project:
    own = [path]
    folder, top = os.path.realpath(os.path.dirname(path)), os.path.realpath(root)
    while folder == top or folder.startswith(top + os.sep):
        own += [found for name in _WITH_A_TEST if os.path.exists(found := os.path.join(folder, name))]
        folder = os.path.dirname(folder)
    return project_of(root, here, own)


class Missed:
    """What one test after the other looked for and didn't find."""

    def __init__(self) -> None:
        self._board = Board(_SIZE, _LONGEST)
        self._look: Callable[[str, str], None] | None = None

    def close(self) -> None:
        self._board.close()

    def clear(self) -> None:
        """In the parent, before each fork."""
        self._board.clear()

    def install(self, spec: Spec, root: str) -> None:
        """In the child, if its spec has inputs: from now on what is missing is noted.

        Args:
            root: the rootdir as pytest spells it.
        """
        if not spec.inputs or spec.project is None:
            return
        self._look = look = _looker(self._board, spec.project.root, root)
        sys.meta_path.append(_Finder(look))
        with contextlib.suppress(Exception):  # another audit hook may refuse ours by raising: then it has its way
            sys.addaudithook(_hook(look))

    def raised(self, error: BaseException) -> None:
        """In the child: an exception that goes into a report."""
        if self._look is not None:
            for path in _missing_files(error):
                self._look(_FILE, path)

    def section(self, spec: Spec) -> tuple[str, str] | None:
        """Title and text for a failing test's report; None if nothing that exists was missed."""
        if spec.project is None:
            return None
        root = spec.project.root
        found = dict.fromkeys(path for line in self._board.collected() if (path := _on_host(line)) is not None)
        if not found:
            return None
        paths = [os.path.relpath(path, root) for path in found]
        lines = [f"inputs= shows a part of the project {root}. Missing inside, and there outside:"]
        lines += [f"  {path}" for path in paths[:_MOST_LISTED]]
        if len(paths) > _MOST_LISTED:
            lines.append(f"  and {len(paths) - _MOST_LISTED} more")
        wanted = ", ".join(f'"{path}"' for path in paths[:_MOST_LISTED])
        return TITLE, "\n".join([*lines, f"remedy: add what the test needs to inputs=: {wanted}"])


def _looker(board: Board, root: str, spelt: str) -> Callable[[str, str], None]:
    """What notes a path of the project that isn't there, by its kind."""
    seen: set[str] = set()
    inside = root + os.sep
    known = (inside, spelt + os.sep)

    def look(kind: str, path: str) -> None:
        if not os.path.isabs(path):
            path = os.path.join(os.getcwd(), path)
        if not path.startswith(known) or path in seen or len(seen) >= _MOST_SEEN:
            return
        seen.add(path)
        real = os.path.realpath(path)
        if real.startswith(inside) and not os.path.lexists(real):
            board.note(kind + real)

    return look


def _hook(look: Callable[[str, str], None]) -> Callable[[str, tuple[Any, ...]], None]:
    """The audit hook of one test process; a closure, since a `__call__` doubles the price of every event."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in _PATH_OF:
            return
        # Whatever odd object a test passes as a path, it must meet the call's own error, not ours.
        with contextlib.suppress(Exception):
            if event == "open" and (_creates(args) or _to_show_source()):
                return
            path = args[_PATH_OF[event]]
            if isinstance(path, (str, bytes, os.PathLike)):
                look(_FILE, os.fsdecode(path))

    return hook


def _creates(args: tuple[Any, ...]) -> bool:
    """Whether an open makes the file: then nothing is missing."""
    return isinstance(args[2], int) and bool(args[2] & os.O_CREAT)


def _to_show_source() -> bool:
    """Whether it is for a traceback or a warning, of code that is in memory."""
    frame = inspect.currentframe()
    for _ in range(_FRAMES):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == "linecache":
            return True
        frame = frame.f_back
    return False


class _Finder:
    """The last on sys.meta_path: asked for what no other found."""

    def __init__(self, look: Callable[[str, str], None]) -> None:
        self._look = look

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:  # noqa: ARG002 - importlib's signature
        """importlib's question to a finder; always answered with “not mine”."""
        with contextlib.suppress(Exception):
            for folder in sys.path if path is None else path:
                if isinstance(folder, str):
                    self._look(_MODULE, os.path.join(folder, name.rpartition(".")[2]))


def _missing_files(error: BaseException) -> Iterator[str]:
    """Paths of the FileNotFoundErrors in a chain of exceptions."""
    pending, seen = [error], set[int]()
    while pending and len(seen) < _DEEPEST:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, FileNotFoundError):
            for name in (current.filename, current.filename2):
                if isinstance(name, (str, bytes)):
                    yield os.fsdecode(name)
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions
        pending += [other for other in (current.__cause__, current.__context__) if other is not None]


def _on_host(line: str) -> str | None:
    """The path of a line of the board, or of the module it names, if the host has it."""
    kind, path = line[:1], line[1:]
    if os.path.lexists(path):
        return path
    endings = all_suffixes() if kind == _MODULE else ()
    return next((path + ending for ending in endings if os.path.exists(path + ending)), None)
