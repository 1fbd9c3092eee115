"""Where the cgroup controllers are: which version serves each, and the caller's own directory in it.

Decided per controller from `/proc/self/cgroup` and `/proc/self/mountinfo`, never from the presence of a
mount: a hybrid host mounts v1 controllers and a v2 tree side by side, and in a container the mount shows
only a part of the hierarchy (its `root` field). Both files speak relative to the reader's cgroup namespace
(cgroup_namespaces(7)), so that they can be held against one another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["V1_NAMES", "CgroupMount", "Place", "beneath", "cgroup_mounts", "delegation_hint", "layout", "own_cgroups", "place_of"]

V1_NAMES: Final = ("memory", "pids", "blkio", "cpuacct", "cpu")
"""The v1 controllers in use, in the order in which they are joined: `cpu` last, so that its quota slows no join."""


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mounted cgroup tree; `controllers` is empty for v2 and for v1 trees without one (``name=systemd``)."""

    version: int
    root: str
    point: str
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Place:
    """The caller's own directory in one v1 hierarchy, or why there is none.

    Attributes:
        directory: empty where it can't be found.
        why: what was found instead of a directory.
        hint: the remedy; empty where `delegation_hint` is one.
    """

    directory: str
    why: str = ""
    hint: str = ""


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def cgroup_mounts(text: str) -> Iterator[CgroupMount]:
    """The cgroup mounts in the text of a mountinfo file."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, point = (_unescape(field) for field in before.split(" ")[3:5])
            names = frozenset(options.split(",")) if kind == "cgroup" else frozenset()
            yield CgroupMount(1 if kind == "cgroup" else 2, root, point, names)


def own_cgroups(text: str) -> dict[str, str]:
    """Path by controller in the text of a `/proc/PID/cgroup` file; the v2 path under the empty name."""
    found = {}
    for line in text.splitlines():
        _number, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def layout(mounts: list[CgroupMount], own: dict[str, str]) -> str:
    """``v1``, ``hybrid`` (controllers on v1, a v2 tree beside them), ``v2`` or ``none``."""
    v1 = any(name in own and name in mount.controllers for mount in mounts for name in V1_NAMES)
    v2 = any(mount.version == 2 for mount in mounts)
    return {(True, True): "hybrid", (True, False): "v1", (False, True): "v2", (False, False): "none"}[v1, v2]


def place_of(controller: str, mounts: list[CgroupMount], own: dict[str, str], delegated: str | None) -> Place:
    """Where the run's subtree of a `controller` goes that is on v1 (it is in `own`).

    Args:
        delegated: path relative to the mount point, in place of the caller's own cgroup.
    """
    candidates = [mount for mount in mounts if controller in mount.controllers]
    if not candidates:
        why = f"the v1 {controller} controller is enabled but its hierarchy isn't mounted here"
        return Place("", why=why, hint=f"mount -t cgroup -o {controller} cgroup /sys/fs/cgroup/{controller}")
    if delegated is not None:
        return _delegated(candidates, delegated)
    for mount in candidates:
        if directory := beneath(mount, own[controller]):
            return Place(directory)
    mount = candidates[0]
    why = f"{mount.point} shows {mount.root} of the {controller} hierarchy, and this process is in {own[controller]}, outside it"
    return Place("", why=why)


def _delegated(candidates: list[CgroupMount], path: str) -> Place:
    for mount in candidates:
        if os.path.isdir(directory := os.path.join(mount.point, path.strip("/"))):
            return Place(directory)
    directory = os.path.join(candidates[0].point, path.strip("/"))
    return Place("", why=f"the delegated directory {directory} doesn't exist")


def delegation_hint(mounts: list[CgroupMount], own: dict[str, str], path: str) -> str:
    """The command that hands the user a directory `path` in every v1 hierarchy, and the option that names it.

    Nothing but the directory itself need be theirs: what they make below it is.
    """
    points = {name: mount.point for mount in mounts for name in V1_NAMES if name in mount.controllers and name in own}
    directories = " ".join(dict.fromkeys(f"{point}/{path.strip('/')}" for point in points.values()))
    return f"as root: install -d -o {os.geteuid()} {directories}; then pytest --isolate-cgroup={path}"


def beneath(mount: CgroupMount, path: str) -> str:
    """The directory of cgroup `path` under `mount`; empty if the mount doesn't show it.

    A root or path with ``..`` lies above the reader's cgroup namespace: then names are missing in between.
    """
    root = mount.root.rstrip("/")
    if ".." in path.split("/") or ".." in root.split("/") or not f"{path}/".startswith(f"{root}/"):
        return ""
    return os.path.normpath(f"{mount.point}/{path[len(root) :]}")
