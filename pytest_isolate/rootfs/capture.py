"""What `HostRoot.prepare` mounts once per run: the host's clone, the templates, and the probe of each layer.

Everything lies on a tmpfs over the workspace, in the builder's mount namespace, and goes with it. What a layer
is for is decided in `host`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pytest_isolate.kernel.mounts import (
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    umount2,
)
from pytest_isolate.rootfs.devices import make_devices
from pytest_isolate.rootfs.plan import EMPTY, NOTHING, ROOT, UPPER, Bind, Directory, Overlay, Upper
from pytest_isolate.rootfs.survey import CGROUP_ROOT, Hierarchy, depth

__all__ = ["CGROUPS", "DEVICES", "HOST", "Bound", "Layer", "Probed", "below", "make_workspace", "mask", "probe"]

HOST: Final = "host"
DEVICES: Final = "dev"
CGROUPS: Final = "cgroup"
"""Names in the workspace: the host's clone, the template of /dev, the mount points of cgroup v1 hierarchies."""

_SEALED: Final = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC


def below(directory: str, path: str) -> str:
    """Absolute `path` as it is called below `directory`."""
    return directory if path == "/" else directory + path


@dataclass(frozen=True, slots=True)
class Layer:
    """A tree that gets an overlay.

    Attributes:
        path: where, on the host and inside.
        directory: what its upper's root directory must look like.
        lower: what the overlay covers, seen from the workspace.
    """

    path: str
    directory: Directory
    lower: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A submount put back read-only; `recursive` where what is mounted below it can't be taken apart."""

    path: str
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class Probed:
    """What the kernel agreed to."""

    layers: tuple[Layer, ...]
    binds: tuple[Bound, ...]
    notes: tuple[str, ...]


def make_workspace(workspace: str, *, own_trees: bool, cgroups: Sequence[Hierarchy]) -> None:
    """A tmpfs over `workspace` with the host's clone and the templates; it becomes the working directory.

    Args:
        own_trees: take /proc, /sys and /dev out of the clone (they are locked for an unprivileged caller).

    Raises:
        OSError
    """
    captured = open_tree("/", recursive=True)
    try:
        mount_setattr(captured, MOUNT_ATTR_RDONLY, recursive=True)
        mount("tmpfs", workspace, "tmpfs", MS_NOSUID, "mode=755")
        os.chdir(workspace)
        for name in (HOST, ROOT, UPPER, DEVICES, CGROUPS, EMPTY):
            os.mkdir(name, 0o755)
        move_mount(captured, HOST)
    finally:
        os.close(captured)
    if own_trees:
        for name in ("proc", "sys", "dev"):
            _detach(f"{HOST}/{name}")
    os.close(os.open(NOTHING, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    make_devices(DEVICES)
    _make_cgroup_points(cgroups)
    for name in (EMPTY, NOTHING, DEVICES, CGROUPS):
        mount(name, name, "", MS_BIND | MS_REC)
        mount("", name, "", _SEALED if name == DEVICES else _SEALED | MS_NODEV)


def _make_cgroup_points(cgroups: Sequence[Hierarchy]) -> None:
    for hierarchy in cgroups:
        if hierarchy.point != CGROUP_ROOT:
            os.makedirs(CGROUPS + hierarchy.point.removeprefix(CGROUP_ROOT), exist_ok=True)
    try:
        entries = list(os.scandir(CGROUP_ROOT))
    except OSError:
        return
    for entry in entries:  # links between v1 hierarchies: cpu to cpu,cpuacct
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), f"{CGROUPS}/{entry.name}")


def _detach(path: str) -> None:
    """Unmount, if it is a mount point that the caller may take away."""
    try:
        umount2(path, MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def mask(sockets: Iterable[str]) -> None:
    """Cover UNIX sockets in the host's clone: connecting through a read-only mount reaches the listener (unix(7))."""
    for path in sockets:
        try:
            mount(NOTHING, HOST + path, "", MS_BIND)
        except OSError as error:
            # Gone by now, or in a directory that only others can search: out of reach inside too.
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
                raise


def probe(layers: Sequence[Layer], binds: Sequence[Bound], options: str, *, on_clone: bool) -> Probed:
    """Mount the whole tree once, in the workspace, and take it down again.

    Args:
        on_clone: the layers go over the host's clone; else the first layer is the root itself.

    Returns:
        What worked: a layer that the kernel refuses is bound read-only, or left out where that fails too.

    Raises:
        SetupError: there is no room for writes at all, or the root's own layer is refused.
    """
    taken: list[Layer] = []
    bound: list[Bound] = []
    notes: list[str] = []
    if on_clone:
        mount(HOST, ROOT, "", MS_BIND | MS_REC)
    Upper(None, tuple(layer.directory for layer in layers)).apply(ROOT)
    try:
        for number, layer in sorted(enumerate(layers), key=lambda item: depth(item[1].path)):
            overlay = Overlay(layer.lower, layer.path, number, options)
            if layer.path == "/":
                overlay.apply(ROOT)
                taken.append(layer)
                continue
            try:
                overlay.execute(ROOT)
                taken.append(layer)
            except OSError as error:
                notes.append(f"{layer.path} is read-only inside: overlay refused, {error.strerror}")
                if not on_clone:
                    binds = [*binds, Bound(layer.path)]
        for candidate in sorted(binds, key=lambda item: depth(item.path)):
            if (working := _probe_bind(candidate)) is not None:
                bound.append(working)
            else:
                notes.append(f"{candidate.path} is left out: it can't be bound")
    finally:
        _detach(ROOT)
        _detach(UPPER)
    return Probed(tuple(taken), tuple(bound), tuple(notes))


def _probe_bind(candidate: Bound) -> Bound | None:
    for attempt in (candidate, replace(candidate, recursive=True)):
        try:
            Bind(HOST + attempt.path, attempt.path, recursive=attempt.recursive).execute(ROOT)
        except OSError:
            continue
        return attempt
    return None
