"""A root file system that isn't the host's: layers, and of the host only what the test's own code needs.

All of it is mounted outside, by the builder, as root's host tree is: sandbox and builder see the same layers, also rootless, where
the builder's user namespace is the one that the layers' owners are mapped in. The lowest layer is made here, once per plan: empty
directories and files to mount on, which the image may lack. The image has the last word on all of them, so a link of the image on
the way to one of them leads where it does inside (`InRoot`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from typing import Final

from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.image import Code, Stack
from pytest_isolate.model.paths import within
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs.devices import DISK
from pytest_isolate.rootfs.fuse import FuseOverlay
from pytest_isolate.rootfs.host import RESOLV_CONF, HostRoot
from pytest_isolate.rootfs.in_root import InRoot
from pytest_isolate.rootfs.layers import link, short
from pytest_isolate.rootfs.layout import DEVICES, HOST, Layer
from pytest_isolate.rootfs.plan import (
    EMPTY,
    FIGURES,
    NOTHING,
    ROOT,
    UPPER,
    Bind,
    Directory,
    EnterRoot,
    Hide,
    Operation,
    Overlay,
    PivotRoot,
    Plan,
    Upper,
)
from pytest_isolate.rootfs.survey import OWN_TREES, depth, resolved

__all__ = ["describe_plan", "plan_of", "prepare"]

_POINTS: Final = "points"
_NOBODYS: Final = Code()
_ALWAYS: Final = ("/proc", "/sys", "/dev", "/run", "/tmp", "/etc")  # noqa: S108 - of the sandbox
_HOSTS: Final = "/etc/hosts"
_LOCALHOST: Final = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def plan_of(root: HostRoot, spec: Spec, resolver: str = "") -> Plan:
    """The operations for `spec`, whatever it has for a root file system. `prepare` must have been called for its execution.

    Args:
        resolver: as in `HostRoot.plan`.

    Raises:
        SetupError: a path of the spec doesn't exist.
    """
    if spec.stack is None or spec.stack.host:
        return root.plan(spec, resolver)
    tree = tuple(_tree(root, spec, spec.stack, resolver))
    kernel = root.kernel if spec.net.own else tuple(step for step in root.kernel if step.target != "/sys")
    late = tuple(Bind(path, path, make=True) for path in root.places if within(path, "/dev") and spec.code)
    notes = (*spec.stack.notes, *root.notes)
    return Plan(tree, (EnterRoot(ROOT), *kernel, *late, PivotRoot()), notes)


def describe_plan(spec: Spec, places: Sequence[str] = (), *, rootless: bool = False, trees: Sequence[str] = ()) -> list[str]:
    """What would be done for `spec`, a line per step; mounts nothing, so every overlay is taken to work.

    Raises:
        SetupError: a path of the spec doesn't exist.
    """
    root = HostRoot.surveyed(places, rootless=rootless, trees=trees)
    return plan_of(root, spec, "resolv.conf" if spec.net.mode == "bridge" else "").describe()


def prepare(root: HostRoot, spec: Spec) -> None:
    """Make in the workspace what the plan for `spec` refers to. Raises SetupError, OSError."""
    if spec.scratch:
        os.makedirs(spec.scratch, exist_ok=True)
    if (shown := root.shown(spec, _code_in(spec))) is not None:
        shown.prepare(root.workspace, owners=not root.rootless)
    if spec.stack is None or spec.stack.host:
        trees = root.trees if shown is None else shown.instead(root.trees)
        root.prepare_layers(spec.stack.directories if spec.stack else (), trees, spec.upper_directory)
        return
    runtime = (spec.code.runtime,) if spec.code and spec.code.runtime else ()
    link(root.workspace, (*spec.stack.directories, *runtime))
    points = f"{root.workspace}/{_points(spec)}"
    for path in _ALWAYS:
        os.makedirs(points + path, exist_ok=True)
    os.chmod(f"{points}/tmp", 0o1777)  # noqa: S103, S108 - so it is everywhere
    if not os.path.lexists(points + _HOSTS):
        with open(points + _HOSTS, "w", encoding="ascii") as file:
            file.write(_LOCALHOST)
    for path in (RESOLV_CONF, *_bound(root, spec)):
        _make_point(points + path, is_directory=os.path.isdir(path))


def _code_in(spec: Spec) -> tuple[str, ...]:
    """What of the host's code is mounted read-only."""
    return spec.code.trees if spec.code else ()


