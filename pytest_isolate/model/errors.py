"""The errors of the sandbox library.

Each one carries what was asked, what the machine answered and the remedy to type (`hint`). They cross
process boundaries as JSON (`to_json` / `error_from_json`), never as pickles, because the builder and the
processes inside a sandbox are not trusted to send objects; they pickle all the same, for xdist.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any

__all__ = [
    "ImageError",
    "IsolateError",
    "MissingCapability",
    "NotListening",
    "SandboxGone",
    "SetupError",
    "SpecError",
    "error_from_json",
]


class IsolateError(Exception):
    """Base of everything the library raises; `hint` is the remedy, empty when there is none."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, Any]:
        return {"type": type(self).__name__, "args": list(self.args)}


class SpecError(IsolateError):
    """A key, value or combination of a spec that can't be meant.

    Args:
        key: the spec key, or keys joined by ``+`` for a contradiction.
        problem: what is wrong with it, naming the value.
        accepted: the accepted form.
        place: where it was written (marker of a test, option, ini key, profile); empty if unknown.
    """

    def __init__(self, key: str, problem: str, accepted: str, place: str = "") -> None:
        where = f"{place}: " if place else ""
        super().__init__(f"{where}{key}: {problem}; accepted: {accepted}")
        self.args = (key, problem, accepted, place)
        self.key, self.problem, self.accepted, self.place = key, problem, accepted, place

    def at(self, place: str) -> SpecError:
        return SpecError(self.key, self.problem, self.accepted, place)


class SetupError(IsolateError):
    """One step of building or joining a sandbox was refused by the kernel.

    Args:
        step: the operation in the kernel's words (``mount overlay``, ``setns``).
        path: the object it was about; empty if there is none.
        errno: the error number, 0 if the failure wasn't a system call's.
        hint: the remedy.
        detail: a sentence for failures without an errno.
    """

    def __init__(self, step: str, path: str = "", errno: int = 0, hint: str = "", detail: str = "") -> None:
        answer = f"{_errno.errorcode.get(errno, errno)} ({os.strerror(errno)})" if errno else detail
        about = f" {path}" if path else ""
        super().__init__(f"sandbox could not be built: {step}{about}: {answer or 'failed'}", hint)
        self.args = (step, path, errno, hint, detail)
        self.step, self.path, self.errno, self.detail = step, path, errno, detail

    @classmethod
    def from_os_error(cls, step: str, error: OSError, path: str = "", hint: str = "") -> SetupError:
        return cls(step, path or str(error.filename or ""), error.errno or 0, hint, str(error))


class MissingCapability(SetupError):
    """The spec asks for something this machine can't give.

    Args:
        capability: its name, as `ISOLATE_REQUIRE` and skip reasons spell it (``cgroup-memory``, ``userns``).
        keys: the spec keys that need it; without them the sandbox can be built.
        why: what the machine answered.
        hint: the remedy.
    """

    def __init__(self, capability: str, keys: list[str], why: str, hint: str = "") -> None:
        IsolateError.__init__(self, f"{', '.join(keys) or 'the sandbox'} needs {capability}: {why}", hint)
        self.args = (capability, keys, why, hint)
        self.capability, self.keys, self.why = capability, keys, why
        self.step, self.path, self.errno, self.detail = capability, "", 0, why


class SandboxGone(IsolateError):
    """The sandbox, or the builder that held it, ended while it was in use."""


class NotListening(IsolateError):
    """Nothing listens on a port that was waited for."""


class ImageError(IsolateError):
    """An image, an archive or a layer can't be had: missing, damaged, hostile, not for this machine, or too large.

    Its message names the file, and the member of it where it is about one.
    """


_TYPES: dict[str, type[IsolateError]] = {
    cls.__name__: cls for cls in (IsolateError, SpecError, SetupError, MissingCapability, SandboxGone, NotListening, ImageError)
}


def error_from_json(data: dict[str, Any]) -> IsolateError:
    """The error that `IsolateError.to_json` described."""
    return _TYPES.get(data["type"], IsolateError)(*data["args"])
