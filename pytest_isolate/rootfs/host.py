"""``rootfs="host"``: the host's own tree, every write thrown away.

`HostRoot.prepare` runs once, in the builder's private mount namespace: it captures the host's tree as a
read-only clone, makes what all sandboxes share, and finds out by mounting what takes an overlay. `plan` then
only writes down operations.

As root the tree is built outside, by the builder: an overlay of ``/`` and of each writable submount.
Rootless the kernel refuses an overlay of a tree with mounts below it (they are locked), so the sandbox gets
the read-only clone and overlays only on the trees that its user works in.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pytest_isolate.kernel.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, Mount, mountinfo
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.paths import within
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs.capture import leave_workspace, make_workspace, mask, probe
from pytest_isolate.rootfs.devices import DISK
from pytest_isolate.rootfs.fuse import FuseOverlay, stop
from pytest_isolate.rootfs.layers import cover, covered, link, lowers, missing_trees, overlap
from pytest_isolate.rootfs.layout import CGROUPS, DEVICES, HOST, Bound, Layer, Trees
from pytest_isolate.rootfs.plan import (
    EMPTY,
    FIGURES,
    GROUP,
    HINTS,
    NOTHING,
    REFUSED,
    ROOT,
    UPPER,
    Bind,
    Directory,
    EnterRoot,
    FileSystem,
    GroupDirectory,
    Hide,
    Operation,
    Overlay,
    PivotRoot,
    Plan,
    ReadOnly,
    Upper,
    apply,
)
from pytest_isolate.rootfs.sockets import host_sockets
from pytest_isolate.rootfs.survey import (
    CGROUP_ROOT,
    ENGINES,
    MASKED,
    OWN_TREES,
    READ_ONLY,
    Hierarchy,
    around,
    depth,
    hierarchies,
    resolved,
    submounts,
)
from pytest_isolate.rootfs.trees import make_skeletons, user_trees

if TYPE_CHECKING:
    from pytest_isolate.rootfs.inputs import Shown

__all__ = ["HostRoot"]

ROOT_OPTIONS: Final = "redirect_dir=on,xino=on,index=off,metacopy=off"
"""As real root: directories rename, inode numbers survive the copy-up."""

USER_OPTIONS: Final = "userxattr,index=off,metacopy=off"
"""In a user namespace: without userxattr removing a directory of the lower layer fails (overlayfs.rst)."""

RESOLV_CONF: Final = "/etc/resolv.conf"

_NOWHERE: Final = "/"
"""The workspace of plans that nobody carries out."""

_QUIET: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC


@dataclass(frozen=True, slots=True)
class HostRoot:
    """The host as every sandbox of the run sees it; made by `prepare`.

    Attributes:
        workspace: a directory of the builder's, the working directory of `apply_outside` and `apply_inside`.
        rootless: no privileges over the mounts of the host.
        places: host paths that are always bound read-write, resolved.
        trees: how the tree is put together.
        sockets: UNIX sockets to mask in each sandbox.
        kernel: the operations for proc, sysfs and their kind, the same for every sandbox.
    """

    workspace: str
    rootless: bool
    places: tuple[str, ...]
    trees: Trees
    sockets: tuple[str, ...]
    kernel: tuple[Operation, ...]

    @classmethod
    def prepare(
        cls, workspace: str, *, rootless: bool, places: Sequence[str], trees: Sequence[str], unified: bool = False
    ) -> HostRoot:
        """Capture the host and make what all sandboxes share, on a tmpfs over `workspace`.

        The caller's mount namespace must be its own, and every mount in it private. Where the caller is root
        only in a user namespace that doesn't own the host's mounts, the result is that of `rootless`.

        Args:
            workspace: an existing directory, absolute.
            rootless: the caller has its capabilities in a user namespace only.
            places: host paths that every sandbox shares with the host read-write.
            trees: rootless: the directories that the user works in.
            unified: each sandbox has a directory in the v2 tree, which `apply_outside` is told.

        Raises:
            SetupError: a step that no sandbox can do without failed.
        """
        survey = _survey(workspace, rootless=rootless, places=places, trees=trees, unified=unified)
        try:
            return survey._make()
        except SetupError as error:
            leave_workspace(workspace)
            if rootless or error.errno not in (errno.EINVAL, errno.EPERM):
                raise
        survey = _survey(workspace, rootless=True, places=places, trees=trees, unified=unified)
        try:
            return survey._make()
        except SetupError:
            leave_workspace(workspace)
            raise

    @classmethod
    def surveyed(cls, places: Sequence[str], *, rootless: bool, trees: Sequence[str]) -> HostRoot:
        """What `prepare` would give, every overlay taken to work: for plans that nobody carries out. Raises SetupError."""
        survey = _survey(_NOWHERE, rootless=rootless, places=places, trees=trees)
        # As `_make` ends: rootless they are masked in the clone that all sandboxes share.
        return replace(survey, sockets=() if rootless else _reachable(survey.sockets, survey.trees))

    def _make(self) -> HostRoot:
        """Mount what was surveyed. Raises SetupError."""
        try:
            make_workspace(self.workspace, own_trees=not self.rootless, cgroup_points=self._cgroup_points())
            vanished = tuple(make_skeletons(self.trees.skeletons))
        except OSError as error:
            number = error.errno or 0
            path = os.fsdecode(error.filename or self.workspace)
            raise SetupError("prepare workspace", path, number, HINTS.get(number, ""), str(error)) from error
        trees = probe(self.trees, self.options, on_clone=self.rootless)
        trees = replace(trees, notes=(*trees.notes, *vanished))
        reachable = _reachable(self.sockets, trees)
        if not self.rootless:
            return replace(self, trees=trees, sockets=reachable)
        unmasked = tuple(mask(reachable))
        return replace(self, trees=replace(trees, notes=(*trees.notes, *unmasked)), sockets=())

    def _cgroup_points(self) -> list[str]:
        return [
            step.target
            for step in self.kernel
            if (isinstance(step, FileSystem) and step.fstype.startswith("cgroup"))
            or (isinstance(step, Bind) and step.source == GROUP)
        ]

    @property
    def notes(self) -> tuple[str, ...]:
        """What this host doesn't allow, a sentence each."""
        return self.trees.notes

    @property
    def options(self) -> str:
        """Overlay's."""
        return USER_OPTIONS if self.rootless else ROOT_OPTIONS

    @property
    def disk_path(self) -> str:
        """A path inside whose statvfs(2) tells of the tmpfs that takes the writes."""
        return f"/dev/{DISK}" if self.rootless else "/"

    def plan(self, spec: Spec, resolver: str = "") -> Plan:
        """The operations for `spec`; the same for each sandbox, since each has a mount namespace of its own.

        Args:
            resolver: name, in the workspace, of a resolv.conf(5) to put in place of the host's.

        Raises:
            SetupError: a path of ``writable=``, ``hide=`` or ``inputs=`` doesn't exist.
        """
        hidden = tuple(resolved("hide", path) for path in spec.hide)
        tree = (*self._tree(spec, hidden), *self._resolver(resolver))
        # A fresh sysfs needs a network namespace of one's own.
        fresh = self.kernel if spec.net.own else tuple(step for step in self.kernel if step.target != "/sys")
        kernel = (*fresh, *self._late(hidden))
        if self.rootless:
            # What the builder must do itself: start servers, and mount the upper layer, of which it keeps a descriptor.
            outside = tuple(step for step in tree if isinstance(step, (Upper, FuseOverlay)))
            inside = (step.bind() if isinstance(step, FuseOverlay) else step for step in tree if not isinstance(step, Upper))
            return Plan(outside, (EnterRoot(HOST, readonly=True), *inside, *kernel, PivotRoot()), self.notes)
        return Plan(tree, (EnterRoot(ROOT), *kernel, PivotRoot()), self.notes)

    def apply_outside(self, plan: Plan, group: str = "", writes: Operation | None = None) -> list[int]:
        """In the builder, in the sandbox's copy of the mount namespace; the working directory is the workspace afterwards.

        Args:
            group: the sandbox's directory in the v2 tree, empty if it has none.
            writes: what takes its writes, where they go to a disk.

        Returns:
            pidfds of servers that are to be stopped with the sandbox (`fuse.stop`).

        Raises:
            SetupError
        """
        servers: list[int] = []
        _enter(self.workspace)
        if group:
            GroupDirectory(group).apply(ROOT)
        if writes is not None:
            writes.apply("")
        try:
            for step in plan.outside:
                if isinstance(step, FuseOverlay):
                    servers.append(step.serve())
                else:
                    step.apply(ROOT)
        except BaseException:
            for server in servers:
                stop(server)
            raise
        return servers

    def apply_inside(self, plan: Plan) -> None:
        """In the sandbox's init, all its namespaces new; the working directory is ``/`` of the sandbox afterwards.

        Raises:
            SetupError
        """
        _enter(self.workspace)
        apply(plan.inside, ROOT)

    def shown(self, spec: Spec, points: Sequence[str] = ()) -> Shown | None:
        """What ``inputs=`` leaves of the project, `points` being what else of the host is mounted inside. Raises SetupError."""
        if not spec.inputs:
            return None
        from pytest_isolate.rootfs.inputs import show  # few runs have inputs, and each has a builder that loads this module

        return show(spec, self.trees, (*self._writable(spec), *points), owners=not self.rootless)

    def _writable(self, spec: Spec) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.places, *(resolved("writable", path) for path in spec.writable))))

    def _tree(self, spec: Spec, hidden: Sequence[str]) -> Iterator[Operation]:
        """Everything but the kernel's own file systems, shallow paths before those in them."""
        writable, shown = self._writable(spec), self.shown(spec)
        trees = self.trees if shown is None else shown.instead(self.trees)
        if shown is not None:
            hidden = tuple(path for path in hidden if shown.has(path))
        gone = (*writable, *hidden)
        over = spec.stack.directories if spec.stack else ()
        layers = [
            layer
            for layer in (*trees.layers, *self._further(over))
            if layer.path == "/" or not (_covered(layer.path, gone) or self._has_vanished(layer.path))
        ]
        steps: list[Operation] = [self._layer(layer, number, over, spec.upper_directory) for number, layer in enumerate(layers)]
        steps += [
            Bind(HOST + bound.path, bound.path, recursive=bound.recursive, readonly=True)
            for bound in trees.binds
            if not (_covered(bound.path, gone) or self._has_vanished(bound.path))
        ]
        steps += [Bind(path, path) for path in writable if not _covered(path, OWN_TREES)]
        sockets = self.sockets if shown is None else tuple(path for path in self.sockets if shown.has(path))
        steps += [Hide(path, REFUSED, "masked socket") for path in sockets if not _covered(path, gone)]
        steps += [_hide(path, writable) for path in hidden if not _covered(path, OWN_TREES)]
        yield Upper(spec.disk, tuple(layer.directory for layer in layers), on_disk=bool(spec.scratch))
        yield from sorted(steps, key=lambda step: depth(step.target))
        yield Bind(DEVICES, "/dev", readonly=True)
        if self.rootless:
            yield Bind(f"{UPPER}/{FIGURES}", f"/dev/{DISK}", readonly=True)
        elif not spec.net.own:  # rootless, the clone has it
            yield Bind("/sys", "/sys", recursive=False, readonly=True)

    def _resolver(self, name: str) -> Iterator[Operation]:
        """The network's resolv.conf over the host's, wherever the host's really lies."""
        if name:
            target = os.path.realpath(RESOLV_CONF)
            if not os.path.exists(target):
                hint = f"make {target} on the host, an empty file: it is what names are resolved by inside"
                raise SetupError("bind", RESOLV_CONF, errno.ENOENT, hint)
            yield Bind(name, target, recursive=False, readonly=True)

    def _has_vanished(self, path: str) -> bool:
        """Whether it is gone since the host was captured: a mount point that somebody removed, what was in a tree that is taken apart.

        Removing a directory takes away what is mounted on it in every mount namespace (fs/namespace.c, __detach_mounts).
        """
        captured = f"{self.workspace}/{HOST}"
        return self.workspace != _NOWHERE and os.path.isdir(captured) and not os.path.lexists(captured + path)

    def _further(self, over: Sequence[str]) -> Iterator[Layer]:
        """Rootless: trees that only the layers `over` the host need."""
        if over and self.rootless:
            server = next((layer.server for layer in self.trees.layers), "")
            paths = [layer.path for layer in self.trees.layers]
            yield from (replace(layer, server=server) for layer in missing_trees(over, paths, mountinfo()))

    def _layer(self, layer: Layer, number: int, over: Sequence[str], scratch: str) -> Operation:
        on_top = lowers(layer.tree, over)
        lower = covered(layer.tree) if self.is_covered(layer, over, scratch) else layer.lower
        if layer.file:
            from pytest_isolate.rootfs.inputs import FileOverlay

            return FileOverlay.of(layer, (*on_top, lower), number, self.options)
        if layer.server:
            return FuseOverlay.of(layer.server, layer, number, on_top)
        below = f"{len(on_top)} layers on {layer.below}" if on_top else layer.below
        return Overlay((*on_top, lower), layer.path, number, self.options, layer.flags, below)

    def is_covered(self, layer: Layer, over: Sequence[str], scratch: str) -> bool:
        """Whether `cover` must have been called for the tree of `layer`: its overlay would be made of parts that lie in one another."""
        parts = (*(over if lowers(layer.tree, over) else ()), *((scratch,) if scratch else ()))
        return layer.lower == HOST + layer.tree.rstrip("/") and overlap(layer.tree, parts)

    def prepare_layers(self, over: Sequence[str], trees: Trees, scratch: str) -> None:
        """What `plan` refers to where layers lie over the host's `trees`, or its writes go to the host's disk. Raises SetupError."""
        link(self.workspace, over)
        for layer in (*trees.layers, *self._further(over)):
            if not layer.server and self.is_covered(layer, over, scratch):
                cover(self.workspace, layer.tree)

    def _late(self, hidden: Sequence[str]) -> Iterator[Operation]:
        """What goes into the sandbox's own /dev, /proc and /sys."""
        yield from (Bind(path, path, make=True) for path in self.places if within(path, "/dev"))
        yield from (_hide(path, ()) for path in hidden if _covered(path, OWN_TREES))


