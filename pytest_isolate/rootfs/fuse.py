"""fuse-overlayfs(1) where the kernel refuses an overlay to an unprivileged user: before Linux 5.11, on file systems that can't be
overlaid in a user namespace, on overlays that are stacked two deep already.

One server per overlay and sandbox, a process of the builder's in the sandbox's mount namespace: outside of its PID
namespace, where the test would see it. It ends with the builder, or when the sandbox is removed. A start takes some ten
milliseconds, so this is the second choice.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Final

from pytest_isolate.kernel.calls import NOW, Calls
from pytest_isolate.kernel.capabilities import keep_over_exec, set_parent_death_signal
from pytest_isolate.kernel.mounts import MNT_DETACH, umount2
from pytest_isolate.model.errors import SetupError
from pytest_isolate.rootfs.layout import Layer
from pytest_isolate.rootfs.plan import ROOT, UPPER, WORK, Bind, Operation

__all__ = ["FuseOverlay", "find_server", "mount_point", "probe_layer", "stop"]

_FUSE: Final = "fuse"
_PATIENCE: Final = 5.0
"""Seconds for a server to have mounted."""

_SPECIAL: Final = frozenset(":,\\")
"""Characters that separate its options, and that not every version can escape: such a path is told as one of /proc/self/fd."""


def mount_point(number: int) -> str:
    """Where overlay `number` is mounted, in the workspace; the sandbox binds it to its place."""
    return f"{_FUSE}/{number}"


def find_server() -> str:
    """Path of fuse-overlayfs, empty where it isn't there or /dev/fuse isn't the caller's to open."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return ""
    paths = (os.path.join(folder, "fuse-overlayfs") for folder in (*os.get_exec_path(), "/usr/bin", "/usr/local/bin"))
    return next((path for path in paths if os.access(path, os.X_OK)), "")


@dataclass(frozen=True, slots=True)
class FuseOverlay(Operation):
    """The directories of `lowers`, top to bottom, with the writable layer's directory `number` over it, served by a process."""

    step: ClassVar[str] = "start fuse-overlayfs"
    server: str
    lowers: tuple[str, ...]
    target: str
    number: int

    @classmethod
    def of(cls, server: str, layer: Layer, number: int, over: tuple[str, ...] = ()) -> FuseOverlay:
        """`over`: further lower directories, on top of the layer's own."""
        return cls(server, (*over, layer.lower), layer.path, number)

    def describe(self) -> str:
        return f"fuse-overlayfs {self.target} (the host's below, writes are thrown away)"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        """Not to be written down: it starts a process, which `serve` gives to the caller."""
        raise NotImplementedError

    def bind(self) -> Bind:
        """What brings it to its place, inside."""
        return Bind(mount_point(self.number), self.target, recursive=False)

    def serve(self) -> int:
        """Start the server; the working directory is the workspace.

        Returns:
            Its pidfd, for `stop`.

        Raises:
            SetupError: it ended, or has mounted nothing in time.
        """
        point = mount_point(self.number)
        try:
            os.makedirs(point, exist_ok=True)
            before = os.stat(point).st_dev
            pid = os.fork()
            if pid == 0:
                self._exec(point)
            server = os.pidfd_open(pid)
            try:
                _await_mount(server, point, before)
            except BaseException:
                stop(server)
                raise
        except OSError as error:
            raise self.refused(error) from error
        return server

    def _exec(self, point: str) -> None:
        """In the server's process. Never returns."""
        try:
            set_parent_death_signal(signal.SIGKILL)
            for number in range(1, signal.NSIG):
                with suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            keep_over_exec()
            lowers = []
            for lower in self.lowers:
                lowers.append(lower)
                if _SPECIAL & set(lower):
                    os.set_inheritable(fd := os.open(lower, os.O_PATH | os.O_DIRECTORY), True)
                    lowers[-1] = f"/proc/self/fd/{fd}"
            layers = f"lowerdir={':'.join(lowers)},upperdir={UPPER}/{self.number},workdir={UPPER}/{WORK}{self.number}"
            # Others than its own user may come by ids that are mapped in the sandbox. Without a write-back cache, so that
            # a full disk is told to whoever writes, not to nobody later.
            os.execv(self.server, [self.server, "-f", "-o", f"{layers},allow_other,writeback=0", point])
        finally:
            os._exit(127)

    def hint(self, number: int) -> str:
        del number
        return "see what it says: run pytest with a kernel that has overlay in user namespaces (Linux 5.11), or from another file system"


def _await_mount(server: int, point: str, before: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while os.stat(point).st_dev == before:
        if select.select([server], [], [], 0.001)[0]:
            raise OSError(errno.EIO, "it ended before it had mounted", point)
        if time.monotonic() > deadline:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), point)


def stop(server: int) -> None:
    """Kill a server and close its pidfd; what it mounted goes with the mount namespace."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(server, signal.SIGKILL)
    with suppress(ChildProcessError):  # the kernel reaps the builder's children once SIGCHLD is ignored
        os.waitid(os.P_PIDFD, server, os.WEXITED)
    os.close(server)


def probe_layer(server: str, layer: Layer, number: int) -> bool:
    """Whether it can serve `layer`: mounted once and bound to its place in ROOT.

    Nothing stays: layers below that place would be tried on a file system that nobody serves (ENOTCONN).
    """
    overlay = FuseOverlay.of(server, layer, number)
    try:
        running = overlay.serve()
    except SetupError:
        return False
    points = [mount_point(number)]
    try:
        overlay.bind().apply(ROOT)
        points.insert(0, ROOT + layer.path)
        os.stat(ROOT + layer.path)
    except (OSError, SetupError):
        return False
    finally:
        stop(running)
        for point in points:
            umount2(point, MNT_DETACH)
    return True
