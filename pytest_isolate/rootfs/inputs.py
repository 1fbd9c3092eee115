"""``inputs=``: of the project only some paths are there, whatever the root file system around it is.

Over the project's directory lies an overlay of an outline: empty directories on the way to what is shown, small files as copies,
symbolic links. In it each directory that is shown has an overlay of its own over the host's, and each larger file is one file of an
overlay over its directory (overlayfs stacks directories only). So every write is possible and thrown away, as elsewhere. The outline
lies in the workspace under a name made from its contents: what changed on the host since gets another.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from pytest_isolate.kernel.calls import NOW, Calls
from pytest_isolate.kernel.mounts import MS_BIND, MS_NODEV
from pytest_isolate.kernel.removal import remove_path
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.paths import outermost, within
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs.layout import HOST, Bound, Layer, Trees
from pytest_isolate.rootfs.plan import HINTS, Directory, Operation, overlay_data
from pytest_isolate.rootfs.survey import OWN_TREES, depth, resolved
from pytest_isolate.rootfs.trees import COPIED, copy_file

__all__ = ["FileOverlay", "Outline", "Shown", "show"]

_INPUTS: Final = "inputs"
_FILES: Final = "inputs/files"
_MOST_LINKS: Final = 40
"""As many as the kernel follows (MAXSYMLINKS)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Something of the outline.

    Attributes:
        path: on the host.
        kind: a ``directory``, a ``link``, a ``copy`` of a file, an empty file as a mount ``point``.
        about: mode, owner and what else tells one version of it from another.
    """

    path: str
    kind: str
    about: tuple[int | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outline:
    """What lies below everything that is shown of the project `root`, shallow entries first."""

    root: str
    entries: tuple[_Entry, ...]

    @property
    def name(self) -> str:
        """Where it is in the workspace."""
        return f"{_INPUTS}/{_digest(repr(self))}"

    def make(self, workspace: str, *, owners: bool) -> None:
        """Make it, unless it is there.

        Args:
            owners: give files the owners that the host's have.

        Raises:
            SetupError
        """
        place = f"{workspace}/{self.name}"
        if os.path.isdir(place):
            return
        half = f"{place}.half"
        try:
            os.makedirs(half)
            for entry in self.entries:
                _make(entry, half + entry.path.removeprefix(self.root), owners=owners)
            for entry in reversed(self.entries):  # when nothing more comes into it
                if entry.kind == "directory":
                    status, target = os.stat(entry.path), half + entry.path.removeprefix(self.root)
                    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
                    os.chmod(target, stat.S_IMODE(status.st_mode))
            os.rename(half, place)
        except OSError as error:
            remove_path(half)
            number = error.errno or 0
            raise SetupError(
                "inputs=", os.fsdecode(error.filename or self.root), number, HINTS.get(number, ""), str(error)
            ) from error


def _point(path: str) -> str:
    return f"{_FILES}/{_digest(path)}"


def _digest(text: str) -> str:
    import hashlib  # not above: every run's builder loads this module, few have inputs

    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _make(entry: _Entry, target: str, *, owners: bool) -> None:
    match entry.kind:
        case "directory":
            with suppress(FileExistsError):  # the project itself
                os.mkdir(target)
        case "point":
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        case _:
            copy_file(entry.path, target)
    if owners:
        status = os.lstat(entry.path)
        os.lchown(target, status.st_uid, status.st_gid)
        if entry.kind == "copy":  # chown(2) takes set-id bits away
            os.chmod(target, stat.S_IMODE(status.st_mode))


@dataclass(frozen=True, slots=True)
class FileOverlay(Operation):
    """One file, `name`, of `lowers` with the writable layer's directory `number` over them, mounted at `point` in the workspace.

    It is a mount point inside, so it can be written to, but not removed or renamed (EBUSY).
    """

    step: ClassVar[str] = "mount overlay of a file"
    lowers: tuple[str, ...]
    name: str
    point: str
    target: str
    number: int
    options: str
    flags: int = 0

    @classmethod
    def of(cls, layer: Layer, lowers: tuple[str, ...], number: int, options: str) -> Self:
        """For a `layer` of one file, with `lowers` in place of its own."""
        return cls(lowers, layer.file, _point(layer.path), layer.path, number, options, layer.flags)

    def describe(self) -> str:
        return f"overlay {self.target} (the host's below, writes are thrown away)"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        data = overlay_data(self.lowers, self.number, self.options)
        calls.mount("overlay", self.point, "overlay", self.flags | MS_NODEV, data)
        calls.mount(f"{self.point}/{self.name}", root + self.target, "", MS_BIND)


@dataclass(frozen=True, slots=True)
class Shown:
    """What there is of the project inside.

    Attributes:
        outline: see there; mounted over the project by the first of `layers`.
        layers, binds: what to mount, beside and instead of what `replaces` says.
        whole: directories that are there with all that is in them.
    """

    outline: Outline
    layers: tuple[Layer, ...]
    binds: tuple[Bound, ...]
    whole: tuple[str, ...]

    def prepare(self, workspace: str, *, owners: bool) -> None:
        """Make what the plan refers to. Raises SetupError, OSError."""
        os.makedirs(f"{workspace}/{_INPUTS}", exist_ok=True)
        self.outline.make(workspace, owners=owners)
        for layer in self.layers:
            if layer.file:
                os.makedirs(f"{workspace}/{_point(layer.path)}", exist_ok=True)

    def replaces(self, path: str) -> bool:
        """Whether a mount of the host at `path` isn't wanted: what it holds isn't shown, or is by `layers` and `binds`."""
        return within(path, self.outline.root) and not any(path != tree and within(path, tree) for tree in self.whole)

    def instead(self, trees: Trees) -> Trees:
        """`trees` of the host with this in them."""
        layers = (*(layer for layer in trees.layers if not self.replaces(layer.path)), *self.layers)
        binds = (*(bound for bound in trees.binds if not self.replaces(bound.path)), *self.binds)
        return replace(trees, layers=layers, binds=binds)

    def has(self, path: str) -> bool:
        """Whether something can be mounted on the host's `path` inside."""
        return (
            not within(path, self.outline.root)
            or any(within(path, tree) for tree in self.whole)
            or any(path == entry.path for entry in self.outline.entries)
        )


