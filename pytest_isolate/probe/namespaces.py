"""The namespaces and the mounts that a sandbox is made of, each tried on its own.

As the builder does it: as root in a mount namespace, otherwise in a user namespace of its own (`enter_run_namespace`), and
there once more a user namespace for the sandbox. So what is tried is what will be done, ids and all.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from pytest_isolate.kernel.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, bind, mount
from pytest_isolate.kernel.namespaces import (
    ALL,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    NAMES,
    loopback_up,
    own_map,
    write_id_maps,
)
from pytest_isolate.kernel.syscalls import setns, unshare
from pytest_isolate.machine.causes import Cause, fresh_proc, joining, mounting, namespace, overlay, user_namespace
from pytest_isolate.machine.facts import Machine
from pytest_isolate.model.errors import IsolateError, MissingCapability, SetupError
from pytest_isolate.probe.attempt import Answer, attempt
from pytest_isolate.probe.capability import Capability
from pytest_isolate.rootfs.host import HostRoot
from pytest_isolate.sandbox.identity import enter_run_namespace
from pytest_isolate.sandbox.pool import trees_of_user

__all__ = ["probe_namespaces"]

_QUIET: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC


def probe_namespaces(machine: Machine) -> Iterator[Capability]:
    """``userns``, then what needs it. Where that is missing nothing else can be tried."""
    users = attempt(_user_namespace)
    if users.error is not None:
        yield Capability.missing("userns", _cause(users.error, lambda number: user_namespace(machine, number, users.step)))
        for name in (*(f"{kind}-namespace" for kind in _KINDS), "mounts", "proc", "overlay", "pidfd"):
            yield Capability(name, "missing", "it takes userns", cause="userns")
        return
    yield Capability("userns", "works", "as root of the machine" if machine.is_privileged else "")
    for kind in _KINDS:
        name = f"{kind}-namespace"
        yield _judged(name, attempt(_namespace(kind)), lambda number, kind=kind: namespace(machine, kind, number))  # type: ignore[misc]
    yield _judged("mounts", attempt(_mounts), lambda number: mounting(machine, number, "open_tree, mount_setattr, move_mount"))
    yield _judged("proc", attempt(_fresh_proc), lambda number: fresh_proc(machine, number))
    yield _overlay(machine)
    yield _judged("pidfd", attempt(_join_by_pidfd), lambda number: joining(machine, number))


_KINDS: Final = ("pid", "net", "uts", "ipc", "cgroup")


def _judged(name: str, answer: Answer, cause: Callable[[int], Cause]) -> Capability:
    if answer.error is None:
        return Capability(name, "works")
    return Capability.missing(name, _cause(answer.error, cause))


def _cause(error: IsolateError, cause: Callable[[int], Cause]) -> Cause:
    """The cause of an errno; of what has one already, that."""
    if isinstance(error, SetupError) and error.errno:
        return cause(error.errno)
    why = error.why if isinstance(error, MissingCapability) else error.message
    return Cause("unknown", why, error.hint)


def _step(name: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except OSError as error:
        raise SetupError.from_os_error(name, error) from None


def _user_namespace() -> None:
    """A user namespace, its maps, and the first use of its privileges, which some policies refuse instead (Ubuntu's)."""
    uid, gid = os.geteuid(), os.getegid()
    unprivileged = True
    with suppress(OSError):
        unshare(CLONE_NEWNS)
        unprivileged = False
    if unprivileged:
        _step("unshare(CLONE_NEWUSER)", unshare, CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
            _step(f"write /proc/self/{name}", _write, f"/proc/self/{name}", text)
        _step("mount in a user namespace", mount, "none", "/", "", MS_REC | MS_PRIVATE)
    _step("unshare(CLONE_NEWUSER)", unshare, CLONE_NEWUSER)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _in_builders_place() -> None:
    enter_run_namespace()
    _step("mount", mount, "none", "/", "", MS_REC | MS_PRIVATE)


def _namespace(kind: str) -> Callable[[], None]:
    def work() -> None:
        enter_run_namespace()
        _step(kind, unshare, NAMES[kind] | CLONE_NEWUSER)
        if kind == "net":
            _step(kind, loopback_up)

    return work


def _mounts() -> None:
    _in_builders_place()
    with _scratch() as place:
        _step("mount tmpfs", mount, "tmpfs", place, "tmpfs", MS_NOSUID, "mode=755")
        os.mkdir(f"{place}/clone")
        _step("bind", lambda: bind("/", f"{place}/clone", recursive=True, readonly=True))


def _fresh_proc() -> None:
    """As PID 1 of a new namespace; the builder's child too mounts it while the old /proc is in sight."""
    _in_builders_place()
    uids, gids = own_map("uid"), own_map("gid")
    go, told = os.pipe(), os.pipe()
    # A helper outside writes the maps: they are the parent namespace's to give.
    me = os.getpid()
    helper = os.fork()
    if helper == 0:
        if os.read(go[0], 1) == b"g":
            with suppress(OSError):
                write_id_maps(me, uids, gids, setgroups=True)
        os._exit(0)
    _step("unshare", unshare, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID)
    os.write(go[1], b"g")
    os.waitpid(helper, 0)
    first = os.fork()
    if first == 0:
        number = 0
        try:
            mount("proc", "/proc", "proc", _QUIET)
        except OSError as error:
            number = error.errno or errno.EIO
        os.write(told[1], bytes([number]))
        os._exit(0)
    os.close(told[1])
    answer = os.read(told[0], 1)
    os.waitpid(first, 0)
    if answer != b"\0":
        raise OSError(answer[0] if answer else errno.EIO, "mount proc")


def _overlay(machine: Machine) -> Capability:
    """The overlays that a sandbox gets: those of the real root file system, and where they are refused one on a tmpfs, to tell why."""
    whole = attempt(_host_root)
    if whole.error is None:
        rootless, notes = whole.result["rootless"], "; ".join(whole.result["notes"])
        if machine.is_privileged and rootless:
            cause = overlay(machine, attempt(_overlay_of_root).errno or errno.EINVAL, over_root=True)
            return Capability("overlay", "weaker", "; ".join(filter(None, (cause.why, notes))), cause.remedy, cause.name)
        if notes:
            return Capability("overlay", "weaker", notes, "", "refused-layers")
        return Capability("overlay", "works", "over the user's directories" if rootless else "over the whole root")
    plain = attempt(_plain_overlay)
    if plain.error is not None:
        return Capability.missing("overlay", _cause(plain.error, lambda number: overlay(machine, number)))
    return Capability.missing("overlay", _cause(whole.error, lambda number: overlay(machine, number, over_root=True)))


def _host_root() -> dict[str, Any]:
    """What the builder does once per run."""
    identity = enter_run_namespace()
    _step("mount", mount, "none", "/", "", MS_REC | MS_PRIVATE)
    with _scratch() as place:
        root = HostRoot.prepare(place, rootless=identity.rootless, places=(), trees=trees_of_user(_directory()))
        return {"rootless": root.rootless, "notes": list(root.notes)}


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _plain_overlay() -> None:
    _overlay_over("")


def _overlay_of_root() -> None:
    _overlay_over("/")


def _overlay_over(lower: str) -> None:
    """An overlay of `lower`, or of an empty directory, its upper on a tmpfs."""
    _in_builders_place()
    with _scratch() as place:
        _step("mount tmpfs", mount, "tmpfs", place, "tmpfs", MS_NOSUID, "mode=755")
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{place}/{name}")
        options = f"lowerdir={lower or f'{place}/lower'},upperdir={place}/upper,workdir={place}/work"
        _step("mount overlay", mount, "overlay", f"{place}/merged", "overlay", 0, options)


def _join_by_pidfd() -> None:
    """A process of other namespaces, entered by its pidfd with all of them at once."""
    enter_run_namespace()
    ready, stay = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(stay[1])
        with suppress(OSError):
            unshare(CLONE_NEWUSER | CLONE_NEWUTS)
            os.write(ready[1], b"r")
        os.close(ready[1])
        os.read(stay[0], 1)
        os._exit(0)
    os.close(ready[1])
    try:
        if os.read(ready[0], 1) == b"r":
            setns(os.pidfd_open(pid), (CLONE_NEWUSER | CLONE_NEWUTS) & ALL)
    finally:
        os.close(stay[1])
        os.waitpid(pid, 0)


class _scratch:  # noqa: N801 - reads as the function it could be, if a namespace let a temporary directory be removed
    """An empty directory of the machine's, gone afterwards also where the child that used it can't remove it."""

    def __enter__(self) -> str:
        self.path = tempfile.mkdtemp(prefix="pytest-isolate-probe-")
        return self.path

    def __exit__(self, *_exc: object) -> None:
        from pytest_isolate.kernel.mounts import MNT_DETACH, umount2

        os.chdir("/")
        for _ in range(2):
            with suppress(OSError):
                umount2(self.path, MNT_DETACH)
        os.rmdir(self.path)
