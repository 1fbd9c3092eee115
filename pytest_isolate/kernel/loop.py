"""Files as block devices: loop(4), driven by its ioctls (include/uapi/linux/loop.h; LOOP_CONFIGURE since Linux 5.8)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

__all__ = ["CONTROL", "attach", "shut_down"]

CONTROL: Final = "/dev/loop-control"

_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_AUTOCLEAR: Final = 4
_CONFIG: Final = struct.Struct("=II 5Q 4I 64s 64s 32s 2Q 64x")
"""loop_config: fd, block size; loop_info64; reserved."""
_ATTEMPTS: Final = 64

_EXT4_IOC_SHUTDOWN: Final = 0x8004587D
_NO_LOG_FLUSH: Final = struct.pack("=I", 2)


def attach(file: int, block_size: int) -> tuple[str, int]:
    """The path of a loop device for an open file, and an fd of it.

    The device lets go of the file with its last user (LO_FLAGS_AUTOCLEAR): when the fd is closed and nothing of it is mounted, by
    SIGKILL too.

    Raises:
        OSError: ENOENT, EACCES, EPERM: there are no loop devices for the caller.
    """
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            config = _CONFIG.pack(file, block_size, *[0] * 5, *[0] * 3, _AUTOCLEAR, b"", b"", b"", 0, 0)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody was faster
                    error.filename = path
                    raise
            else:
                return path, device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), CONTROL)


def shut_down(directory: int) -> None:
    """Nothing more of the file system that `directory` is on is written back: unmounting it costs no I/O. Raises OSError where it can't (not ext4)."""
    fcntl.ioctl(directory, _EXT4_IOC_SHUTDOWN, _NO_LOG_FLUSH)
