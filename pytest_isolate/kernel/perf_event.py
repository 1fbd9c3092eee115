"""perf_event_open(2): counters of the kernel and the processor, for one process and all that comes of it.

An event that is opened with `inherit` counts its process, each child and thread that is made from then on, and theirs,
whoever waits for them; the programs that they execute, too. Reading it adds up those that live and those that ended. One
that is per cgroup would need a counter on every CPU and privileges in the initial user namespace
(PERF_FLAG_PID_CGROUP); this needs none as long as ``kernel.perf_event_paranoid`` is at most 2 and only user mode is
counted. So that is what is counted for everybody, root included: figures of root and of a user then mean the same.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import Final, Self

from pytest_isolate.kernel.syscalls import syscall

__all__ = ["INSTRUCTIONS", "PAGE_FAULTS", "Counter", "Event", "Reading", "paranoid", "refusal"]


@dataclass(frozen=True, slots=True)
class Event:
    """What is counted: `type` and `config` of struct perf_event_attr."""

    name: str
    type: int
    config: int


INSTRUCTIONS: Final = Event("PERF_COUNT_HW_INSTRUCTIONS", 0, 1)
"""Instructions that the processor retired: the same work is the same number, however busy the machine is."""

PAGE_FAULTS: Final = Event("PERF_COUNT_SW_PAGE_FAULTS", 1, 2)
"""Of user mode."""

# struct perf_event_attr as of Linux 2.6.31, PERF_ATTR_SIZE_VER0 bytes, which every later kernel takes: type, size, config,
# sample_period, sample_type, read_format, flags, wakeup_events, bp_type, config1.
_ATTR: Final = struct.Struct("=IIQQQQQIIQ")
_DISABLED: Final = 1 << 0
_INHERIT: Final = 1 << 1
_EXCLUDE_KERNEL: Final = 1 << 5
_EXCLUDE_HV: Final = 1 << 6
_TIME_ENABLED_AND_RUNNING: Final = 1 | 2
_FD_CLOEXEC: Final = 8
_IOC_ENABLE: Final = 0x2400
_READING: Final = struct.Struct("=QQQ")


@dataclass(frozen=True, slots=True)
class Reading:
    """
    Attributes:
        value: what was counted.
        enabled, running: nanoseconds in which it should have counted, and in which it did: a processor has few counters, which
            the kernel shares out among those who ask, and a processor of two kinds of core may count on one of them only.
    """

    value: int
    enabled: int
    running: int

    @property
    def whole(self) -> int | None:
        """The value where all of the time was counted, else None: what perf(1) extrapolates then is no count."""
        return self.value if self.running == self.enabled else None


class Counter:
    """A counter of user mode, closed by `close`.

    Args:
        fd: of the event; owned by this object.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def open(cls, event: Event = INSTRUCTIONS, *, inherit: bool = True) -> Self:
        """Of the calling process, which must have one thread, and with `inherit` of all that comes of it. It stands still until `start`.

        Raises:
            OSError: EACCES or EPERM: ``kernel.perf_event_paranoid`` or a seccomp filter; ENOENT or EOPNOTSUPP: there is no such
                counter, as in most virtual machines; ENOSYS: a kernel without perf events, or an architecture whose number of
                the call isn't known.
        """
        flags = _DISABLED | _EXCLUDE_KERNEL | _EXCLUDE_HV | (_INHERIT if inherit else 0)
        packed = _ATTR.pack(event.type, _ATTR.size, event.config, 0, 0, _TIME_ENABLED_AND_RUNNING, flags, 0, 0, 0)
        attr = ctypes.create_string_buffer(packed, _ATTR.size)
        return cls(syscall("perf_event_open", attr, 0, -1, -1, _FD_CLOEXEC))

    def start(self) -> None:
        """Raises OSError."""
        fcntl.ioctl(self.fd, _IOC_ENABLE, 0)

    def read(self) -> Reading:
        """Also from another process that was given the descriptor, and after all that is counted has ended. Raises OSError."""
        return Reading(*_READING.unpack(os.read(self.fd, _READING.size)))

    def close(self) -> None:
        os.close(self.fd)


def refusal(event: Event = INSTRUCTIONS) -> OSError | None:
    """Why `event` can't be counted by this process, found by counting; ENODATA: the counter is there and stands still."""
    try:
        counter = Counter.open(event)
    except OSError as error:
        return error
    try:
        counter.start()
        sum(range(1000))
        moved = event == PAGE_FAULTS or counter.read().value > 0
    except OSError as error:
        return error
    finally:
        counter.close()
    return None if moved else OSError(errno.ENODATA, os.strerror(errno.ENODATA))


def paranoid() -> int | None:
    """``kernel.perf_event_paranoid``; None where there is none."""
    try:
        with open("/proc/sys/kernel/perf_event_paranoid", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
