"""PID 1 of a sandbox: a program of one page that does nothing but wait for the builder's death.

An init forked from a Python process keeps megabytes of copied heap for as long as the sandbox lives. So
init execs a static ELF file, written here byte by byte into a memfd: 12 kB resident instead of 1.3 to
3 MB. It needs no file of the root file system, so that it starts in any.

What init must do and who does it:

* reap orphans: it starts with SIGCHLD ignored, which exec keeps, and the kernel then reaps the children
  of such a process by itself (wait(2), NOTES);
* end with the builder: it polls the builder's pidfd, fd 3, and PR_SET_PDEATHSIG stands behind that;
* survive signals from inside: the kernel drops every signal that PID 1 has no handler for
  (pid_namespaces(7)).

On a machine whose code isn't here, or that forbids executable memfds, the same loop runs in Python.
"""

from __future__ import annotations

import os
import platform
import select
import struct
from contextlib import suppress
from typing import Final, NoReturn

__all__ = ["BUILDER_FD", "NAME", "become_init", "open_program", "program"]

NAME: Final = "pytest-isolate-init"
"""As ps(1) shows it."""

BUILDER_FD: Final = 3
"""Where init finds the builder's pidfd."""

_X86_64: Final = bytes.fromhex(
    "48b8 0300000001000000"  # movabs rax, {fd = 3, events = POLLIN}
    "50"  #                    push   rax
    "b8 07000000"  #     wait: mov    eax, SYS_poll
    "4889e7"  #                mov    rdi, rsp
    "be 01000000"  #           mov    esi, 1
    "ba ffffffff"  #           mov    edx, -1
    "0f05"  #                  syscall
    "83f801"  #                cmp    eax, 1
    "75 e7"  #                 jne    wait
    "b8 e7000000"  #           mov    eax, SYS_exit_group
    "31ff"  #                  xor    edi, edi
    "0f05"  #                  syscall
)
_AARCH64: Final = bytes.fromhex(
    "690080d2"  #              mov  x9, #3
    "2900c0f2"  #              movk x9, #1, lsl #32
    "e90f1ff8"  #              str  x9, [sp, #-16]!
    "e0030091"  #        wait: mov  x0, sp
    "210080d2"  #              mov  x1, #1
    "020080d2"  #              mov  x2, #0
    "030080d2"  #              mov  x3, #0
    "280980d2"  #              mov  x8, #73 (ppoll)
    "010000d4"  #              svc  #0
    "1f040071"  #              cmp  w0, #1
    "21ffff54"  #              b.ne wait
    "000080d2"  #              mov  x0, #0
    "c80b80d2"  #              mov  x8, #94 (exit_group)
    "010000d4"  #              svc  #0
)
_PROGRAMS: Final = {"x86_64": (62, _X86_64), "aarch64": (183, _AARCH64)}
_ADDRESS: Final = 0x400000


def program(machine: str) -> bytes | None:
    """The ELF file for `machine` (as platform.machine() spells it), None if there is none. Source: elf(5)."""
    if machine not in _PROGRAMS:
        return None
    number, code = _PROGRAMS[machine]
    headers = 64 + 56
    size = headers + len(code)
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, number, 1, _ADDRESS + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x1000)
    return elf + load + code


def open_program() -> int | None:
    """An executable memfd of `program`, close-on-exec; None where the machine can't have one."""
    image = program(platform.machine())
    if image is None:
        return None
    try:
        fd = os.memfd_create(NAME)
        os.write(fd, image)
        if fd == BUILDER_FD:  # that number is to become the builder's pidfd
            fd = os.dup(fd)
            os.close(BUILDER_FD)
    except OSError:  # no memfd here, or vm.memfd_noexec=2
        return None
    return fd


def become_init(program_fd: int | None, builder: int) -> NoReturn:
    """Turn the caller, PID 1 with SIGCHLD ignored, into init. Every fd but `builder` must be close-on-exec."""
    if builder != BUILDER_FD:
        os.dup2(builder, BUILDER_FD)
    os.set_inheritable(BUILDER_FD, True)
    if program_fd is not None:
        with suppress(OSError):  # vm.memfd_noexec, or a security module: the loop below does the same with more memory
            os.execve(program_fd, [NAME], {})
    os.closerange(BUILDER_FD + 1, 1024)
    poll = select.poll()
    poll.register(BUILDER_FD, select.POLLIN)
    while not poll.poll():
        pass
    os._exit(0)
