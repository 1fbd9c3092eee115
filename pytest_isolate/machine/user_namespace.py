"""A user namespace for what an unprivileged caller couldn't do outside: mount, and give files to several owners.

The caller's id is mapped to itself and, where `newuidmap` and /etc/subuid allow, the caller's subordinate ids to themselves
(user_namespaces(7), newuidmap(1), subuid(5)).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from pytest_isolate.kernel.namespaces import CLONE_NEWNS, CLONE_NEWUSER
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.machine.subordinate import find_program, subordinate_range
from pytest_isolate.model.errors import MissingCapability, SetupError

__all__ = ["Mapped", "enter_user_namespace"]


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a user namespace maps besides the caller's own ids: (first, count) of the subordinate ones; None: nothing."""

    uids: tuple[int, int] | None = None
    gids: tuple[int, int] | None = None


def enter_user_namespace() -> Mapped | None:
    """Give the calling process a mount namespace, and the user namespace it needs for that if it isn't root.

    Returns:
        What is mapped; None: real root needed no user namespace.

    Raises:
        MissingCapability: ``userns``.
    """
    try:
        unshare(CLONE_NEWNS)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise SetupError.from_os_error("unshare mount namespace", error) from None
    else:
        return None
    uid, gid = os.geteuid(), os.getegid()
    uids, gids = subordinate_range("/etc/subuid", uid), subordinate_range("/etc/subgid", uid)
    programs = find_program("newuidmap"), find_program("newgidmap")
    if uids and gids and all(programs):
        if not _with_subordinate_ids(programs, (uid, *uids), (gid, *gids)):
            uids = gids = None
    else:
        _unshare_user()
        _write_own_maps(uid, gid)
        uids = gids = None
    return Mapped(uids, gids)


def _unshare_user() -> None:
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
    except OSError as error:
        raise _refused(error, "unshare(CLONE_NEWUSER)") from None


def _refused(error: OSError, call: str) -> MissingCapability:
    from pytest_isolate.machine.explain import lacks_user_namespaces

    return lacks_user_namespaces(error, call)


def _write_own_maps(uid: int, gid: int) -> None:
    for name, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
        path = f"/proc/self/{name}"
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            raise _refused(error, f"write {path}") from None


def _with_subordinate_ids(programs: tuple[str, str], uids: tuple[int, int, int], gids: tuple[int, int, int]) -> bool:
    """Unshare, and have newuidmap and newgidmap, which are setuid root, write the maps from outside.

    They must run in the namespace that the new one is a child of, so a process forked before runs them.
    Where they refuse, the single id is written instead.

    Args:
        programs: paths of newuidmap and newgidmap.
        uids, gids: (own id, first subordinate id, count).

    Returns:
        Whether the ranges are mapped.
    """
    go_read, go_write = os.pipe()
    caller = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(go_write)
        ready = os.read(go_read, 1) == b"g"
        os._exit(0 if ready and _run_map_programs(caller, programs, (uids, gids)) else 1)
    os.close(go_read)
    try:
        _unshare_user()
        os.write(go_write, b"g")
    finally:
        os.close(go_write)
        _, status = os.waitpid(helper, 0)
    if status == 0:
        return True
    _write_own_maps(uids[0], gids[0])
    return False


def _run_map_programs(caller: int, programs: tuple[str, ...], ids: tuple[tuple[int, int, int], ...]) -> bool:
    for program, (own, first, count) in zip(programs, ids, strict=True):
        numbers = [own, own, 1, first, first, count]
        if os.spawnv(os.P_WAIT, program, [program, str(caller), *map(str, numbers)]) != 0:
            return False
    return True
