"""Directories of the layer store as overlay's lower layers.

Overlay's options must fit one page, with every path in them. So each layer has a link with a short name in the workspace, the
working directory of whoever mounts: some 300 layers fit. overlayfs itself takes 500 (fs/overlayfs, OVL_MAX_STACK).

No lower layer may lie in another one (ELOOP, ovl_check_overlapping_layers): a store on the host's own file system lies in the host's
tree. Then the tree is covered by an overlay of its own first, which has other inodes, and that is what lies below the layers. Such
overlays are stacked two deep, as deep as the kernel lets them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from pytest_isolate.kernel.mounts import MS_NODEV, MS_RDONLY, Mount, escape_overlay, mount
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.paths import within
from pytest_isolate.rootfs.layout import HOST, Layer
from pytest_isolate.rootfs.plan import EMPTY, Directory
from pytest_isolate.rootfs.survey import OWN_TREES, around

__all__ = ["cover", "covered", "link", "lowers", "missing_trees", "overlap", "short"]

_LINKS: Final = "l"
_COVERED: Final = "covered"


def short(directory: str) -> str:
    """The name of a layer in the workspace."""
    # Not above: every run's builder loads this module, few have layers.
    import hashlib
    from base64 import b32encode

    digest = hashlib.sha256(os.fsencode(directory)).digest()
    return f"{_LINKS}/{b32encode(digest)[:8].decode().lower()}"


def link(workspace: str, directories: Iterable[str]) -> None:
    """Make the links that `short` names. Raises SetupError."""
    os.makedirs(f"{workspace}/{_LINKS}", exist_ok=True)
    for directory in directories:
        if not os.path.isdir(directory):
            hint = "has somebody removed it while the run goes on? Run again: it is made again"
            raise SetupError("use a layer", directory, detail="it isn't there any more", hint=hint)
        with suppress(FileExistsError):
            os.symlink(directory, f"{workspace}/{short(directory)}")


def lowers(path: str, directories: Sequence[str]) -> tuple[str, ...]:
    """What layers have for the tree at `path`, top to bottom, as seen from the workspace.

    Args:
        directories: of the layers, bottom to top.
    """
    below = "" if path == "/" else path
    return tuple(short(directory) + below for directory in reversed(directories) if os.path.isdir(directory + below))


def overlap(path: str, directories: Sequence[str]) -> bool:
    """Whether one of the layers lies in the host's tree at `path`, on the same file system."""
    if not directories:
        return False
    device = os.stat(path).st_dev
    real = [os.path.realpath(directory) for directory in directories]
    return any(within(directory, path) and os.stat(directory).st_dev == device for directory in real)


def covered(path: str) -> str:
    """The name in the workspace of the host's tree at `path` with other inodes; made by `cover`."""
    return f"{_COVERED}/{os.path.basename(short(path))}"


def cover(workspace: str, path: str) -> None:
    """Mount it, once per run; in the builder's mount namespace. Raises SetupError."""
    point = f"{workspace}/{covered(path)}"
    os.makedirs(point, exist_ok=True)
    if os.path.ismount(point):
        return
    data = f"lowerdir={escape_overlay(f'{workspace}/{HOST}{path}')}:{escape_overlay(f'{workspace}/{EMPTY}')}"
    try:
        mount("overlay", point, "overlay", MS_RDONLY | MS_NODEV, data)
    except OSError as error:
        hint = "keep the layer store on another file system than the tests' files: --isolate-store=PATH, for example on a volume"
        raise SetupError.from_os_error("cover the host's tree for the layers in it", error, path, hint) from None


def missing_trees(directories: Sequence[str], trees: Sequence[str], mounts: Sequence[Mount]) -> Iterator[Layer]:
    """For a rootless sandbox, whose root can't be an overlay: further trees of the host that layers have something for.

    Args:
        directories: of the layers.
        trees: paths that have an overlay already.

    Raises:
        SetupError: a layer has something where the host has no directory, or none that can be overlaid.
    """
    points = [known.point for known in mounts]
    seen: set[str] = set()
    for directory in directories:
        for path in _outside(directory, "", trees, points):
            if path not in seen:
                seen.add(path)
                on = around(path, mounts)
                yield Layer(path, Directory.like(path, owned=False), HOST + path, on.flags if on else 0)


def _outside(directory: str, path: str, trees: Sequence[str], points: Sequence[str]) -> Iterator[str]:
    """The outermost directories of the host that hold what a layer has outside of `trees`."""
    for entry in sorted(os.scandir(directory + path), key=lambda entry: entry.name):
        inside = f"{path}/{entry.name}"
        if any(within(inside, tree) for tree in (*trees, *OWN_TREES)):
            continue
        if not entry.is_dir(follow_symlinks=False) or not os.path.isdir(inside) or os.path.islink(inside):
            raise SetupError(
                "use a layer", directory, detail=f"it has {inside}, and a rootless sandbox can't change {path or '/'} of the host",
                hint="make the layer on an image instead of the host, or below your home or /tmp",
            )  # fmt: skip
        # What has mounts, or one of the trees, below it is taken apart.
        if any(point != inside and within(point, inside) for point in (*points, *trees)):
            yield from _outside(directory, inside, trees, points)
        else:
            yield inside