def show(spec: Spec, trees: Trees, points: Sequence[str], *, owners: bool) -> Shown | None:
    """Decide what is mounted for ``inputs=``; None where nothing is asked for, or everything is shown. Mounts nothing.

    Args:
        trees: of the host.
        points: what else is mounted inside, resolved: such paths in the project get mount points.
        owners: mount points must have the owners that the host's have.

    Raises:
        SetupError: a path doesn't exist, or the project isn't one of which a part can be shown.
    """
    project = spec.project
    if not spec.inputs or project is None:
        return None
    root = project.root
    if root == "/" or any(within(root, own) for own in OWN_TREES):
        raise SetupError(
            "inputs=", root, errno.EINVAL, "have the project in a directory of its own, outside of /proc, /sys and /dev"
        )
    asked = [*spec.inputs, *(path for path in project.kept if os.path.exists(path))]
    found = [resolved("inputs", path) for path in asked]
    if any(within(root, path) for path in found):
        return None
    held = [point for point in points if within(point, root)]
    if any(point == root for point in held):  # all of it is the host's own
        return None
    paths = outermost(path for path in found if within(path, root) and not any(within(path, point) for point in held))
    held = [point for point in outermost(held) if not any(within(point, path) for path in paths)]
    binds, files, layers = [], [], []
    for path in paths:
        if os.path.isfile(path) and os.path.getsize(path) <= COPIED and os.access(path, os.R_OK):
            files.append(path)
            continue
        match _of_host(path, trees, owners=owners):
            case Layer() as layer:
                layers.append(layer)
            case bound:
                binds.append(bound)
    links = {link for path in asked for link in _links(path) if within(link, root)}
    whole = (*(path for path in paths if os.path.isdir(path)), *(point for point in held if os.path.isdir(point)))
    outline = Outline(root, tuple(_entries(project.root, project.here, (*paths, *held), files, links, whole)))
    around = _of_host(root, trees, owners=owners)
    flags, server = (around.flags, around.server) if isinstance(around, Layer) else (0, "")
    base = Layer(root, Directory.like(root, owned=owners), outline.name, flags, server, below="the inputs alone")
    return Shown(outline, (base, *layers), tuple(binds), whole)


def _entries(
    root: str, here: str, paths: Iterable[str], copies: Sequence[str], links: Iterable[str], whole: Sequence[str]
) -> Iterator[_Entry]:
    """The outline's: `paths`, the directories on the way to them, and `links`."""
    found = {path: "copy" if path in copies else "directory" if os.path.isdir(path) else "point" for path in paths}
    found |= {link: "link" for link in links if not any(within(link, tree) for tree in whole)}
    directories = {root}
    if here := here if within(here, root) and os.path.isdir(here) else "":
        directories.add(here)
    for path in (*found, here):
        while path != root and within(path := os.path.dirname(path), root):
            directories.add(path)
    found |= {path: "directory" for path in directories if not any(path != tree and within(path, tree) for tree in whole)}
    for path in sorted(found, key=lambda path: (depth(path), path)):
        yield _Entry(path, found[path], _about(path, found[path]))


def _about(path: str, kind: str) -> tuple[int | str, ...]:
    if kind == "point":
        return ()
    status = os.lstat(path)
    about = (status.st_mode, status.st_uid, status.st_gid, status.st_ino)
    return about if kind == "directory" else (*about, status.st_size, status.st_mtime_ns)


def _of_host(path: str, trees: Trees, *, owners: bool) -> Layer | Bound:
    """How the host's `path` is put into the sandbox: as the tree around it is."""
    layer = max((layer for layer in trees.layers if within(path, layer.path)), key=lambda layer: depth(layer.path), default=None)
    bound = max((depth(bound.path) for bound in trees.binds if within(path, bound.path)), default=-1)
    if layer is None or bound > depth(layer.path):
        return Bound(path, recursive=True)
    if layer.path == path:
        return layer
    if layer.lower != (HOST if layer.path == "/" else HOST + layer.path):  # an outline itself: this isn't in it
        return Bound(path, recursive=True)
    if os.path.isdir(path):
        return Layer(path, Directory.like(path, owned=owners), HOST + path, layer.flags, layer.server)
    if layer.server or not os.path.isfile(path):
        return Bound(path)
    folder, name = os.path.split(path)
    return Layer(path, Directory.like(folder, owned=owners), HOST + folder, layer.flags, file=name)


def _links(path: str) -> Iterator[str]:
    """Each symbolic link on the way to `path`, at its real place."""
    at, rest = "/", [name for name in path.split("/") if name]
    met = 0
    while rest and met < _MOST_LINKS:
        name = rest.pop(0)
        if name == "..":
            at = os.path.dirname(at)
            continue
        step = os.path.join(at, name)
        if not os.path.islink(step):
            at = step
            continue
        yield step
        met += 1
        target = os.readlink(step)
        rest = [part for part in target.split("/") if part not in ("", ".")] + rest
        if target.startswith("/"):
            at = "/"