def _points(spec: Spec) -> str:
    code = spec.code or _NOBODYS
    return f"{_POINTS}/{short(repr((code, spec.writable, _project(spec))))[-8:]}"


def _project(spec: Spec) -> tuple[str, ...]:
    """Where the project is, if a part of it is shown."""
    return (spec.project.root,) if spec.inputs and spec.project else ()


def _make_point(path: str, *, is_directory: bool) -> None:
    os.makedirs(path if is_directory else os.path.dirname(path), exist_ok=True)
    if not is_directory:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _bound(root: HostRoot, spec: Spec) -> list[str]:
    """Host paths that appear inside at their own places."""
    code = spec.code or _NOBODYS
    places = root.places if spec.code else ()
    return [*code.trees, *code.projects, *_project(spec), *places, *(resolved("writable", path) for path in spec.writable)]


def _tree(root: HostRoot, spec: Spec, stack: Stack, resolver: str) -> Iterator[Operation]:
    code = spec.code or _NOBODYS
    layers = [Layer("/", _like(stack.directories[-1], rootless=root.rootless), "")]
    layers += [Layer(path, _like(path, rootless=root.rootless), HOST + path) for path in code.projects]
    if (shown := root.shown(spec, code.trees)) is not None:
        layers = [*(layer for layer in layers if not shown.replaces(layer.path)), *shown.layers]
    yield Upper(spec.disk, tuple(layer.directory for layer in layers), on_disk=bool(spec.scratch))
    server = next((layer.server for layer in root.trees.layers), "")
    below = tuple(short(directory) for directory in (*reversed(stack.directories), *((code.runtime,) if code.runtime else ())))
    yield from _overlay(root, layers[0], 0, (*below, _points(spec)), f"{len(stack.directories)} layers", server)
    steps: list[Operation] = []
    for number, layer in enumerate(layers[1:], 1):
        if layer.file:
            from pytest_isolate.rootfs.inputs import FileOverlay

            steps.append(FileOverlay.of(layer, (layer.lower,), number, root.options))
        else:
            steps += _overlay(root, layer, number, (layer.lower,), layer.below, server)
    steps += [Bind(HOST + path, path, recursive=True, readonly=True) for path in code.trees]
    if shown is not None:
        steps += [Bind(HOST + bound.path, bound.path, recursive=bound.recursive, readonly=True) for bound in shown.binds]
    places = root.places if spec.code else ()
    writable = dict.fromkeys((*places, *(resolved("writable", path) for path in spec.writable)))
    steps += [Bind(path, path) for path in writable if not any(within(path, own) for own in OWN_TREES)]
    steps += [Hide(path, _cover(path, stack)) for path in spec.hide]
    for step in sorted(steps, key=lambda step: depth(step.target)):
        yield step if isinstance(step, FuseOverlay) else InRoot(step)
    yield InRoot(Bind(DEVICES, "/dev", readonly=True))
    if root.rootless:
        yield InRoot(Bind(f"{UPPER}/{FIGURES}", f"/dev/{DISK}", readonly=True))
    if not spec.net.own:
        yield InRoot(Bind("/sys", "/sys", recursive=root.rootless, readonly=True))
    if resolver or not spec.net.own:
        source = resolver or HOST + os.path.realpath(RESOLV_CONF)
        yield InRoot(Bind(source, RESOLV_CONF, recursive=False, readonly=True))


def _overlay(root: HostRoot, layer: Layer, number: int, below: tuple[str, ...], name: str, server: str) -> Iterator[Operation]:
    if server:
        served = FuseOverlay(server, below, layer.path, number)
        yield served
        yield served.bind()
    else:
        yield Overlay(below, layer.path, number, root.options, below=name)


def _like(path: str, *, rootless: bool) -> Directory:
    """What an upper must look like to cover `path`; rootless it is the caller's, who is root inside."""
    try:
        return Directory.like(path, owned=not rootless)
    except OSError as error:
        raise SetupError.from_os_error("use a directory", error, path) from None


def _cover(path: str, stack: Stack) -> str:
    """What hides `path`, by what the layers have there. Raises SetupError."""
    for directory in reversed(stack.directories):
        if os.path.lexists(directory + path):
            return EMPTY if os.path.isdir(directory + path) else NOTHING
    raise SetupError("hide=", path, errno.ENOENT, f"no layer of rootfs= has {path}: take it out of hide=")
