"""System calls written down, and a child that carries them out without a memory of its own.

A fork of a Python process costs its page tables, and then a copied page for whatever either side writes: 600 of them
for a child that mounts a sandbox's file systems in Python and execs. The child here shares the caller's memory
(CLONE_VM) until its last call, an exec. It may not run a line of Python or libc, since stack and thread-local storage are
the caller's, who goes on meanwhile. So it runs machine code that uses registers and the script alone: a loop over a
list of system calls, each with the least result that counts as success.

Only on x86_64 and aarch64 (`available`). The caller must have no signal handlers: the kernel would run them on the shared stack.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from pytest_isolate.kernel.machine_code import function
from pytest_isolate.kernel.mounts import MS_BIND, MS_REC, fits_page
from pytest_isolate.kernel.syscalls import NUMBERS

__all__ = ["Address", "NotRecordable", "Recorder", "ResultOf", "Script", "Slot", "available"]

_CLONE_VM: Final = 0x00000100
_CLONE_PIDFD: Final = 0x00001000

_AT_FDCWD: Final = -100

_X86_64: Final = bytes.fromhex(
    "4989f9"  #              mov    r9, rdi             the script
    "498b7908"  #            mov    rdi, [r9 + flags]
    "31f6"  #                xor    esi, esi            the same stack, which isn't used
    "498d5110"  #            lea    rdx, [r9 + pidfd]
    "4531d2"  #              xor    r10d, r10d
    "4531c0"  #              xor    r8d, r8d
    "b8 38000000"  #         mov    eax, SYS_clone
    "0f05"  #                syscall
    "4885c0"  #              test   rax, rax
    "74 01"  #               jz     child
    "c3"  #                  ret
    "4c89cb"  #       child: mov    rbx, r9
    "498d6928"  #            lea    rbp, [r9 + calls]
    "488b4500"  #      next: mov    rax, [rbp + number]
    "488b7d08"  #            mov    rdi, [rbp + arguments]
    "488b7510"  #            mov    rsi, [rbp + arguments + 8]
    "488b5518"  #            mov    rdx, [rbp + arguments + 16]
    "4c8b5520"  #            mov    r10, [rbp + arguments + 24]
    "4c8b4528"  #            mov    r8, [rbp + arguments + 32]
    "4c8b4d30"  #            mov    r9, [rbp + arguments + 40]
    "0f05"  #                syscall
    "483b4538"  #            cmp    rax, [rbp + least]
    "7c 15"  #               jl     failed
    "488b4d40"  #            mov    rcx, [rbp + store]
    "4885c9"  #              test   rcx, rcx
    "74 03"  #               jz     skip
    "488901"  #              mov    [rcx], rax
    "4883c548"  #      skip: add    rbp, sizeof call
    "48ff03"  #              inc    [rbx + done]
    "eb c7"  #               jmp    next
    "48894318"  #    failed: mov    [rbx + result], rax
    "8b7b20"  #              mov    edi, [rbx + status]
    "4889de"  #              mov    rsi, rbx
    "ba 20000000"  #         mov    edx, 32
    "b8 01000000"  #         mov    eax, SYS_write
    "0f05"  #                syscall
    "bf 01000000"  #         mov    edi, 1
    "b8 e7000000"  #         mov    eax, SYS_exit_group
    "0f05"  #                syscall
)

_AARCH64: Final = bytes.fromhex(
    "e90300aa"  #         mov    x9, x0                        the script
    "200540f9"  #         ldr    x0, [x9 + flags]
    "e1031faa"  #         mov    x1, xzr                       the same stack, which isn't used
    "22410091"  #         add    x2, x9, pidfd
    "e3031faa"  #         mov    x3, xzr
    "e4031faa"  #         mov    x4, xzr
    "881b80d2"  #         mov    x8, SYS_clone
    "010000d4"  #         svc    0
    "400000b4"  #         cbz    x0, child
    "c0035fd6"  #         ret
    "2aa10091"  #  child: add    x10, x9, calls
    "480140f9"  #   next: ldr    x8, [x10 + number]
    "408540a9"  #         ldp    x0, x1, [x10 + arguments]
    "428d41a9"  #         ldp    x2, x3, [x10 + arguments + 16]
    "449542a9"  #         ldp    x4, x5, [x10 + arguments + 32]
    "010000d4"  #         svc    0
    "4bb143a9"  #         ldp    x11, x12, [x10 + least]       and store
    "1f000beb"  #         cmp    x0, x11
    "0b010054"  #         b.lt   failed
    "4c0000b4"  #         cbz    x12, skip
    "800100f9"  #         str    x0, [x12]
    "4a210191"  #   skip: add    x10, x10, sizeof call
    "2b0140f9"  #         ldr    x11, [x9 + done]
    "6b050091"  #         add    x11, x11, 1
    "2b0100f9"  #         str    x11, [x9 + done]
    "f2ffff17"  #         b      next
    "200d00f9"  # failed: str    x0, [x9 + result]
    "202140b9"  #         ldr    w0, [x9 + status]
    "e10309aa"  #         mov    x1, x9
    "020480d2"  #         mov    x2, 32
    "080880d2"  #         mov    x8, SYS_write
    "010000d4"  #         svc    0
    "200080d2"  #         mov    x0, 1
    "c80b80d2"  #         mov    x8, SYS_exit_group
    "010000d4"  #         svc    0
)


@cache
def _code() -> Callable[[int], int] | None:
    return function({"x86_64": _X86_64, "aarch64": _AARCH64})


def available() -> bool:
    """Whether scripts run on this machine."""
    return _code() is not None


class NotRecordable(Exception):
    """What is to be done depends on what is found there."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An argument that `Script.start` fills in."""

    name: str


