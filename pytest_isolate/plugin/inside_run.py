"""A function of the suite, called in a sandbox that is no test's: what makes a layer or a snapshot.

It runs in a fork of the pytest process, as a test does, so it sees modules, closures and fixture values as they are.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_isolate.model.errors import IsolateError, error_from_json

if TYPE_CHECKING:
    from pytest_isolate.sandbox.sandbox import Sandbox

__all__ = ["call_inside"]


def call_inside(box: Sandbox, function: Callable[[], object], what: str) -> Any:
    """Call `function` in `box`, wait for its end.

    Args:
        what: names it in errors.

    Returns:
        What it returned, which came here as JSON; paths are paths again.

    Raises:
        IsolateError: it raised, ended its process or returned something else; with its traceback.
        SetupError, SandboxGone: the sandbox could not be joined.
    """
    answer = os.memfd_create("pytest-isolate-answer")
    try:
        pid = box.fork(lambda error: _tell(answer, {"refused": error.to_json()}))
        if pid == 0:
            _run(function, answer)
        _, status = os.waitpid(pid, 0)
        os.lseek(answer, 0, os.SEEK_SET)
        with open(answer, "rb", closefd=False) as file:
            told = file.read()
    finally:
        os.close(answer)
    if not told:
        raise IsolateError(f"{what} ended its process with status {os.waitstatus_to_exitcode(status)}", "let it return")
    return _understood(json.loads(told), what)


def _understood(told: dict[str, Any], what: str) -> Any:
    if "refused" in told:
        raise error_from_json(told["refused"])
    if "trace" in told:
        raise IsolateError(f"{what} failed in its sandbox:\n{told['trace']}")
    return Path(told["path"]) if "path" in told else told["value"]


def _run(function: Callable[[], object], answer: int) -> None:
    """In the fork. Never returns."""
    try:
        value = function()
        told = {"path": os.fspath(value)} if isinstance(value, os.PathLike) else {"value": value}
        try:
            text = json.dumps(told)
        except (TypeError, ValueError):
            raise TypeError(f"it returned {value!r}: only what JSON knows, and paths, come out of a sandbox") from None
        os.write(answer, text.encode())
    except BaseException:  # noqa: BLE001 - whatever it is, the one who waits must hear of it
        _tell(answer, {"trace": traceback.format_exc()})
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(0)


def _tell(answer: int, told: dict[str, Any]) -> None:
    os.write(answer, json.dumps(told).encode())
