"""A copy of the calling process that is born in the namespaces of another one, at the price of one copy of its memory.

setns(2) can't point an unprivileged caller back to its own PID namespace, so the caller can't enter itself, and a first
fork that enters and forks again copies the address space twice. Here the one that enters copies nothing: it shares
the caller's memory (CLONE_VM), while the caller is stopped (CLONE_VFORK), makes the copy as its own sibling (CLONE_PARENT)
and ends. As the memory is the caller's, stack, thread-local storage, errno and Python's state included, it must not run a
line of Python or libc. It is 128 bytes or so of machine code, which use registers and one struct alone: setns, clone,
exit, no call, no stack. The copy, whose stack is a copy of the caller's, returns from the same function, as from a fork.

Only on x86_64 and aarch64 with glibc, where memory may become executable, and in a process with one thread: libc's
at-fork handlers are skipped (see `clone`). `available` says so; elsewhere the caller forks twice.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Callable
from functools import cache
from typing import Final

from pytest_isolate.kernel.clone import CLONE_PARENT, CloneArgs, as_os_fork_does
from pytest_isolate.kernel.machine_code import function
from pytest_isolate.kernel.syscalls import NUMBERS
from pytest_isolate.kernel.thread_record import ThreadRecord, only_thread

__all__ = ["available", "fork_inside"]

_CLONE_PARENT_SETTID: Final = 0x00100000

_X86_64: Final = bytes.fromhex(
    "4989f9"  #               mov    r9, rdi               the struct; a system call leaves r9 alone
    "bf 11410000"  #          mov    edi, CLONE_VM | CLONE_VFORK | SIGCHLD
    "31f6"  #                 xor    esi, esi              the same stack, which isn't used
    "31d2"  #                 xor    edx, edx
    "4531d2"  #               xor    r10d, r10d
    "4531c0"  #               xor    r8d, r8d
    "b8 38000000"  #          mov    eax, SYS_clone
    "0f05"  #                 syscall
    "4885c0"  #               test   rax, rax
    "75 48"  #                jnz    caller
    "418b39"  #               mov    edi, [r9 + pidfd]
    "418b7104"  #             mov    esi, [r9 + namespaces]
    "b8 34010000"  #          mov    eax, SYS_setns
    "0f05"  #                 syscall
    "4885c0"  #               test   rax, rax
    "78 28"  #                js     failed
    "41c74134 02000000"  #    mov    [r9 + step], 2
    "498b4108"  #             mov    rax, [r9 + number]    clone or clone3
    "498b7910"  #             mov    rdi, [r9 + arguments]
    "498b7118"  #             mov    rsi, [r9 + arguments + 8]
    "498b5120"  #             mov    rdx, [r9 + arguments + 16]
    "4d8b5128"  #             mov    r10, [r9 + arguments + 24]
    "4531c0"  #               xor    r8d, r8d
    "0f05"  #                 syscall
    "4885c0"  #               test   rax, rax
    "74 28"  #                jz     done                  the copy: 0
    "79 04"  #                jns    leave                 the kernel has written its pid to [r9 + answer]
    "41894130"  #     failed: mov    [r9 + answer], eax
    "31ff"  #          leave: xor    edi, edi
    "b8 3c000000"  #          mov    eax, SYS_exit
    "0f05"  #                 syscall
    "78 17"  #        caller: js     done
    "89c7"  #                 mov    edi, eax
    "31f6"  #                 xor    esi, esi
    "ba 00000040"  #          mov    edx, __WALL
    "4531d2"  #               xor    r10d, r10d
    "b8 3d000000"  #          mov    eax, SYS_wait4
    "0f05"  #                 syscall
    "49634130"  #             movsxd rax, [r9 + answer]
    "c3"  #             done: ret
)

_AARCH64: Final = bytes.fromhex(
    "e90300aa"  #         mov    x9, x0                        the struct; a system call changes x0 alone
    "202288d2"  #         mov    x0, CLONE_VM | CLONE_VFORK | SIGCHLD
    "e1031faa"  #         mov    x1, xzr                       the same stack, which isn't used
    "e2031faa"  #         mov    x2, xzr
    "e3031faa"  #         mov    x3, xzr
    "e4031faa"  #         mov    x4, xzr
    "881b80d2"  #         mov    x8, SYS_clone
    "010000d4"  #         svc    0
    "400200b5"  #         cbnz   x0, caller
    "20054029"  #         ldp    w0, w1, [x9]                  pidfd and namespaces
    "882180d2"  #         mov    x8, SYS_setns
    "010000d4"  #         svc    0
    "4001f8b7"  #         tbnz   x0, 63, failed
    "41008052"  #         mov    w1, 2
    "213500b9"  #         str    w1, [x9 + step]
    "280540f9"  #         ldr    x8, [x9 + number]             clone or clone3
    "200541a9"  #         ldp    x0, x1, [x9 + arguments]
    "221142a9"  #         ldp    x2, x4, [x9 + arguments + 16]
    "e3031faa"  #         mov    x3, xzr
    "010000d4"  #         svc    0
    "a00100b4"  #         cbz    x0, done                      the copy: 0
    "4000f8b6"  #         tbz    x0, 63, leave                 the kernel has written its pid to [x9 + answer]
    "203100b9"  # failed: str    w0, [x9 + answer]
    "e0031faa"  #  leave: mov    x0, xzr
    "a80b80d2"  #         mov    x8, SYS_exit
    "010000d4"  #         svc    0
    "e000f8b7"  # caller: tbnz   x0, 63, done
    "e1031faa"  #         mov    x1, xzr
    "0200a852"  #         mov    w2, __WALL
    "e3031faa"  #         mov    x3, xzr
    "882080d2"  #         mov    x8, SYS_wait4
    "010000d4"  #         svc    0
    "203180b9"  #         ldrsw  x0, [x9 + answer]
    "c0035fd6"  #   done: ret
)

_UNANSWERED: Final = -errno.ESRCH


class _Request(ctypes.Structure):
    """What the code reads and writes.

    `answer` becomes the copy's pid by CLONE_PARENT_SETTID: before the copy runs, so that it is known even if the one
    that made it is killed; or -errno. `step` is 1 until the namespaces are joined.
    """

    _fields_ = (
        ("pidfd", ctypes.c_int32),
        ("namespaces", ctypes.c_uint32),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 4),
        ("answer", ctypes.c_int32),
        ("step", ctypes.c_int32),
    )


def available() -> bool:
    """Whether `fork_inside` can do it here and now."""
    return only_thread() and _code() is not None and ThreadRecord.of_caller() is not None


def fork_inside(pidfd: int, namespaces: int, cgroup_fd: int | None = None) -> int:
    """os.fork, the child born in `namespaces` of another process. The caller must have blocked every signal.

    Args:
        pidfd: of that process.
        namespaces: CLONE_NEW* flags.
        cgroup_fd: of the cgroup v2 directory to be born in (see `clone.fork_into`); then CLONE_NEWCGROUP isn't to be among
            the namespaces, since the maker may not leave what its cgroup namespace shows (mount option nsdelegate).

    Returns:
        The child's pid, a direct child of the caller; 0 in the child.

    Raises:
        OSError: of setns(2) or clone(2); EAGAIN where a limit on processes is reached, ESRCH where the one that makes it was
            killed or that process is gone, ENOMEM where its PID namespace has lost its init, ENOSYS where not `available`.
    """
    code, record = _code(), ThreadRecord.of_caller(rseq=True)
    if code is None or record is None:
        raise OSError(errno.ENOSYS, f"not on {platform.machine()} with this libc")
    request = _Request(pidfd=pidfd, namespaces=namespaces, answer=_UNANSWERED, step=1)
    answer = ctypes.addressof(request) + _Request.answer.offset
    args = CloneArgs.of_copy(CLONE_PARENT | _CLONE_PARENT_SETTID, record, cgroup_fd, answer)
    if cgroup_fd is not None:
        request.number = NUMBERS["clone3"]
        request.arguments[:] = (ctypes.addressof(args), ctypes.sizeof(args), 0, 0)
    else:
        request.number = NUMBERS["clone"]
        request.arguments[:] = (args.flags, 0, answer, args.child_tid)

    def make() -> int:
        pid = code(ctypes.addressof(request))
        if pid < 0:
            raise OSError(-pid, f"{os.strerror(-pid)} ({_where(request, pid)})")
        return pid

    return as_os_fork_does(make, record)


def _where(request: _Request, answer: int) -> str:
    if request.answer == _UNANSWERED:
        return "clone of the one that enters" if answer != _UNANSWERED else "the one that enters was killed"
    return "setns" if request.step == 1 else "clone"


@cache
def _code() -> Callable[[int], int] | None:
    return function({"x86_64": _X86_64, "aarch64": _AARCH64})
