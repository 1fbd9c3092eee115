"""Init's life before its exec as a script of system calls, so that no copy of the builder has to be made for it.

The same steps as `construct` takes in Python where there are no scripts, or a plan must look before it mounts.
"""

from __future__ import annotations

import os
import signal
import struct
from dataclasses import dataclass
from typing import Final

from pytest_isolate.kernel.script import Address, NotRecordable, Recorder, Script, Slot, available
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs.plan import ROOT, Operation, Plan
from pytest_isolate.sandbox.init import BUILDER_FD, NAME

__all__ = ["InitScript", "InitScripts"]

_PR_SET_PDEATHSIG: Final = 1
_AF_INET: Final = 2
_SOCK_DGRAM_CLOEXEC: Final = 2 | 0o2000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP_RUNNING: Final = 0x1 | 0x40
_IFREQ: Final = struct.pack("16sH22x", b"lo", _IFF_UP_RUNNING)
_F_SETFD: Final = 2
_AT_EMPTY_PATH: Final = 0x1000
_MOST: Final = 64


@dataclass(frozen=True, slots=True)
class InitScript:
    """The script of one kind of sandbox.

    Attributes:
        steps: for each call, what it belongs to.
    """

    script: Script
    steps: tuple[str | Operation, ...]

    def start(self, flags: int, go_read: int, go_write: int, status: int) -> tuple[int, int]:
        """(pid, pidfd) of init, which waits for a byte from `go_read`. Raises OSError of clone(2)."""
        return self.script.start(flags, status, {"go": go_read, "not go": go_write})

    def failure(self) -> SetupError | None:
        """After end of file on `status`: why it came to nothing."""
        if (error := self.script.failure()) is None:
            return None
        if not error.errno:
            return SetupError("start init", detail="it was killed while it set up its namespaces")
        step = self.steps[self.script.done]
        return step.refused(error) if isinstance(step, Operation) else SetupError.from_os_error(step, error)

    @property
    def not_executed(self) -> bool:
        """Everything was done, but the program was refused: memory files may not be executed here."""
        return self.script.done == len(self.steps) - 1 and self.script.failure() is not None


class InitScripts:
    """The scripts of a run.

    Args:
        workspace: where `plan`s are carried out.
        program: fd of init's program, None where there is none.
        builder: fd of the builder's own pidfd.
    """

    def __init__(self, workspace: str, program: int | None, builder: int) -> None:
        self._workspace = workspace
        self._program = program if available() else None
        self._builder = builder
        self._made: dict[tuple[int, Spec], tuple[Plan, InitScript | None]] = {}

    def give_up(self) -> None:
        """No more scripts: their last step is refused."""
        self._program = None

    def of(self, spec: Spec, plan: Plan) -> InitScript | None:
        """None where init must be made in Python. Raises SetupError for mount options that don't fit a page."""
        if self._program is None:
            return None
        key = (id(plan), spec)
        if key not in self._made:
            if len(self._made) >= _MOST:
                self._made.clear()
            self._made[key] = plan, self._record(spec, plan, self._program)  # the plan is kept, and with it its id
        return self._made[key][1]

    def _record(self, spec: Spec, plan: Plan, program: int) -> InitScript | None:
        recorder = Recorder()
        steps: list[str | Operation] = []

        def step(name: str, call: str, *arguments: int | bytes | Slot | Address, least: int = 0) -> None:
            recorder.call(call, *arguments, least=least)
            steps.append(name)

        step("close", "close", Slot("not go"))
        step("prctl", "prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        step("read", "read", Slot("go"), bytes(8), 1, least=1)
        step("setsid", "setsid")
        if spec.net.own:
            socket = recorder.call("socket", _AF_INET, _SOCK_DGRAM_CLOEXEC, 0)
            recorder.call("ioctl", socket, _SIOCSIFFLAGS, _IFREQ)
            steps += ["bring up loopback"] * 2
        if spec.hostname is not None:
            name = spec.hostname.encode()
            step("sethostname", "sethostname", name, len(name))
        recorder.call("chdir", os.fsencode(self._workspace), path=self._workspace)
        steps.append("chdir")
        for operation in plan.inside:
            try:
                operation.execute(ROOT, recorder)
            except NotRecordable:
                return None
            except OSError as error:
                raise operation.refused(error) from error
            steps += [operation] * (len(recorder.calls) - len(steps))
        if self._builder == BUILDER_FD:
            step("fcntl", "fcntl", BUILDER_FD, _F_SETFD, 0)
        else:
            step("dup3", "dup3", self._builder, BUILDER_FD, 0)
        step("execve", "execveat", program, b"", Address((NAME.encode(), 0)), Address((0,)), _AT_EMPTY_PATH)
        return InitScript(Script(recorder.calls), tuple(steps))
