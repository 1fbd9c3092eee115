"""Who the processes of a sandbox are: id maps for the builder to write, privileges for a test to keep.

As real root every id maps to itself, over the whole range that pytest's own user namespace has. Rootless,
the builder first makes one user namespace for the run, with the caller's id mapped to itself and, where
`newuidmap` and /etc/subuid allow, the caller's subordinate ids; each sandbox's namespace is a child of
that one, so that the run's holds capabilities over all of them (user_namespaces(7)).
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
from dataclasses import dataclass

from pytest_isolate.kernel.capabilities import DOCKER_DEFAULT, capset, drop_bounding, set_no_new_privs
from pytest_isolate.kernel.namespaces import CLONE_NEWNS, CLONE_NEWUSER, IdMap, own_map
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.machine.subordinate import find_program, subordinate_range
from pytest_isolate.model.errors import MissingCapability, SetupError
from pytest_isolate.model.spec import Spec

__all__ = ["Identity", "drop_privileges", "enter_run_namespace"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller, and what its run's user namespace maps.

    Attributes:
        rootless: the builder works in a user namespace of the run.
        uid, gid: the caller's.
        subordinate_uids, subordinate_gids: (first, count) ranges mapped into the run's namespace.
    """

    rootless: bool
    uid: int
    gid: int
    subordinate_uids: tuple[int, int] | None = None
    subordinate_gids: tuple[int, int] | None = None

    def maps(self, spec: Spec) -> tuple[IdMap, IdMap]:
        """uid_map and gid_map of one sandbox.

        Raises:
            MissingCapability: `user` is an id that can't be mapped.
        """
        if not self.rootless:
            return own_map("uid"), own_map("gid")
        if spec.foreign:  # its files' owners are root, which is the caller, and subordinate ids
            return _map(0, self.uid, self.subordinate_uids), _map(0, self.gid, self.subordinate_gids)
        inside_uid = self.uid if spec.user == "self" else 0 if spec.user == "root" else int(spec.user)
        inside_gid = self.gid if spec.user == "self" else 0 if spec.user == "root" else int(spec.user)
        return (
            _map(inside_uid, self.uid, self.subordinate_uids if spec.user == "root" else None),
            _map(inside_gid, self.gid, self.subordinate_gids if spec.user == "root" else None),
        )


def _map(inside: int, outside: int, subordinate: tuple[int, int] | None) -> IdMap:
    single = ((inside, outside, 1),)
    return (*single, (1, *subordinate)) if subordinate else single


def enter_run_namespace() -> Identity:
    """Give the calling builder a mount namespace, and the user namespace it needs for that if it isn't root.

    Raises:
        MissingCapability: ``userns``.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWNS)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise SetupError.from_os_error("unshare mount namespace", error) from None
    else:
        return Identity(rootless=False, uid=uid, gid=gid)
    uids, gids = subordinate_range("/etc/subuid", uid), subordinate_range("/etc/subgid", uid)
    programs = find_program("newuidmap"), find_program("newgidmap")
    if uids and gids and all(programs):
        if not _with_subordinate_ids(programs, (uid, *uids), (gid, *gids)):
            uids = gids = None
    else:
        _unshare_user()
        _write_own_maps(uid, gid)
        uids = gids = None
    return Identity(rootless=True, uid=uid, gid=gid, subordinate_uids=uids, subordinate_gids=gids)


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
    builder = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(go_write)
        ready = os.read(go_read, 1) == b"g"
        os._exit(0 if ready and _run_map_programs(builder, programs, (uids, gids)) else 1)
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


def _run_map_programs(builder: int, programs: tuple[str, ...], ids: tuple[tuple[int, int, int], ...]) -> bool:
    for program, (own, first, count) in zip(programs, ids, strict=True):
        numbers = [own, own, 1, first, first, count]
        if os.spawnv(os.P_WAIT, program, [program, str(builder), *map(str, numbers)]) != 0:
            return False
    return True


def drop_privileges(spec: Spec, *, rootless: bool) -> None:
    """Turn the caller, inside the sandbox's user namespace with every capability, into the spec's user.

    The bounding set goes first, while CAP_SETPCAP is there; a change from uid 0 then empties the other sets.

    Raises:
        OSError
    """
    own = os.geteuid()
    uid = {"self": own, "root": 0}.get(spec.user, spec.user) if isinstance(spec.user, str) else spec.user
    kept = DOCKER_DEFAULT if uid == 0 else frozenset[int]()
    drop_bounding(kept)
    if uid != own and (spec.foreign or not rootless):
        _become(int(uid))
    capset(kept)
    set_no_new_privs()


def _become(uid: int) -> None:
    """Take on another user's id, primary group and supplementary groups."""
    try:
        record = pwd.getpwuid(uid)
    except KeyError:
        groups, gid = [uid], uid
    else:
        gid = record.pw_gid
        groups = [gid, *(group.gr_gid for group in grp.getgrall() if record.pw_name in group.gr_mem)]
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
