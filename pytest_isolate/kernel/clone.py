"""Raw clone(2) and clone3(2), for what fork can't do: new namespaces at birth, a pidfd from birth, a sibling as child,
a cgroup from birth.

It skips libc's at-fork handlers, so it is safe only in a process with a single thread: nobody else can hold a lock of
libc's then. Python's own at-fork handlers are called as os.fork does, but for `clone`, whose child execs; what libc
keeps about the thread is mended (`thread_record`). A copy that is born in another process's namespaces is `born_inside`'s.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import sys
from collections.abc import Callable
from typing import Final

from pytest_isolate.kernel.syscalls import NUMBERS, setns
from pytest_isolate.kernel.thread_record import ThreadRecord, only_thread

__all__ = ["CLONE_PARENT", "CloneArgs", "as_os_fork_does", "clone", "clone_in_network", "fork_into", "sibling"]

CLONE_PARENT: Final = 0x00008000
_CLONE_NEWNET: Final = 0x40000000
_CLONE_PIDFD: Final = 0x00001000
_CLONE_CHILD_CLEARTID: Final = 0x00200000
_CLONE_CHILD_SETTID: Final = 0x01000000
_CLONE_INTO_CGROUP: Final = 0x200000000

# PyDLL keeps the GIL over the call: the child must not have to take back a lock that it never released.
_python: Final = ctypes.PyDLL(None, use_errno=True)
_syscall: Final = _python.syscall
_syscall.restype = ctypes.c_long


class CloneArgs(ctypes.Structure):
    """struct clone_args of clone3(2), with `cgroup` (Linux 5.7)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup",
        )
    )  # fmt: skip

    @classmethod
    def of_copy(cls, flags: int, record: ThreadRecord | None, cgroup_fd: int | None, parent_tid: int = 0) -> CloneArgs:
        """For a copy of the calling thread.

        Args:
            flags: CLONE_PARENT or 0.
            record: of the calling thread, whose id is to be set in the copy.
            cgroup_fd: of the cgroup v2 directory to be born in.
            parent_tid: where the kernel writes the copy's pid (CLONE_PARENT_SETTID in `flags`).
        """
        if record is not None:
            flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
        if cgroup_fd is not None:
            flags |= _CLONE_INTO_CGROUP
        return cls(
            flags=flags,
            child_tid=record.tid_address if record else 0,
            parent_tid=parent_tid,
            # With CLONE_PARENT it is the caller's own, and clone3 wants none (clone3_args_valid, kernel/fork.c).
            exit_signal=0 if flags & CLONE_PARENT else signal.SIGCHLD,
            cgroup=cgroup_fd or 0,
        )


def clone(flags: int) -> tuple[int, int]:
    """A child in the new namespaces of `flags`.

    Returns:
        (pid, pidfd) in the parent, the pidfd close-on-exec; (0, -1) in the child.

    Raises:
        OSError: EPERM, EINVAL, ENOSPC (a limit of user_namespaces(7)), ENOSYS on an unknown architecture.
    """
    pidfd = ctypes.c_int(-1)
    pid = _call("clone", ctypes.c_long(flags | _CLONE_PIDFD | signal.SIGCHLD), _ZERO, ctypes.byref(pidfd), _ZERO, _ZERO)
    return (pid, pidfd.value) if pid else (0, -1)


def clone_in_network(network: int, flags: int) -> tuple[int, int]:
    """As `clone`, the child in the network namespace of fd `network`, where the caller itself may not be able to return from.

    A first child goes there and makes the second one as its sibling (CLONE_PARENT), so that it is the caller's all the same.
    The caller must ignore SIGCHLD, or have its children reaped otherwise.

    Raises:
        OSError: of setns(2), EPERM without CAP_SYS_ADMIN over the namespace; of clone(2).
    """
    told, tell = os.pipe()
    first = os.fork()
    if first:
        os.close(tell)
        with os.fdopen(told, "rb") as file:
            kind, _, number = file.read().partition(b" ")
        if kind != b"pid":
            code = int(number or errno.ECHILD)
            raise OSError(code, os.strerror(code))
        return int(number), os.pidfd_open(int(number))
    os.close(told)
    try:
        setns(network, _CLONE_NEWNET)
        pid, _pidfd = clone(flags | CLONE_PARENT)
    except OSError as error:
        os.write(tell, b"errno %d" % (error.errno or errno.ECHILD))
        os._exit(1)
    if pid:
        os.write(tell, b"pid %d" % pid)
        os._exit(0)
    os.close(tell)
    return 0, -1


def fork_into(cgroup_fd: int) -> int:
    """os.fork of a process with one thread, the child born in a cgroup v2 directory (CLONE_INTO_CGROUP, Linux 5.7).

    Moving it there after the fork would take a write to cgroup.procs, which waits for an RCU grace period: up to 20 ms.

    Args:
        cgroup_fd: of the directory, O_PATH will do.

    Returns:
        The child's pid, 0 in the child.

    Raises:
        OSError: EAGAIN also where pids.max of the group is reached; EBUSY where the group can't hold processes; EACCES where
            it isn't the caller's to give; ENOSYS on another libc than glibc, on an older kernel, under a seccomp filter
            without clone3; EDEADLK where the process has threads.
    """
    if not only_thread():
        raise OSError(errno.EDEADLK, "a process with threads can't be cloned behind libc's back")
    if (record := ThreadRecord.of_caller()) is None:
        raise OSError(errno.ENOSYS, "libc's thread id can't be set in a clone")
    return _copy(0, record, cgroup_fd)


def sibling(cgroup_fd: int | None = None) -> int:
    """A copy of the caller that is a child of the caller's parent (CLONE_PARENT). Caller: a fresh fork.

    Args:
        cgroup_fd: as for `fork_into`.

    Returns:
        The copy's pid in the caller, 0 in the copy.

    Raises:
        OSError
    """
    return _copy(CLONE_PARENT, ThreadRecord.of_caller(), cgroup_fd)


def _copy(flags: int, record: ThreadRecord | None, cgroup_fd: int | None) -> int:
    args = CloneArgs.of_copy(flags, record, cgroup_fd)

    def copied() -> int:
        if cgroup_fd is not None:
            return _call("clone3", ctypes.byref(args), ctypes.c_size_t(ctypes.sizeof(args)))
        words = [0, 0, args.child_tid, 0] if platform.machine() == "x86_64" else [0, 0, 0, args.child_tid]
        return _call("clone", ctypes.c_long(args.flags | args.exit_signal), *map(ctypes.c_long, words))

    return as_os_fork_does(copied, record)


def as_os_fork_does(make: Callable[[], int], record: ThreadRecord | None) -> int:
    """Call Python's at-fork handlers around `make`, and mend `record` in the copy.

    Args:
        make: 0 in the copy, else its pid, or OSError.

    Raises:
        OSError: what `make` raised.
    """
    sys.audit("os.fork")
    _python.PyOS_BeforeFork()
    try:
        pid = make()
    except BaseException:
        _python.PyOS_AfterFork_Parent()
        raise
    if pid:
        _python.PyOS_AfterFork_Parent()
        return pid
    if record is not None:
        record.restore()
    _python.PyOS_AfterFork_Child()
    return 0


_ZERO: Final = ctypes.c_long(0)


def _call(name: str, *args: object) -> int:
    if name not in NUMBERS:
        raise OSError(errno.ENOSYS, f"no number for {name} on {platform.machine()}")
    result: int = _syscall(ctypes.c_long(NUMBERS[name]), *args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
