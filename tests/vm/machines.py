"""A virtual machine in software emulation, as long as it lives: started, waited for, talked to, ended.

Its place is a directory `$ISOLATE_VM_CACHE/run/NAME`: QEMU's pid, the console's log, a UNIX socket for each port of the agent in
there. Nothing but the owner of the directory can talk to it, and it has no network. The disk's image is never written to: QEMU keeps
changes in an unlinked temporary file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.vm.channel import PORTS, Channel, Unreachable
from tests.vm.images import CACHE, Image
from tests.vm.releases import Variant

__all__ = ["BOOT_SECONDS", "BootFailed", "Machine"]

BOOT_SECONDS: Final = 240
"""A machine that doesn't answer by then hangs; it takes 20 to 40 with two CPUs of its own."""


class BootFailed(Exception):
    """The machine ended or hung before its agent answered. The message holds the end of the console's log."""


@dataclass(frozen=True)
class Machine:
    """A machine by its name, running or not."""

    name: str

    @property
    def directory(self) -> Path:
        return CACHE / "run" / self.name

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    def start(self, variant: Variant, image: Image, *, memory: int = 2048, stays: bool = False) -> None:
        """Start it and wait for its agent. Raises BootFailed.

        Args:
            memory: MiB.
            stays: it goes on without us; else it ends with the thread that starts it.
        """
        if self.running():
            raise BootFailed(f"{self.name} runs already (pid {self._pid()}); `python -m tests.vm down {self.name}` ends it")
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o700, parents=True)
        argv = [*(() if stays else ("setpriv", "--pdeathsig=KILL")), *self._command_line(variant, image, memory)]
        with (self.directory / "qemu.log").open("w") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        (self.directory / "pid").write_text(f"{process.pid}\n")
        seconds = BOOT_SECONDS * variant.processor.slowness
        deadline = time.monotonic() + seconds
        while True:
            try:
                with Channel(self.directory, timeout=5):
                    return
            except Unreachable:
                ended = process.poll()
                if ended is None and time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
            said = self.log()
            self.stop()
            how = f"no answer after {seconds:.0f} s" if ended is None else f"QEMU ended with status {ended}"
            raise BootFailed(f"{self.name}: {how}\n{said}")

    def _command_line(self, variant: Variant, image: Image, memory: int) -> list[str]:
        ports = []
        for number in range(PORTS):
            ports += ["-chardev", f"socket,id=c{number},path={self.directory}/port{number},server=on,wait=off"]
            ports += ["-device", f"virtserialport,chardev=c{number},name=vm.{number}"]
        kernel = f"console={variant.processor.console} root=/dev/vda rw quiet panic=-1 mitigations=off {variant.command_line}"
        return [
            *variant.processor.qemu, "-smp", str(variant.processor.cpus), "-m", str(memory),
            "-nodefaults", "-display", "none", "-no-reboot", "-nic", "none",
            "-serial", f"file:{self.console}", "-device", "virtio-rng-pci",
            "-kernel", str(image.vmlinuz), "-initrd", str(image.initrd), "-append", kernel,
            "-drive", f"file={image.disk},format=raw,if=virtio,snapshot=on,cache=unsafe,discard=unmap",
            "-device", "virtio-serial-pci", *ports,
        ]  # fmt: skip

    def running(self) -> bool:
        pid = self._pid()
        with contextlib.suppress(OSError):
            return pid is not None and str(self.directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def _pid(self) -> int | None:
        try:
            return int((self.directory / "pid").read_text())
        except (OSError, ValueError):
            return None

    def log(self) -> str:
        """The end of what the console and QEMU said."""
        said = ""
        for path in (self.console, self.directory / "qemu.log"):
            with contextlib.suppress(OSError):
                said += path.read_text(encoding="utf-8", errors="replace")[-8000:]
        return said

    def stop(self) -> None:
        """End it at once; there is nothing to save."""
        pid = self._pid()
        if pid is not None and self.running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            while self.running():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                time.sleep(0.02)
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, argv: Sequence[str], *, stop: Sequence[str] = (), timeout: float | None = None) -> int:
        """Run a command as root, its output on ours; its exit status. Raises Unreachable, TimeoutError."""
        with Channel(self.directory, timeout=10) as channel:
            return channel.run(argv, stop=stop, out=sys.stdout.buffer, err=sys.stderr.buffer, timeout=timeout)
