"""Which id a file of an image is given in the store.

As real root the ids are kept. Rootless, an image's root is the caller and its id n is the n-th subordinate one: what a sandbox
with `user="root"` maps back (user_namespaces(7)). Where the caller has none, everything is the caller's: squashed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, Self

from pytest_isolate.machine.user_namespace import Mapped

__all__ = ["Owners"]

_CAPABILITY: Final = "security.capability"
_VERSION_2: Final = (b"\0\0\0\2", b"\1\0\0\2")
"""VFS_CAP_REVISION_2, little-endian, without and with VFS_CAP_FLAGS_EFFECTIVE (linux/capability.h)."""


@dataclass(frozen=True, slots=True)
class Owners:
    """
    Attributes:
        rootless: ids are mapped, and overlayfs's attributes are ``user.overlay.*``.
        uid, gid: the caller's.
        uids, gids: (first, count) of the subordinate ones.
    """

    rootless: bool
    uid: int
    gid: int
    uids: tuple[int, int] | None = None
    gids: tuple[int, int] | None = None

    @classmethod
    def of(cls, mapped: Mapped | None, uid: int, gid: int) -> Self:
        return cls(False, uid, gid) if mapped is None else cls(True, uid, gid, mapped.uids, mapped.gids)

    @property
    def squashed(self) -> bool:
        return self.rootless and self.uids is None

    @property
    def attribute(self) -> str:
        """What the names of overlayfs's extended attributes begin with (overlayfs.rst, "userxattr")."""
        return "user.overlay." if self.rootless else "trusted.overlay."

    def stored(self, uid: int, gid: int) -> tuple[int, int, bool]:
        """Ids to give a file, and whether they are those that the image means."""
        if not self.rootless:
            return uid, gid, True
        one, other = _outward(uid, self.uid, self.uids), _outward(gid, self.gid, self.gids)
        return (self.uid if one is None else one), (self.gid if other is None else other), one is not None and other is not None

    def meant(self, uid: int, gid: int) -> tuple[int, int]:
        """The image's ids of a file in the store, which this process sees as `uid` and `gid`."""
        if not self.rootless:
            return uid, gid
        return _inward(uid, self.uid, self.uids), _inward(gid, self.gid, self.gids)

    def stored_xattr(self, name: str, value: bytes) -> bytes:
        """File capabilities are root's: rootless, of the root that the caller is inside (version 3 of them, capabilities(7))."""
        if self.rootless and name == _CAPABILITY and value[:4] in _VERSION_2:
            return bytes([value[0], 0, 0, 3]) + value[4:] + struct.pack("<I", self.uid)
        return value

    def meant_xattr(self, name: str, value: bytes) -> bytes:
        """What `stored_xattr` was given."""
        if self.rootless and name == _CAPABILITY and value[3:4] == b"\3" and value[20:] == struct.pack("<I", self.uid):
            return bytes([value[0], 0, 0, 2]) + value[4:20]
        return value

    def to_json(self) -> dict[str, Any]:
        return {"rootless": self.rootless, "uid": self.uid, "gid": self.gid, "uids": self.uids, "gids": self.gids}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        ranges = {name: tuple(data[name]) if data[name] else None for name in ("uids", "gids")}
        return cls(data["rootless"], data["uid"], data["gid"], **ranges)


def _outward(number: int, own: int, subordinate: tuple[int, int] | None) -> int | None:
    if number == 0:
        return own
    if subordinate is None or number > subordinate[1]:
        return None
    return subordinate[0] + number - 1


def _inward(number: int, own: int, subordinate: tuple[int, int] | None) -> int:
    if number == own:
        return 0
    if subordinate is None or not subordinate[0] <= number < sum(subordinate):
        return number
    return number - subordinate[0] + 1
