"""The host forwards packets for as long as a run needs it to, and not a moment longer.

Whether a packet is forwarded is decided by the interface that it came in through. For IPv4 (`net.ipv4.conf.IF.forwarding`)
and, since Linux 6.17, for IPv6 (`net.ipv6.conf.IF.force_forwarding`) it is enough to set it for the uplink, which takes its
setting away with it, and for the interfaces that answers come in through. Before, IPv6 knows one switch for the whole host,
which also makes it forget the routers that announced themselves to it: where it lives by those, it isn't touched.

Several runs share what is set, so it is written down in a file that only root can write, under a file lock: what a setting was and which
runs need it. The last run puts it back. One that was killed is told by its name, and what it alone needed is put back
by the next run that comes or goes.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from pytest_isolate.kernel.cgroup_runs import is_stale

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = ["Forwarding", "answering_interfaces"]

_DIRECTORY: Final = "/run/pytest-isolate"
_SO_NETNS_COOKIE: Final = 71
_UNICAST: Final = 1

_Record = dict[str, dict[str, Any]]


def answering_interfaces(host: IPRoute, family: int) -> list[str]:
    """Names of the interfaces that the host has a route through, the loopback aside.

    Args:
        host: a socket of the host's network namespace.
        family: AF_INET or AF_INET6.
    """
    indices = set()
    for route in host.get_routes(family=family):
        if route["type"] == _UNICAST:
            indices.add(route.get_attr("RTA_OIF"))
            indices.update(hop["oif"] for hop in route.get_attr("RTA_MULTIPATH") or ())
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in host.get_links()}
    return sorted({names[index] for index in indices if index in names} - {"lo"})


class Forwarding:
    """What one run needs set. Every method runs on a thread in the host's network namespace.

    Args:
        run: the run's name.
        directory: where the record is; only root may write to it.
    """

    def __init__(self, run: str, directory: str = _DIRECTORY) -> None:
        self._run, self._directory = run, directory
        self._path = f"{directory}/forwarding-{_identity()}.json"

    def need(self, uplink: str, answering: Iterable[str], *, ipv6: bool) -> list[str]:
        """Have packets of `uplink` and their answers forwarded.

        Args:
            uplink: name of the interface, ours.
            answering: names of the interfaces that answers come in through.
            ipv6: for IPv6, else for IPv4.

        Returns:
            The settings of others that were changed, as sysctl(8) spells them.

        Raises:
            OSError: a setting can't be written (EROFS in most containers), naming its file.
            LookupError: saying what would have to be set by hand, where setting it could cut the host off.
        """
        if not ipv6:
            return self._set_all("net/ipv4/conf/{}/forwarding", uplink, answering)
        if _read("net/ipv6/conf/all/forwarding") == "1":
            return []
        if os.path.exists("/proc/sys/net/ipv6/conf/all/force_forwarding"):
            return self._set_all("net/ipv6/conf/{}/force_forwarding", uplink, answering)
        if any(_read(f"net/ipv6/conf/{name}/accept_ra") == "1" and _has_router(name) for name in answering):
            raise LookupError(
                "IPv6 leads nowhere: this host has its IPv6 routes from router advertisements, which it would forget when it is made to forward; "
                "set net.ipv6.conf.all.accept_ra=2 and net.ipv6.conf.all.forwarding=1"
            )
        return self._set(["net/ipv6/conf/all/forwarding"])

    def end(self) -> None:
        """Put back what no other run needs. Raises OSError."""
        with self._record() as record:
            for entry in record.values():
                entry["runs"] = [run for run in entry["runs"] if run != self._run]
            _put_back(record)

    def _set_all(self, pattern: str, uplink: str, answering: Iterable[str]) -> list[str]:
        _write(pattern.format(uplink), "1")
        return self._set([path for name in answering if os.path.exists(f"/proc/sys/{(path := pattern.format(name))}")])

    def _set(self, paths: list[str]) -> list[str]:
        changed = []
        with self._record() as record:
            _put_back(record)
            for path in paths:
                if path in record:
                    record[path]["runs"].append(self._run)
                elif (was := _read(path)) != "1":
                    record[path] = {"was": was, "runs": [self._run]}
                else:
                    continue
                changed.append(path.replace(".", "\0").replace("/", ".").replace("\0", "/"))
            _save(self._path, record)  # before the deed: whoever is killed in between has nothing set that isn't written down
            for path in paths:
                if path in record:
                    _write(path, "1")
        return changed

    @contextmanager
    def _record(self) -> Iterator[_Record]:
        """What is written down, without the runs that ended; written again at the end."""
        from filelock import FileLock

        with suppress(FileExistsError):
            os.mkdir(self._directory, 0o700)
        with FileLock(f"{self._directory}/lock", timeout=10, mode=0o600, thread_local=False):
            try:
                with open(self._path, encoding="utf-8") as file:
                    record: _Record = json.load(file)
            except (FileNotFoundError, ValueError):
                record = {}
            for entry in record.values():
                entry["runs"] = [run for run in entry["runs"] if not is_stale(run)]
            try:
                yield record
            finally:
                _save(self._path, record)


def _put_back(record: _Record) -> None:
    """Undo what no run needs any more."""
    for path in [path for path, entry in record.items() if not entry["runs"]]:
        everywhere = "/".join([*path.split("/")[:3], "all", path.rsplit("/", 1)[1]])
        with suppress(FileNotFoundError):  # the interface is gone
            # Somebody made the whole host forward meanwhile, as Docker does when it starts: then it is theirs.
            if path == everywhere or _read(everywhere) != "1":
                _write(path, record[path]["was"])
        del record[path]


def _save(path: str, record: _Record) -> None:
    if not record:
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(f"{path}.new", path)


def _identity() -> str:
    """Of the network namespace of this thread, unique for ever: inode numbers are used again, cookies (Linux 5.14) until the next boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    inode = os.stat("/proc/thread-self/ns/net").st_ino
    with socket.socket(socket.AF_UNIX) as asked:
        try:
            cookie = int.from_bytes(asked.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
        except OSError:
            cookie = 0
    return f"{boot}-{inode}-{cookie}"


def _has_router(name: str) -> bool:
    """Whether IPv6's default route through interface `name` is an announced one (RTF_ADDRCONF, RTF_GATEWAY)."""
    with open("/proc/thread-self/net/ipv6_route", encoding="ascii") as file:
        rows = [line.split() for line in file]
    return any(row[9] == name and row[1] == "00" and int(row[8], 16) & 0x00040002 == 0x00040002 for row in rows)


def _read(path: str) -> str:
    with open(f"/proc/sys/{path}", encoding="ascii") as file:
        return file.read().strip()


def _write(path: str, value: str) -> None:
    if _read(path) != value:
        with open(f"/proc/sys/{path}", "w", encoding="ascii") as file:
            file.write(value)
