"""The funnel to libc: each function declared once, each errno turned into an `OSError`.

`ctypes` with `use_errno` keeps errno per thread, so that nothing between call and check can overwrite it.
System calls without a libc wrapper go through `syscall(2)` by number; numbers from 424 on are the same on
every architecture (Linux 5.1, "unified system call numbers").
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any, Final

__all__ = ["NUMBERS", "libc", "prctl", "sethostname", "setns", "syscall", "unshare"]

libc: Final = ctypes.CDLL(None, use_errno=True)

_UNIFIED: Final = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "mount_setattr": 442,
    "clone3": 435,
    "openat2": 437,
}
# The second half of those that scripts run on (`script`): system calls that have functions in libc.
_BY_MACHINE: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "clone": 56, "pivot_root": 155, "capget": 125, "capset": 126, "keyctl": 250, "perf_event_open": 298, "set_robust_list": 273,
        "get_robust_list": 274, "rseq": 334,
        "read": 0, "close": 3, "ioctl": 16, "socket": 41, "fcntl": 72, "chdir": 80, "setsid": 112, "prctl": 157, "mount": 165, "umount2": 166,
        "sethostname": 170, "mkdirat": 258, "fchownat": 260, "fchmodat": 268, "dup3": 292, "execveat": 322,
    },
    "aarch64": {
        "clone": 220, "pivot_root": 41, "capget": 90, "capset": 91, "keyctl": 219, "perf_event_open": 241, "set_robust_list": 99,
        "get_robust_list": 100, "rseq": 293,
        "dup3": 24, "fcntl": 25, "ioctl": 29, "mkdirat": 34, "umount2": 39, "mount": 40, "chdir": 49, "fchmodat": 53, "fchownat": 54, "close": 57,
        "read": 63, "setsid": 157, "sethostname": 161, "prctl": 167, "socket": 198, "execveat": 281,
    },
    "riscv64": {
        "clone": 220, "pivot_root": 41, "capget": 90, "capset": 91, "keyctl": 219, "perf_event_open": 241, "set_robust_list": 99,
        "get_robust_list": 100,
    },
}  # fmt: skip

NUMBERS: Final[dict[str, int]] = {**_UNIFIED, **_BY_MACHINE.get(platform.machine(), {})}
"""System call numbers of this machine by name; one that isn't there isn't supported here."""


def _declare(name: str, *argtypes: Any) -> Any:
    function = getattr(libc, name)
    function.argtypes = argtypes
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    return function


_unshare = _declare("unshare", ctypes.c_int)
_setns = _declare("setns", ctypes.c_int, ctypes.c_int)
_sethostname = _declare("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_prctl = _declare("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long


def check(result: int, path: str = "") -> int:
    """`result`, or `OSError` with errno (and `path`) where it is -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path or None)
    return result


def unshare(flags: int) -> None:
    """unshare(2): new namespaces for the caller. Raises OSError."""
    check(_unshare(flags))


def setns(fd: int, flags: int) -> None:
    """setns(2) with a namespace fd or, since Linux 5.8, a pidfd and several flags. Raises OSError."""
    check(_setns(fd, flags))


def sethostname(name: str) -> None:
    """sethostname(2) in the caller's UTS namespace. Raises OSError."""
    data = name.encode()
    check(_sethostname(data, len(data)))


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2) with integer arguments. Raises OSError."""
    return check(_prctl(option, arg2, arg3, arg4, arg5))


def syscall(name: str, *args: Any, path: str = "") -> int:
    """A system call by name; integers, bytes and ctypes objects as arguments.

    Raises:
        OSError: ENOSYS too where this architecture's number isn't known.
    """
    if name not in NUMBERS:
        import errno

        raise OSError(errno.ENOSYS, f"no number for {name} on {platform.machine()}", path or None)
    wide = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return check(_syscall(ctypes.c_long(NUMBERS[name]), *wide), path)
