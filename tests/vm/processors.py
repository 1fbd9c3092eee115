"""Processors that machines are emulated with, and what of Debian's has to be named after one."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import filelock

__all__ = ["AMD64", "ARM64", "Processor"]

_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True)
class Processor:
    """A kind of processor.

    Attributes:
        debian: the name of Debian's architecture.
        machine: the kernel's name, as in wheels and `platform.machine`.
        tools: what emulates it and its programs, and Debian's packages of that.
        qemu: the machine's program and its arguments.
        console: device of the first serial line.
        magic: how executable files of it begin, and which of their bits tell, in binfmt_misc's notation; empty: they run here anyway.
        cpus: of a machine.
        slowness: how many times as long as on an amd64 things may take.
    """

    debian: str
    machine: str
    tools: Mapping[str, str]
    qemu: Sequence[str]
    console: str
    magic: str = ""
    cpus: int = 2
    slowness: float = 1

    @contextmanager
    def runs_here(self, lock: Path) -> Iterator[None]:
        """While it lasts, the kernel runs programs of this processor by qemu-user.

        With the flag F the interpreter is opened now, so that it is found in a chroot (the kernel's admin-guide/binfmt-misc).

        Args:
            lock: a file; one process at a time registers, and takes back what a killed one left.

        Raises:
            OSError, subprocess.CalledProcessError
        """
        if not self.magic or platform.machine() == self.machine:
            yield
            return
        entry = _BINFMT / f"isolate-vm-{self.machine}"
        line = f":{entry.name}:M::{self.magic}:/usr/bin/qemu-{self.machine}-static:F\n"
        with filelock.FileLock(lock), _mounted():
            if entry.exists():
                entry.write_text("-1\n", encoding="ascii")
            (_BINFMT / "register").write_text(line, encoding="ascii")
            try:
                yield
            finally:
                entry.write_text("-1\n", encoding="ascii")


@contextmanager
def _mounted() -> Iterator[None]:
    if (_BINFMT / "register").exists():
        yield
        return
    subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(_BINFMT)], check=True)


AMD64: Final = Processor(
    "amd64",
    "x86_64",
    MappingProxyType({"qemu-system-x86_64": "qemu-system-x86"}),
    ("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
    "ttyS0",
)

# With -icount at a fixed rate, and with it alone, QEMU's arm processors have a counter of retired instructions
# (target/arm/helper.c, instructions_supported). One of several processors that never rests would starve the others then: up to QEMU 8.0
# it has all the time until the next timer.
ARM64: Final = Processor(
    "arm64",
    "aarch64",
    MappingProxyType(
        {"qemu-system-aarch64": "qemu-system-arm", "qemu-aarch64-static": "qemu-user-static", "arch-test": "arch-test"}
    ),
    ("qemu-system-aarch64", "-machine", "virt", "-accel", "tcg,thread=single", "-cpu", "cortex-a72", "-icount", "shift=0"),
    "ttyAMA0",
    magic=r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
    cpus=1,
    slowness=4,
)
