"""Which subnets the networks of a run have: none that the host routes, none that another run has.

A claim is a file named after its subnet in a directory that all users share, under a file lock for as long as the claim
lasts. The kernel drops the lock with its process, so that a run killed by SIGKILL holds nothing; its file is removed by
whoever comes across it and may. A claim is made first and compared with the others afterwards, so that of two that
overlap at most one stays, without any lock that all have to wait for. Everyone opens other users' files for reading only:
`fs.protected_regular` forbids more in a sticky directory, and flock(2) asks for no more.

The lock's file is close-on-exec, and the hub, which claims, forks nothing that lives on: a copy of the descriptor in a
child would hold the claim for as long as that child lives.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final

from pytest_isolate.model.errors import SetupError

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from pyroute2 import IPRoute

__all__ = ["Claim", "claim", "host_networks", "unique_local"]

_RANGES: Final = tuple(map(IPv4Network, ("10.213.0.0/16", "10.227.0.0/16", "172.16.0.0/16", "192.168.224.0/19")))
"""Private ranges (RFC 1918) of which Docker (172.17 to 172.31, 192.168 by /20 from below), podman (10.88 and on), LXC (10.0.3),
libvirt (192.168.122) and Kubernetes (10.96, 10.244) take nothing by default."""

_PREFIX: Final = 24
_WIDEST: Final = 8
"""Shorter prefixes are halves and quarters of a default route, as VPNs set them: they lead away, they own nothing."""

_NAME: Final = re.compile(r"(\d+\.\d+\.\d+\.\d+)_(\d+)\.[0-9a-f]+", re.ASCII)
_ROUNDS: Final = 20
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Claim:
    """A subnet that no other run has until `release`, or the death of the process that claimed it."""

    subnet: IPv4Network
    _path: str
    _lock: BaseFileLock

    def release(self) -> None:
        """May be called twice."""
        if self._lock.is_locked:
            with suppress(OSError):
                os.unlink(self._path)
            self._lock.release()


@dataclass(frozen=True)
class OwnSubnet:
    """The fixed subnet of a network that leads nowhere: other runs may have the same, as nobody outside this one's sees it."""

    subnet: IPv4Network

    def release(self) -> None:
        """There is nothing to give back."""


def host_networks(host: IPRoute) -> list[IPv4Network]:
    """What the host has IPv4 addresses in and routes to, in every routing table, default routes aside.

    Args:
        host: a socket of the host's network namespace.
    """
    found = set()
    for message in host.get_routes(family=socket.AF_INET):
        if message["dst_len"] >= _WIDEST and (destination := message.get_attr("RTA_DST")):
            found.add(IPv4Network((destination, message["dst_len"]), strict=False))
    for message in host.get_addr(family=socket.AF_INET):
        # The far end on a point-to-point link, the address itself elsewhere.
        if address := message.get_attr("IFA_ADDRESS"):
            found.add(IPv4Network((address, message["prefixlen"]), strict=False))
    return sorted(found)


def claim(
    avoid: Iterable[IPv4Network], wanted: IPv4Network | None = None, *, run: str = "", directory: str | None = None
) -> Claim:
    """A subnet of our own.

    Args:
        avoid: what it mustn't overlap; see `host_networks`.
        wanted: exactly this one; None: a free /24.
        run: the run's name, for the error that another one gets.
        directory: where claims lie; None: the machine's place.

    Raises:
        SetupError: `wanted` is taken, saying by what; or nothing is free.
    """
    place = _open_place(directory or _place())
    taken = list(avoid)
    if wanted is not None:
        if route := next((network for network in taken if network.overlaps(wanted)), None):
            raise SetupError(
                "claim a subnet",
                str(wanted),
                0,
                "another subnet, or none for a free one",
                f"the host has a route or address in {route}",
            )
        held: Claim | str = ""
        for _attempt in range(_ATTEMPTS):
            if isinstance(held := _try(place, wanted, run), Claim):
                return held
            time.sleep(secrets.randbelow(20) / 1000)  # two who ask for it at once both give way
        raise SetupError("claim a subnet", str(wanted), 0, "another subnet, or none for a free one", f"{held} has it")
    for _round in range(_ROUNDS):  # more than one only where others claim at this very moment
        others = [network for network, _holder in _held(place)]
        free = _free([*taken, *others])
        if free is None:
            raise SetupError(
                "claim a subnet", "", 0, "end other runs, or name a subnet that nothing uses: net={'mode': 'bridge', 'subnet': …}",
                f"every /{_PREFIX} of {', '.join(map(str, _RANGES))} is routed by this host or held by one of {len(others)} claims in {place}",
            )  # fmt: skip
        if isinstance(held := _try(place, free, run), Claim):
            return held
    raise SetupError("claim a subnet", place, 0, "try again", f"others were faster {_ROUNDS} times")