def _enter(workspace: str) -> None:
    try:
        os.chdir(workspace)
    except OSError as error:
        raise SetupError.from_os_error("chdir", error, workspace) from error


def _covered(path: str, trees: Sequence[str]) -> bool:
    return any(within(path, tree) for tree in trees)


def _hide(path: str, kept: Sequence[str]) -> Hide:
    if path in kept:
        raise SetupError("hide=", path, errno.EBUSY, f"pytest itself writes there: take {path} out of hide=")
    return Hide(path, _cover(path), keep=tuple(place for place in kept if within(place, path)))


def _cover(path: str) -> str:
    return EMPTY if os.path.isdir(path) else NOTHING


def _survey(workspace: str, *, rootless: bool, places: Sequence[str], trees: Sequence[str], unified: bool = False) -> HostRoot:
    """A HostRoot from looking alone: every overlay is taken to work."""
    mounts = mountinfo()
    wanted = user_trees(mounts, trees) if rootless else _submount_trees(mounts)
    return HostRoot(
        workspace=workspace,
        rootless=rootless,
        places=tuple(dict.fromkeys(resolved("places", place) for place in places)),
        trees=wanted,
        sockets=tuple(path for path in host_sockets(mounts) if not _covered(path, OWN_TREES)),
        kernel=tuple(_kernel_file_systems(hierarchies(mounts), rootless=rootless, unified=unified)),
    )


