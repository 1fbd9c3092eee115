"""Which disk a path, a partition, a stacked device stands for: with a loop device that is cut in two."""

from __future__ import annotations

import ctypes
import fcntl
import glob
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_isolate.kernel.block import Device, is_stacked, whole_disk
from tests.support.capabilities import requires

ROOT = Path(__file__).parents[2]

pytestmark = requires("root", "loop-device")


class _Partition(ctypes.Structure):
    """struct blkpg_partition of linux/blkpg.h."""

    _fields_ = (
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
        ("number", ctypes.c_int),
        ("names", ctypes.c_char * 128),
    )


class _Request(ctypes.Structure):
    """struct blkpg_ioctl_arg."""

    _fields_ = (("op", ctypes.c_int), ("flags", ctypes.c_int), ("length", ctypes.c_int), ("data", ctypes.c_void_p))


BLKPG, ADD, DELETE = 0x1269, 1, 2


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A loop device of 8 MiB with one partition: the name below /sys/class/block."""
    image = tmp_path / "image"
    image.write_bytes(bytes(8 << 20))
    done = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    device = done.stdout.strip()
    try:
        _blkpg(device, ADD)
        yield os.path.basename(device)
        _blkpg(device, DELETE)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def _blkpg(device: str, op: int) -> None:
    """Partitions by ioctl: the kernel may have been built without any partition table format."""
    partition = _Partition(1 << 20, 4 << 20, 1)
    fd = os.open(device, os.O_RDWR)
    try:
        fcntl.ioctl(fd, BLKPG, _Request(op, 0, ctypes.sizeof(partition), ctypes.addressof(partition)))
    finally:
        os.close(fd)


def number(name: str) -> Device:
    path = Path("/sys/class/block", name, "dev")
    deadline = time.monotonic() + 2
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    major, minor = path.read_text().split(":")
    return int(major), int(minor)


def test_partition_stands_for_its_disk(loop: str) -> None:
    partition = number(f"{loop}p1")
    assert partition != number(loop)
    assert whole_disk(partition) == number(loop)


def test_disk_stands_for_itself_and_is_not_stacked(loop: str) -> None:
    assert whole_disk(number(loop)) == number(loop)
    assert not is_stacked(number(loop))


def test_processes_that_attach_files_at_once_have_a_device_each_and_killed_ones_leave_none(tmp_path: Path) -> None:
    """LOOP_CTL_GET_FREE tells several of them the same number; whoever comes second tries again."""
    code = f"""
import os, sys, tempfile
from pytest_isolate.kernel.loop import attach
for turn in range(30):
    fd, path = tempfile.mkstemp(dir={str(tmp_path)!r})
    os.ftruncate(fd, 1 << 20)
    os.unlink(path)
    device, held = attach(fd, 4096)
    with open(f"/sys/block/{{os.path.basename(device)}}/loop/backing_file") as file:
        assert path in file.read(), device
    os.close(held)
    os.close(fd)
print("done", flush=True)
while sys.argv[1:]:
    fd = os.open({str(tmp_path)!r}, os.O_TMPFILE | os.O_RDWR)
    os.ftruncate(fd, 1 << 20)
    device, held = attach(fd, 4096)
    os.close(held)
    os.close(fd)
"""
    command = [sys.executable, "-c", code]
    together = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in together:
        out, err = process.communicate(timeout=60)
        assert (out, process.returncode) == ("done\n", 0), err
    chance = random.Random(5)
    for _ in range(5):
        with subprocess.Popen([*command, "on"], cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.02))
            process.kill()

    def attached() -> list[str]:
        files = [Path(entry, "loop/backing_file") for entry in glob.glob("/sys/block/loop*")]
        return [text for file in files if file.exists() and str(tmp_path) in (text := file.read_text())]

    deadline = time.monotonic() + 5
    while attached():
        assert time.monotonic() < deadline, attached()
        time.sleep(0.05)
