"""What `HostRoot.prepare` mounts once per run: the host's clone, the templates, and the probe of each layer.

Everything lies on a tmpfs over the workspace, in the builder's mount namespace, and goes with it. What a layer
is for is decided in `host`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pytest_isolate.kernel.mounts import (
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    attach,
    mount,
    open_tree,
    umount2,
)
from pytest_isolate.model.errors import SetupError
from pytest_isolate.rootfs.devices import make_devices
from pytest_isolate.rootfs.fuse import find_server, probe_layer
from pytest_isolate.rootfs.layout import CGROUPS, DEVICES, HOST, Bound, Layer, Trees
from pytest_isolate.rootfs.plan import EMPTY, GROUP, NOTHING, REFUSED, ROOT, UPPER, Bind, EnterRoot, Overlay, Upper
from pytest_isolate.rootfs.survey import CGROUP_ROOT, depth

__all__ = ["leave_workspace", "make_workspace", "mask", "probe"]

_SEALED: Final = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC


def make_workspace(workspace: str, *, own_trees: bool, cgroup_points: Sequence[str]) -> None:
    """A tmpfs over `workspace` with the host's clone and the templates; it becomes the working directory.

    Args:
        own_trees: take /proc, /sys and /dev out of the clone (they are locked for an unprivileged caller).

    Raises:
        OSError
    """
    captured = open_tree("/", recursive=True)
    try:
        mount("tmpfs", workspace, "tmpfs", MS_NOSUID, "mode=755")
        os.chdir(workspace)
        for name in (HOST, ROOT, UPPER, DEVICES, CGROUPS, EMPTY, GROUP):
            os.mkdir(name, 0o755)
        attach(captured, HOST, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV, recursive=True)
    finally:
        os.close(captured)
    if own_trees:
        for name in ("proc", "sys", "dev"):
            _detach(f"{HOST}/{name}")
    for name, mode in ((NOTHING, 0o444), (REFUSED, 0o666)):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(name, mode)
    make_devices(DEVICES, disk=not own_trees)
    _make_cgroup_points(cgroup_points)
    for name in (EMPTY, NOTHING, REFUSED, DEVICES, CGROUPS):
        mount(name, name, "", MS_BIND | MS_REC)
        mount("", name, "", _SEALED if name == DEVICES else _SEALED | MS_NODEV)


def leave_workspace(workspace: str) -> None:
    """Take down what `make_workspace` mounted, as far as it came. Raises OSError."""
    os.chdir("/")
    _detach(workspace)


def _make_cgroup_points(points: Sequence[str]) -> None:
    for point in points:
        os.makedirs(CGROUPS + point.removeprefix(CGROUP_ROOT), exist_ok=True)
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
        if error.errno not in (errno.EINVAL, errno.ENOENT, errno.EPERM):
            raise


def mask(sockets: Iterable[str]) -> Iterator[str]:
    """Cover UNIX sockets in the host's clone, for all sandboxes at once; yields a note for each that can't be."""
    for path in sockets:
        try:
            mount(REFUSED, HOST + path, "", MS_BIND)
        except OSError as error:
            # Gone by now, or in a directory that only others can search: out of reach inside too. What stays in reach
            # is a socket that was bound over this path and then unlinked: on that nothing can be mounted.
            if os.path.exists(path):
                yield f"the host's socket {path} is reachable inside: it can't be masked ({error.strerror})"


def probe(trees: Trees, options: str, *, on_clone: bool) -> Trees:
    """Mount the whole tree once, in the workspace, and take it down again.

    Args:
        trees: what is wanted.
        options: overlay's.
        on_clone: the layers go over the host's clone; else one of them is the root itself.

    Returns:
        What worked: a layer that the kernel refuses is bound read-only, or left out where that fails too.

    Raises:
        SetupError: the layer of the root, or every single layer, is refused; or there is no tmpfs for writes.
    """
    if on_clone:
        EnterRoot(HOST).apply(ROOT)
    Upper(None, tuple(layer.directory for layer in trees.layers)).apply(ROOT)
    try:
        server = find_server() if on_clone else ""
        limited = on_clone and not _takes_user_xattrs(UPPER)
        layers, refused = _probe_layers(trees.layers, options, server, prefer_server=limited)
        instead = [] if on_clone else [Bound(layer.path) for layer, _error in refused]
        binds, unbound = _probe_binds([*trees.binds, *instead])
    finally:
        _detach(ROOT)
        _detach(UPPER)
    notes = [
        *(
            f"{layer.path} is read-only inside: an overlay over it is refused ({os.strerror(error.errno)})"
            for layer, error in refused
        ),
        *(
            f"directories of the host in {layer.path} can't be removed inside (EIO): tmpfs takes no user.* attributes before Linux 6.6; "
            "install fuse-overlayfs"
            for layer in layers
            if limited and not layer.server
        ),
        *(f"{layer.path} is served by fuse-overlayfs, which is slower than the kernel" for layer in layers if layer.server),
        *(f"{bound.path} is left out: it can't be bound ({error.strerror})" for bound, error in unbound),
    ]
    return replace(trees, layers=tuple(layers), binds=tuple(binds), notes=(*trees.notes, *notes))


def _probe_layers(
    layers: Sequence[Layer], options: str, server: str, *, prefer_server: bool
) -> tuple[list[Layer], list[tuple[Layer, SetupError]]]:
    """What worked, and what didn't; `server` is fuse-overlayfs, the second choice unless it is preferred."""
    taken, refused = [], []
    for number, layer in sorted(enumerate(layers), key=lambda item: depth(item[1].path)):
        if prefer_server and server and probe_layer(server, layer, number):
            taken.append(replace(layer, server=server))
            continue
        try:
            Overlay((layer.lower,), layer.path, number, options, layer.flags).apply(ROOT)
        except SetupError as error:
            if layer.path == "/":
                raise
            if server and probe_layer(server, layer, number):
                taken.append(replace(layer, server=server))
            else:
                refused.append((layer, error))
        else:
            taken.append(layer)
    if refused and not taken:
        raise refused[0][1]
    return taken, refused


def _takes_user_xattrs(directory: str) -> bool:
    """Whether an overlay's upper here can mark what it removes with ``userxattr``: tmpfs takes user.* since Linux 6.6."""
    try:
        os.setxattr(directory, "user.isolate", b"1")
    except OSError:
        return False
    os.removexattr(directory, "user.isolate")
    return True


def _probe_binds(binds: Sequence[Bound]) -> tuple[list[Bound], list[tuple[Bound, OSError]]]:
    bound, refused = [], []
    for candidate in sorted(binds, key=lambda item: depth(item.path)):
        try:
            bound.append(_probe_bind(candidate))
        except OSError as error:
            refused.append((candidate, error))
    return bound, refused


def _probe_bind(candidate: Bound) -> Bound:
    try:
        Bind(HOST + candidate.path, candidate.path, recursive=candidate.recursive).execute(ROOT)
    except OSError:
        if candidate.recursive:
            raise
        return _probe_bind(replace(candidate, recursive=True))
    return candidate
