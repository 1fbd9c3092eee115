"""One try, in a child process that is thrown away: what it unshares, mounts and joins ends with it.

The child is a plain fork, so the caller must be small and single-threaded: `doctor` is. A try is a function that raises
the OSError or MissingCapability of the step that was refused, or returns something JSON-able.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pytest_isolate.model.errors import IsolateError, SetupError, error_from_json

__all__ = ["Answer", "attempt"]

_LIMIT: Final = 30
"""Seconds; SIGALRM ends a child that hangs (a stale network mount)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a try ended.

    Attributes:
        result: what it returned.
        error: what it raised; None where all went well.
        output: what programs that it ran wrote to standard error.
    """

    result: Any = None
    error: IsolateError | None = None
    output: str = ""

    @property
    def errno(self) -> int:
        """The errno of a refused system call; 0 where none was."""
        return self.error.errno if isinstance(self.error, SetupError) else 0

    @property
    def step(self) -> str:
        return self.error.step if isinstance(self.error, SetupError) else ""


def attempt(work: Callable[[], Any]) -> Answer:
    """`work` in a child process. Raises OSError where no child can be made."""
    log = os.memfd_create("pytest-isolate-probe")
    reading, writing = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _child(work, writing, log)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            data = file.read()
        _, status = os.waitpid(pid, 0)
        output = os.pread(log, 4096, 0).decode(errors="replace").strip()
    finally:
        os.close(log)
    if not data:
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code}" if code < 0 else f"status {code}"
        return Answer(error=SetupError("probe", detail=f"the child ended with {how}"), output=output)
    told = json.loads(data)
    return Answer(told.get("result"), error_from_json(told["error"]) if "error" in told else None, output)


def _child(work: Callable[[], Any], writing: int, log: int) -> None:
    """Never returns."""
    try:
        os.dup2(log, 2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LIMIT)
        told = {"result": work()}
    except IsolateError as error:
        told = {"error": error.to_json()}
    except OSError as error:
        told = {"error": SetupError.from_os_error("probe", error).to_json()}
    except BaseException as error:  # noqa: BLE001 - the parent must hear of it, and nothing may run on in the child
        told = {"error": SetupError("probe", detail=repr(error)).to_json()}
    try:
        os.write(writing, json.dumps(told).encode())
    finally:
        os._exit(0)
