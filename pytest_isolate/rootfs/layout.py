"""What `survey`, `trees`, `capture` and `host` say to one another: layers, binds, and names in the workspace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from pytest_isolate.rootfs.plan import Directory

__all__ = ["CGROUPS", "DEVICES", "HOST", "SKELETONS", "Bound", "Layer", "Skeleton", "Trees"]

HOST: Final = "host"
DEVICES: Final = "dev"
CGROUPS: Final = "cgroup"
SKELETONS: Final = "trees"
"""The host's clone, the template of /dev, the mount points of cgroup v1 hierarchies, the skeletons."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A tree that gets an overlay.

    Attributes:
        path: where, on the host and inside.
        directory: what its upper's root directory must look like.
        lower: what the overlay covers, seen from the workspace.
        flags: the mount's own on the host (MS_NOEXEC, MS_NOSUID).
        server: path of fuse-overlayfs where the kernel's overlay is refused; empty else.
        file: name of the one file that is wanted of `lower`, at `path`; empty: all of it.
        below: what `lower` is, for people.
    """

    path: str
    directory: Directory
    lower: str
    flags: int = 0
    server: str = ""
    file: str = ""
    below: str = "the host's"

    @property
    def tree(self) -> str:
        """The directory that `lower` is of."""
        return os.path.dirname(self.path) if self.file else self.path


@dataclass(frozen=True, slots=True)
class Bound:
    """A path put back read-only; `recursive` where what is mounted below it can't be taken apart."""

    path: str
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The outline of the directory `path`, made once per run below the workspace under `name`.

    Attributes:
        directories, points: names of empty directories and files that something is mounted on.
        copies: names of small files and symbolic links, copied.
    """

    path: str
    name: str
    directories: tuple[str, ...]
    copies: tuple[str, ...]
    points: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trees:
    """How the host's tree is put together inside.

    Attributes:
        layers: what gets an overlay, with numbers of their uppers by position.
        binds: what is bound read-only.
        skeletons: what some layers have as their lower directory.
        notes: what will surprise, a sentence each.
    """

    layers: tuple[Layer, ...]
    binds: tuple[Bound, ...]
    skeletons: tuple[Skeleton, ...] = ()
    notes: tuple[str, ...] = ()
