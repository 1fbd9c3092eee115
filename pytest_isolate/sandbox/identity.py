"""Who the processes of a sandbox are: id maps for the builder to write, privileges for a test to keep.

As real root every id maps to itself, over the whole range that pytest's own user namespace has. Rootless,
the builder first makes one user namespace for the run (`machine.user_namespace`); each sandbox's namespace is a child of
that one, so that the run's holds capabilities over all of them (user_namespaces(7)).
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from pytest_isolate.kernel.capabilities import DOCKER_DEFAULT, capset, drop_bounding, set_no_new_privs
from pytest_isolate.kernel.namespaces import IdMap, own_map
from pytest_isolate.machine.user_namespace import enter_user_namespace
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
    mapped = enter_user_namespace()
    if mapped is None:
        return Identity(rootless=False, uid=uid, gid=gid)
    return Identity(rootless=True, uid=uid, gid=gid, subordinate_uids=mapped.uids, subordinate_gids=mapped.gids)


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
