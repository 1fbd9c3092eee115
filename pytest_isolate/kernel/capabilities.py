"""Capabilities, `no_new_privs` and the session keyring: what a process gives up before it runs a test.

Sources: capabilities(7), capset(2), prctl(2), keyctl(2).
"""

from __future__ import annotations

import ctypes
import errno
import time
from collections.abc import Iterable
from typing import Final

from pytest_isolate.kernel.syscalls import prctl, syscall

__all__ = [
    "DOCKER_DEFAULT",
    "capset",
    "drop_bounding",
    "join_session_keyring",
    "keep_over_exec",
    "set_no_new_privs",
    "set_parent_death_signal",
]

_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1

DOCKER_DEFAULT: Final = frozenset(
    {
        0,  # CAP_CHOWN
        1,  # CAP_DAC_OVERRIDE
        3,  # CAP_FOWNER
        4,  # CAP_FSETID
        5,  # CAP_KILL
        6,  # CAP_SETGID
        7,  # CAP_SETUID
        8,  # CAP_SETPCAP
        10,  # CAP_NET_BIND_SERVICE
        13,  # CAP_NET_RAW
        18,  # CAP_SYS_CHROOT
        27,  # CAP_MKNOD
        29,  # CAP_AUDIT_WRITE
        31,  # CAP_SETFCAP
    }
)
"""The set a Docker container has by default (moby, daemon/pkg/oci/caps/defaults.go)."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_bounding(keep: Iterable[int]) -> None:
    """Drop all but `keep` from the bounding set, so that no exec can regain them, and empty the ambient set.

    Raises:
        OSError: EPERM without CAP_SETPCAP in the caller's user namespace.
    """
    kept = frozenset(keep)
    for capability in range(64):
        if capability not in kept:
            try:
                prctl(_PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno == errno.EINVAL:  # past CAP_LAST_CAP of this kernel
                    break
                raise
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def capset(keep: Iterable[int]) -> None:
    """capset(2): `keep` as permitted and effective set, nothing inheritable. Raises OSError."""
    data = (_Data * 2)()
    for capability in keep:
        word, bit = divmod(capability, 32)
        data[word].effective |= 1 << bit
        data[word].permitted |= 1 << bit
    header = _Header(_CAPABILITY_VERSION_3, 0)
    syscall("capset", ctypes.byref(header), ctypes.byref(data))


def keep_over_exec() -> None:
    """Have what the caller may do survive an exec, though it isn't uid 0: permitted, inheritable and ambient (Linux 4.3).

    Raises:
        OSError
    """
    header = _Header(_CAPABILITY_VERSION_3, 0)
    data = (_Data * 2)()
    syscall("capget", ctypes.byref(header), ctypes.byref(data))
    for half in data:
        half.inheritable = half.permitted
    syscall("capset", ctypes.byref(header), ctypes.byref(data))
    for capability in range(64):
        word, bit = divmod(capability, 32)
        if data[word].permitted >> bit & 1:
            prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def set_no_new_privs() -> None:
    """No exec of the caller or its descendants gains privileges again (Linux 3.5). Raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_parent_death_signal(number: int) -> None:
    """Send the caller signal `number` when the thread that created it ends. Raises OSError."""
    prctl(_PR_SET_PDEATHSIG, number)


def join_session_keyring() -> None:
    """A new, anonymous session keyring for the caller, so that keys of the host's session are out of reach.

    Where seccomp forbids keyctl (Docker's default profile) no key can be reached anyway: that passes.
    The quota of keys is given back by a kernel worker a moment after a keyring's last user exits, so EDQUOT
    is tried again for up to a second.

    Raises:
        OSError: EDQUOT.
    """
    for attempt in range(100):
        try:
            syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOSYS):
                return
            if error.errno != errno.EDQUOT or attempt == 99:
                raise
            time.sleep(0.01)
        else:
            return
