"""What libc and the kernel keep about a thread, told anew to a copy of it that libc's fork didn't make.

fork(3) of glibc makes the copy with CLONE_CHILD_SETTID, so that the thread id that it keeps in the thread's descriptor
is the copy's, and gives the kernel the list of robust mutexes again. A copy of a CLONE_VM child has also lost its
restartable sequences (rseq(2): "unregister rseq for a clone with CLONE_VM set"), without which the number of the CPU that
sched_getcpu(3) reads would stay for ever the one of the fork.

Not done: functions that C libraries registered with pthread_atfork(3). There is no way to call them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Final, Self

from pytest_isolate.kernel.machine_code import function
from pytest_isolate.kernel.syscalls import NUMBERS, libc, prctl, syscall

__all__ = ["ThreadRecord", "only_thread"]

_PR_GET_TID_ADDRESS: Final = 40
_RSEQ_SIGNATURE: Final = {"x86_64": 0x53053053, "aarch64": 0xD428BC00}.get(os.uname().machine)
"""RSEQ_SIG of glibc's bits/rseq.h."""
_RSEQ_LEAST: Final = 32
_RSEQ_CPU_ID: Final = 4
_RSEQ_FAILED: Final = -2
"""RSEQ_CPU_ID_REGISTRATION_FAILED: libc asks the kernel then."""


def only_thread() -> bool:
    """Whether the calling process has one thread, those that Python doesn't know counted (proc(5): a link each)."""
    try:
        return os.stat("/proc/self/task").st_nlink == 3
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class ThreadRecord:
    """Where the calling thread's are; read before the copy is made.

    Attributes:
        tid_address: of glibc's thread id; for CLONE_CHILD_SETTID and CLONE_CHILD_CLEARTID.
        robust_list: address and length of the head of its robust mutexes.
        rseq: address and length of its area of restartable sequences; None where libc has registered none, or the copy keeps it.
    """

    tid_address: int
    robust_list: tuple[int, int]
    rseq: tuple[int, int] | None

    @classmethod
    def of_caller(cls, *, rseq: bool = False) -> Self | None:
        """Of the calling thread, the only one. None where libc keeps no thread id at the address that it gave to the kernel:
        another libc than glibc (musl gives a lock's), or a kernel without CONFIG_CHECKPOINT_RESTORE.

        Args:
            rseq: the copy will come of a CLONE_VM child.
        """
        address = ctypes.c_void_p()
        head, length = ctypes.c_void_p(), ctypes.c_size_t()
        try:
            prctl(_PR_GET_TID_ADDRESS, ctypes.addressof(address))
            syscall("get_robust_list", 0, ctypes.byref(head), ctypes.byref(length))
        except OSError:
            return None
        if not address.value or ctypes.c_int.from_address(address.value).value != os.getpid():
            return None
        return cls(address.value, (head.value or 0, length.value), _rseq_area() if rseq else None)

    def restore(self) -> None:
        """In the copy. Raises nothing: there is nobody yet to tell."""
        with suppress(OSError):
            syscall("set_robust_list", ctypes.c_void_p(self.robust_list[0]), self.robust_list[1])
        if self.rseq is not None and _RSEQ_SIGNATURE is not None:
            address, length = self.rseq
            try:
                syscall("rseq", ctypes.c_void_p(address), length, 0, _RSEQ_SIGNATURE)
            except OSError:
                ctypes.c_int.from_address(address + _RSEQ_CPU_ID).value = _RSEQ_FAILED


def _rseq_area() -> tuple[int, int] | None:
    """glibc 2.35's variables, relative to the thread pointer."""
    if "rseq" not in NUMBERS or (thread := _thread_pointer()) is None:
        return None
    try:
        offset = ctypes.c_ssize_t.in_dll(libc, "__rseq_offset").value
        size = ctypes.c_uint.in_dll(libc, "__rseq_size").value
    except ValueError:
        return None
    return (thread + offset, max(size, _RSEQ_LEAST)) if size else None


# The thread pointer. On x86_64 it is what pthread_self(3) gives, elsewhere not.
_X86_64: Final = bytes.fromhex(
    "6448a1 1000000000000000"  #  movabs rax, fs:0x10
    "c3"  #                       ret
)
_AARCH64: Final = bytes.fromhex(
    "40d03bd5"  #                 mrs    x0, tpidr_el0
    "c0035fd6"  #                 ret
)


def _thread_pointer() -> int | None:
    code = _code()
    return code(0) if code is not None else None


@cache
def _code() -> Callable[[int], int] | None:
    return function({"x86_64": _X86_64, "aarch64": _AARCH64})