def unique_local(run: str, name: str) -> IPv6Network:
    """The IPv6 subnet of the network `name` of `run`: a /64 whose 40 bits of global id and 16 of subnet id are a hash (RFC 4193)."""
    digest = hashlib.sha256(f"{run}\0{name}".encode()).digest()
    return IPv6Network((b"\xfd" + digest[:7] + bytes(8), 64))


def _free(taken: list[IPv4Network]) -> IPv4Network | None:
    """A random one, so that two who look at once seldom meet."""
    candidates = [
        subnet
        for area in _RANGES
        for subnet in area.subnets(new_prefix=_PREFIX)
        if not any(subnet.overlaps(network) for network in taken)
    ]
    return secrets.choice(candidates) if candidates else None


def _try(place: str, subnet: IPv4Network, run: str) -> Claim | str:
    """The claim, or who has something that overlaps."""
    from filelock import FileLock

    path = f"{place}/{subnet.network_address}_{subnet.prefixlen}.{secrets.token_hex(8)}"
    lock = FileLock(path, timeout=10, mode=0o644, thread_local=False)
    lock.acquire()
    made = Claim(subnet, path, lock)
    try:
        # "r+": in the moment before the lock somebody may have found the file without a holder, and removed it.
        with open(path, "r+", encoding="utf-8") as file:
            file.write(run or f"process {os.getpid()}")
        holder = next((holder for network, holder in _held(place, but=path) if network.overlaps(subnet)), None)
    except FileNotFoundError:
        made.release()
        return "another run"
    except BaseException:
        made.release()
        raise
    if holder is None:
        return made
    made.release()
    return holder


def _held(place: str, but: str = "") -> Iterator[tuple[IPv4Network, str]]:
    """The subnets that somebody holds, with who; files that nobody holds any more are removed where we may."""
    for name in sorted(os.listdir(place)):
        path = f"{place}/{name}"
        if path == but or not (match := _NAME.fullmatch(name)):
            continue
        try:
            subnet = IPv4Network((match[1], int(match[2])))
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (ValueError, OSError):  # no subnet, a symbolic link, released just now
            continue
        try:
            # Shared, so that two who look don't take each other for the holder.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield subnet, _holder(fd)
        else:
            with suppress(OSError):  # another user's
                os.unlink(path)
        finally:
            os.close(fd)


def _holder(fd: int) -> str:
    owner = os.fstat(fd).st_uid
    text = os.read(fd, 256).decode(errors="replace").strip()
    return f"the run {text or 'of a name not written yet'} of user {owner}"


def _place() -> str:
    """The same one for every user of the machine: decided by what the directory is, not by whether we may write."""
    shared = stat.S_ISVTX | stat.S_IWOTH
    with suppress(OSError):
        status = os.lstat("/run/lock")
        if stat.S_ISDIR(status.st_mode) and status.st_mode & shared == shared:
            return "/run/lock/pytest-isolate-subnets"
    return "/tmp/pytest-isolate-subnets"  # noqa: S108 - what lies in it is only ever read, or made anew under a name of our own


def _open_place(directory: str) -> str:
    """Make the directory for everyone, unless it is there. Raises SetupError if it is something else."""
    hint = f"rm -r {directory} (as root)"
    try:
        with suppress(FileExistsError):
            os.mkdir(directory)
            os.chmod(directory, 0o1777)  # noqa: S103 - for every user, whatever the umask
        status = os.lstat(directory)
    except OSError as error:
        raise SetupError.from_os_error("claim a subnet", error, directory) from None
    if not stat.S_ISDIR(status.st_mode) or not os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise SetupError("claim a subnet", directory, 0, hint, "it isn't a directory that everyone may write to")
    return directory