@dataclass(frozen=True, slots=True)
class ResultOf:
    """An argument that is the result of call number `index`."""

    index: int


@dataclass(frozen=True, slots=True)
class Address:
    """An argument that points to `words`, of which bytes are pointers to a copy of theirs."""

    words: tuple[bytes | int, ...]


Argument = int | bytes | Slot | ResultOf | Address


@dataclass(frozen=True, slots=True)
class _Recorded:
    name: str
    arguments: tuple[Argument, ...]
    path: str
    least: int


class Recorder:
    """Implements `calls.Calls`; `call` writes down any other system call.

    Attributes:
        calls: what has been written down.
    """

    def __init__(self) -> None:
        self.calls: list[_Recorded] = []

    def call(self, name: str, *arguments: Argument, path: str = "", least: int = 0) -> ResultOf:
        """Its result, for later calls.

        Args:
            path: what an error is about.
            least: a smaller result ends the child.
        """
        self.calls.append(_Recorded(name, arguments, path, least))
        return ResultOf(len(self.calls) - 1)

    def mount(self, source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
        options = fits_page(data, target)
        strings = (os.fsencode(source), os.fsencode(target), fstype.encode() or 0)
        self.call("mount", *strings, flags, options or 0, path=target)

    def umount2(self, target: str, flags: int = 0) -> None:
        self.call("umount2", os.fsencode(target), flags, path=target)

    def pivot_root(self, new_root: str, put_old: str) -> None:
        self.call("pivot_root", os.fsencode(new_root), os.fsencode(put_old), path=new_root)

    def mkdir(self, path: str, mode: int) -> None:
        self.call("mkdirat", _AT_FDCWD, os.fsencode(path), mode, path=path)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self.call("fchownat", _AT_FDCWD, os.fsencode(path), uid, gid, 0, path=path)

    def chmod(self, path: str, mode: int) -> None:
        self.call("fchmodat", _AT_FDCWD, os.fsencode(path), mode, path=path)

    def chdir(self, path: str) -> None:
        self.call("chdir", os.fsencode(path), path=path)

    def bind(self, source: str, target: str, *, recursive: bool = False, readonly: bool = False) -> None:
        """Not read-only, which takes calls that hand on a descriptor."""
        if readonly:
            raise NotRecordable(target)
        self.mount(source, target, "", MS_BIND | MS_REC if recursive else MS_BIND)

    def make_point(self, source: str, target: str) -> None:
        """Whether it is to be a directory can only be seen there."""
        raise NotRecordable(source, target)


_HEADER: Final = 5
_WORDS: Final = 9
"""Words of the header (done, flags, pidfd, result, status), and of each call (number, six arguments, least, store)."""


class Script:
    """The calls of a `Recorder` in the shape that the code reads; runs as often as wanted, one child at a time.

    Args:
        calls: the last one must be an exec, or not return.
    """

    def __init__(self, calls: Sequence[_Recorded]) -> None:
        self._calls: Final = tuple(calls)
        self._words: Final = (ctypes.c_int64 * (_HEADER + _WORDS * len(calls)))()
        self._kept: list[object] = []
        self._slots: dict[str, list[int]] = {}
        for index, call in enumerate(self._calls):
            at = _HEADER + _WORDS * index
            self._words[at] = NUMBERS[call.name]
            self._words[at + 7] = call.least
            for position, argument in enumerate(call.arguments, at + 1):
                self._words[position] = self._word(argument, position)

    def _word(self, argument: Argument, position: int) -> int:
        match argument:
            case int():
                return argument
            case Slot(name):
                self._slots.setdefault(name, []).append(position)
                return 0
            case ResultOf(index):
                self._words[_HEADER + _WORDS * index + 8] = ctypes.addressof(self._words) + 8 * position
                return 0
            case bytes():
                return self._address(ctypes.create_string_buffer(argument))
            case Address(words):
                return self._address((ctypes.c_int64 * len(words))(*(self._word(word, 0) for word in words)))

    def _address(self, buffer: ctypes.Array[ctypes.c_char] | ctypes.Array[ctypes.c_int64]) -> int:
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def start(self, flags: int, status: int, slots: dict[str, int]) -> tuple[int, int]:
        """A child in the new namespaces of `flags` that carries out the calls.

        Args:
            status: it writes something there when a call fails. Close-on-exec: end of file tells of its exec or its end.
            slots: a value for each `Slot`.

        Returns:
            (pid, pidfd), the pidfd close-on-exec.

        Raises:
            OSError: as `clone.clone`.
        """
        words = self._words
        words[:_HEADER] = [0, flags | _CLONE_VM | _CLONE_PIDFD | signal.SIGCHLD, -1, 0, status]
        for name, positions in self._slots.items():
            for position in positions:
                words[position] = slots[name]
        code = _code()
        if code is None:
            raise OSError(errno.ENOSYS, "no machine code here")
        pid = code(ctypes.addressof(words))
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid, words[2] & 0xFFFFFFFF

    @property
    def done(self) -> int:
        """How many calls have succeeded; the exec never counts."""
        return self._words[0]

    def failure(self) -> OSError | None:
        """What the call that failed answered; errno 0 where it succeeded with less than was wanted."""
        if not self._words[3] and self.done >= len(self._calls) - 1:
            return None
        number = -min(self._words[3], 0)
        return OSError(number, os.strerror(number), self._calls[self.done].path or None)
