"""Block devices as the cgroup io controllers name them: `MAJOR:MINOR` of a whole disk.

`st_dev` of a file is the device of its file system: a partition for most, an anonymous number (major 0)
where no single block device is behind it (tmpfs, overlay, btrfs, NFS). The io controllers take whole disks
only: `blkg_conf_open_bdev` in block/blk-cgroup.c answers ENODEV for a partition. Which disk a partition
belongs to is what sysfs tells: `/sys/dev/block/MAJOR:MINOR` leads to `…/DISK/PARTITION`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

__all__ = ["Device", "file_system", "is_stacked", "mounted_disks", "whole_disk"]

Device = tuple[int, int]
"""Major and minor number."""

_SYSFS: Final = "/sys/dev/block"


def whole_disk(device: Device) -> Device:
    """The disk that `device` is a partition of, or `device` itself (also where sysfs isn't there to ask)."""
    entry = f"{_SYSFS}/{device[0]}:{device[1]}"
    if not os.path.exists(f"{entry}/partition"):
        return device
    with open(f"{os.path.realpath(entry)}/../dev", encoding="ascii") as file:
        major, minor = file.read().split(":")
    return int(major), int(minor)


def is_stacked(device: Device) -> bool:
    """Whether `device` (device mapper, md) hands its I/O on to other block devices, which count it again."""
    try:
        return bool(os.listdir(f"{_SYSFS}/{device[0]}:{device[1]}/slaves"))
    except OSError:
        return False


def _mounts() -> Iterable[tuple[Device, str]]:
    """Device and file system type of every mount."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            major, minor = fields[2].split(":")
            yield (int(major), int(minor)), fields[fields.index("-", 6) + 1]


def file_system(device: Device) -> str:
    """Type of the mounted file system with this `st_dev`; empty if none is in sight."""
    return next((kind for found, kind in _mounts() if found == device), "")


def mounted_disks() -> tuple[Device, ...]:
    """The disks behind the mounted file systems, each once, in the order of their mounts."""
    return tuple(dict.fromkeys(whole_disk(device) for device, _kind in _mounts() if device[0] != 0))
