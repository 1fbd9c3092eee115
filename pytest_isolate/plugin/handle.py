"""What `isolate_factory` gives: a sandbox and its programs, to be used alike in fixtures and tests, outside and inside.

A handle holds what doesn't change; the rest it asks for, by name and plain values, of whoever has the sandbox: in the pytest
process by a call, from inside a test's sandbox over the channel.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_isolate.model.changes import Changes
from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import Usage
from pytest_isolate.network.attachment import Address
from pytest_isolate.plugin.errands import OWN
from pytest_isolate.plugin.fixtures import Box, host_port

if TYPE_CHECKING:
    from pytest_isolate.model.net import Transport

    StrOrBytes = str | bytes | os.PathLike[str]

__all__ = ["FactoryBox", "Program", "calling_line", "calling_place"]

_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Ask(Protocol):
    def __call__(self, what: str, box: int, about: dict[str, Any]) -> Any: ...


class FactoryBox:
    """One sandbox of `isolate_factory`.

    Every method raises SandboxGone once the sandbox has ended, except `logs`, `usage` and those of its programs.

    Attributes:
        name: under which others find it: on its network, and for ``net="container:NAME"``.
        spec: what it was asked to be, after weakening.
        address: where it is on its bridge network; None with another network mode.
        ports: published ports: (port inside, ``tcp`` or ``udp``) to (host address, host port).
    """

    def __init__(
        self,
        ask: Ask,
        number: int,
        name: str,
        spec: Spec,
        address: Address | None,
        ports: Mapping[tuple[int, str], tuple[str, int]],
    ) -> None:
        self.name, self.spec, self.address, self.ports = name, spec, address, ports
        self._asker = ask
        self._number = number

    @property
    def ip(self) -> str | None:
        """Its IPv4 address on its bridge network; None with another network mode."""
        return self.address.ip if self.address is not None else None

    def port(self, port: int, protocol: Transport = "tcp") -> int:
        """The host port that a published port of the sandbox has. Raises LookupError if it isn't published."""
        return host_port(self.ports, port, protocol)

    def run(
        self,
        args: Sequence[StrOrBytes],
        *,
        input: bytes | None = None,  # noqa: A002 - subprocess.run's name for it
        cwd: str | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside to its end, its output captured, as subprocess.run does.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds, the program killed.
            subprocess.CalledProcessError: with `check`, on a return code other than 0.
            OSError: the program could not be executed.
            SetupError: the sandbox could not be joined.
            IsolateError: it is paused.
        """
        __tracebackhide__ = True
        words = _words(args)
        done = self._ask("run", args=words, cwd=cwd, data=input, timeout=timeout)
        shown = [os.fsdecode(word) for word in words]
        completed = subprocess.CompletedProcess(shown, done["returncode"], done["stdout"], done["stderr"])
        if check:
            completed.check_returncode()
        return completed

    def popen(self, args: Sequence[StrOrBytes], *, input: bytes | None = None, cwd: str | None = None) -> Program:  # noqa: A002
        """Start a program inside, its output and its errors going to a log that can be read while it runs.

        It ends with the sandbox, whoever started it. Raises what `run` raises for a program that can't be started.
        """
        __tracebackhide__ = True
        words = _words(args)
        started = self._ask("popen", args=words, cwd=cwd, data=input)
        return Program(self, [os.fsdecode(word) for word in words], started["program"], started["pid"])

    def logs(self) -> str:
        """What its programs have written so far: those of `popen`, one after the other."""
        text: bytes = self._ask("logs")
        return text.decode(errors="replace")

    def wait_for_port(self, port: int, timeout: float = 10.0, protocol: Transport = "tcp") -> None:
        """Until a socket listens on `port`, at whatever address of the sandbox's network; nothing is connected to for it.

        Args:
            timeout: seconds.

        Raises:
            NotListening: at `timeout`, or as soon as the program that was started last has failed, or nothing runs inside any
                more; with the end of the log.
        """
        __tracebackhide__ = True
        self._ask("wait_for_port", port=port, protocol=protocol, timeout=timeout)

    def kill(self) -> None:
        """SIGKILL everything inside: the sandbox has ended, its name and address are free."""
        __tracebackhide__ = True
        self._ask("kill", place=calling_place())

    def pause(self) -> None:
        """Hold everything inside still, by cgroup v2's freezer, or by SIGSTOP where it isn't in the v2 tree."""
        __tracebackhide__ = True
        self._ask("pause")

    def resume(self) -> None:
        """Let everything go on after `pause`."""
        __tracebackhide__ = True
        self._ask("resume")

    def partition(self, other: FactoryBox | Box) -> None:
        """Lose every packet between the two, silently and both ways, until `heal`.

        Args:
            other: on the same bridge network; `isolate_box` is the test's own.

        Raises:
            SetupError: they aren't on one bridge network.
        """
        __tracebackhide__ = True
        self._ask("partition", other=_number(other))

    def heal(self, other: FactoryBox | Box | None = None) -> None:
        """Undo `partition`, from `other` or from all."""
        __tracebackhide__ = True
        self._ask("heal", other=None if other is None else _number(other))

    def usage(self) -> Usage:
        """What it has used so far; after its end, what it had used by then."""
        return Usage.from_json(self._ask("usage"))

    def changes(self) -> Changes:
        """What it did to its files so far: as `isolate_box.changes`."""
        __tracebackhide__ = True
        return Changes.from_json(json.loads(self._ask("changes")))

    def _ask(self, what: str, **about: Any) -> Any:
        __tracebackhide__ = True
        return self._asker(what, self._number, about)

    def __repr__(self) -> str:
        return f"<sandbox {self.name!r}>"


class Program:
    """A program that `popen` started.

    Attributes:
        args: its argument list.
        pid: its process id on the host.
        returncode: as `poll` or `wait` saw it last: None while it runs, its exit status, or minus the signal that ended it.
    """

    def __init__(self, box: FactoryBox, args: list[str], number: int, pid: int) -> None:
        self.args, self.pid = args, pid
        self.returncode: int | None = None
        self._box, self._number = box, number

    def poll(self) -> int | None:
        """The return code if it has ended."""
        self.returncode = self._ask("poll")
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        __tracebackhide__ = True
        code: int = self._ask("wait", timeout=timeout)
        self.returncode = code
        return code

    def send_signal(self, number: int) -> None:
        """Nothing if it has ended."""
        self._ask("signal", number=int(number))

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: it alone, not what it started."""
        self.send_signal(signal.SIGKILL)

    def logs(self) -> str:
        """What it and its descendants have written so far, output and errors together."""
        text: bytes = self._ask("logs")
        return text.decode(errors="replace")

    def _ask(self, what: str, **about: Any) -> Any:
        __tracebackhide__ = True
        return self._box._ask(what, program=self._number, **about)  # noqa: SLF001 - it asks in its name

    def __repr__(self) -> str:
        return f"<program {self.args} in {self._box!r}>"


def _words(args: Sequence[StrOrBytes]) -> list[bytes]:
    if isinstance(args, (str, bytes)):
        raise TypeError(f'{args!r} is one string: a program and its arguments are a list, as in ["redis-cli", "ping"]')
    return [os.fsencode(arg) for arg in args]


def _number(other: FactoryBox | Box) -> int:
    if isinstance(other, Box):
        return OWN
    if isinstance(other, FactoryBox):
        return other._number  # noqa: SLF001 - of the same kind
    raise TypeError(f"{other!r} is neither a sandbox of isolate_factory nor isolate_box")


def calling_line() -> tuple[str, int]:
    """File and number of the nearest line that isn't the plugin's."""
    frame = sys._getframe(1)  # noqa: SLF001 - what traceback and warnings use
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def calling_place() -> str:
    """``tests/test_x.py:12``: the nearest line that isn't the plugin's."""
    file, number = calling_line()
    return f"{os.path.relpath(file)}:{number}"