def _kernel_file_systems(cgroups: Sequence[Hierarchy], *, rootless: bool, unified: bool) -> Iterator[Operation]:
    """What belongs to the sandbox's own namespaces: mounted by it, while the host's /proc and /sys are in sight."""
    yield FileSystem("proc", "/proc")
    yield FileSystem("sysfs", "/sys", _QUIET | MS_RDONLY)
    # Also where one tree is at CGROUP_ROOT itself: on a mount of the same tree, as the host's clone has, it can't be mounted (EBUSY).
    if cgroups and not (unified and cgroups[0].point == CGROUP_ROOT):
        yield Bind(CGROUPS, CGROUP_ROOT, readonly=True)
    for hierarchy in cgroups:
        if unified and hierarchy.fstype == "cgroup2":
            # A fresh mount would show what is init's, which isn't in the sandbox's group, as its root.
            yield Bind(GROUP, hierarchy.point, readonly=True)
            continue
        yield FileSystem(hierarchy.fstype, hierarchy.point, _QUIET | MS_RDONLY, hierarchy.options)
    yield FileSystem("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    yield FileSystem("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777")  # noqa: S108 - that is its name
    yield FileSystem("mqueue", "/dev/mqueue")
    if not rootless:  # root of a user namespace that owns the host's ids would pass the files' permissions
        yield from (Hide(path, _cover(path), "masked") for path in MASKED if os.path.exists(path))
        yield from (ReadOnly(path) for path in READ_ONLY if os.path.exists(path))


def _reachable(sockets: Sequence[str], trees: Trees) -> tuple[str, ...]:
    """Those that a sandbox sees through a bind: what an overlay covers answers ECONNREFUSED."""
    overlaid = [layer.path for layer in trees.layers if layer.path != "/" and layer.lower == HOST + layer.path]
    bound = [bound.path for bound in trees.binds]
    over_root = any(layer.path == "/" for layer in trees.layers)
    return tuple(
        path
        for path in sockets
        if _deepest(path, bound) > _deepest(path, overlaid) or (not over_root and _deepest(path, overlaid) < 0)
    )


def _deepest(path: str, trees: Sequence[str]) -> int:
    """Depth of the innermost of `trees` around `path`, -1 if none is."""
    return max((depth(tree) for tree in trees if within(path, tree)), default=-1)


def _submount_trees(mounts: Sequence[Mount]) -> Trees:
    """Root: an overlay of ``/`` and of each writable submount, a read-only bind of the others.

    What a container engine has mounted for its containers is nothing to write to, and may be a hundred mounts.
    """
    root = around("/", mounts)
    layers = [Layer("/", Directory.like("/", owned=True), HOST, root.flags if root else 0)]
    binds = []
    for submount in submounts(mounts):
        if submount.directory and not submount.readonly and not _covered(submount.point, ENGINES):
            directory = Directory(submount.mode, submount.uid, submount.gid)
            layers.append(Layer(submount.point, directory, HOST + submount.point, submount.flags))
        else:
            binds.append(Bound(submount.point))
    return Trees(tuple(layers), tuple(binds))
