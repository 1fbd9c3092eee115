"""Blocking all signals for a moment, cheaply, and whose handler a signal has.

`signal.pthread_sigmask` turns every signal number of the old mask into an enum member, 60 of them where all
are blocked: a third of a millisecond for a fork that needs four calls. This is sigprocmask(3) on opaque bytes.

`signal.getsignal` knows what Python's own `signal.signal` did and what was there when the interpreter started, not what
`faulthandler.register` or an extension module did since. The kernel knows.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
from typing import Final

from pytest_isolate.kernel.syscalls import libc

__all__ = ["block_signals", "handler_of", "has_ended", "restore_signals"]

_SIG_SETMASK: Final = 2
_SIGSET_BYTES: Final = 128
_EVERY: Final = b"\xff" * _SIGSET_BYTES

_SIGACTION_BYTES: Final = 256
"""More than any architecture's struct sigaction, whose first member is the handler (MIPS aside)."""

_pthread_sigmask = libc.pthread_sigmask
_pthread_sigmask.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
_pthread_sigmask.restype = ctypes.c_int


def block_signals() -> bytes:
    """Block every signal for the calling thread; what `restore_signals` takes."""
    former = ctypes.create_string_buffer(_SIGSET_BYTES)
    _pthread_sigmask(_SIG_SETMASK, _EVERY, former)
    return former.raw


def restore_signals(mask: bytes) -> None:
    """Put back what `block_signals` gave; pending signals arrive now, and raise what their handlers raise."""
    _pthread_sigmask(_SIG_SETMASK, mask, None)


def handler_of(number: int) -> int:
    """The address of a signal's handler in this process, as sigaction(2) tells it: 0 is SIG_DFL, 1 SIG_IGN. Raises OSError."""
    found = ctypes.create_string_buffer(_SIGACTION_BYTES)
    if libc.sigaction(number, None, found) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_void_p)], sys.byteorder)


def has_ended(pidfd: int, seconds: float) -> bool:
    """Whether the process ends within `seconds`; what is to be read of a pidfd is that (pidfd_open(2))."""
    ready, _, _ = select.select([pidfd], [], [], seconds)
    return bool(ready)
