"""Raw clone(2), for what fork can't do: new namespaces at birth, a pidfd from birth, a sibling as child.

It skips glibc's and Python's at-fork handlers, so it is safe only in a process with a single thread, and
the caller must know what in the child's libc then is stale. `sibling` mends the one thing that matters,
the thread id that glibc keeps.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from typing import Final

from pytest_isolate.kernel.syscalls import NUMBERS, prctl

__all__ = ["clone", "sibling"]

_CLONE_PIDFD: Final = 0x00001000
_CLONE_PARENT: Final = 0x00008000
_PR_GET_TID_ADDRESS: Final = 40

# PyDLL keeps the GIL over the call: the child must not have to take back a lock that it never released.
_python: Final = ctypes.PyDLL(None, use_errno=True)
_syscall: Final = _python.syscall
_syscall.restype = ctypes.c_long


def _clone(flags: int, parent_tid: object) -> int:
    zero = ctypes.c_long(0)
    result: int = _syscall(ctypes.c_long(NUMBERS["clone"]), ctypes.c_long(flags | signal.SIGCHLD), zero, parent_tid, zero, zero)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def clone(flags: int) -> tuple[int, int]:
    """A child in the new namespaces of `flags`.

    Returns:
        (pid, pidfd) in the parent, the pidfd close-on-exec; (0, -1) in the child.

    Raises:
        OSError: EPERM, EINVAL, ENOSPC (a limit of user_namespaces(7)), ENOSYS on an unknown architecture.
    """
    if "clone" not in NUMBERS:
        raise OSError(38, f"no clone number for {platform.machine()}")
    pidfd = ctypes.c_int(-1)
    pid = _clone(flags | _CLONE_PIDFD, ctypes.byref(pidfd))
    return (pid, pidfd.value) if pid else (0, -1)


def sibling() -> int:
    """A copy of the caller that is a child of the caller's parent (CLONE_PARENT). Caller: a fresh fork.

    Python's at-fork handlers are run as os.fork does; glibc's cached thread id is set to the copy's own.

    Returns:
        The copy's pid in the caller, 0 in the copy.

    Raises:
        OSError
    """
    if "clone" not in NUMBERS:
        raise OSError(38, f"no clone number for {platform.machine()}")
    cached_tid = _tid_address()
    _python.PyOS_BeforeFork()
    try:
        pid = _clone(_CLONE_PARENT, ctypes.c_long(0))
    except OSError:
        _python.PyOS_AfterFork_Parent()
        raise
    if pid:
        _python.PyOS_AfterFork_Parent()
        return pid
    if cached_tid is not None:
        cached_tid.value = os.getpid()
    _python.PyOS_AfterFork_Child()
    return 0


def _tid_address() -> ctypes.c_int | None:
    """Where glibc keeps this thread's id: the address it gave the kernel to clear (CONFIG_CHECKPOINT_RESTORE)."""
    address = ctypes.c_void_p()
    try:
        prctl(_PR_GET_TID_ADDRESS, ctypes.addressof(address))
    except OSError:
        return None
    return ctypes.c_int.from_address(address.value) if address.value else None
