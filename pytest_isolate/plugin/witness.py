"""What wide fixtures hold outside the sandbox: threads, child processes, sockets.

A fixture wider than function scope is set up once, in the pytest process. Its memory reaches an isolated test
through the fork, its kernel objects don't: no thread of it runs inside, its child processes are out of sight,
a server that it started listens in another network. A test that fails for that reason shows a puzzling
ConnectionRefusedError or a hang. So each wide set-up is bracketed by two cheap snapshots (three directory
listings, about 60 µs together), and a failing isolated test that used such a fixture gets a section with the
objects and the remedy. Addresses and command lines are looked up only then.

Only the pytest process looks; what is set up inside a sandbox lives and dies there.
"""

from __future__ import annotations

import ipaddress
import os
import struct
import sys
import threading
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pluggy
import pytest

from pytest_isolate.model.spec import Spec

__all__ = ["Held", "Snapshot", "Witness", "look"]

TITLE: Final = "isolate: fixtures set up outside"
_MOST_THREADS: Final = 16
_MOST_LISTED: Final = 8
_LISTEN: Final = "0A"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Thread ids, child pids and descriptor numbers of this process."""

    threads: frozenset[int]
    children: frozenset[int]
    fds: frozenset[int]


@dataclass(frozen=True, slots=True)
class Held:
    """What one set-up added, as ids; `look` fills it.

    Attributes:
        threads: native thread id and name.
        children: pid and name.
        sockets: descriptor and its link, ``socket:[INODE]``.
    """

    threads: tuple[tuple[int, str], ...] = ()
    children: tuple[tuple[int, str], ...] = ()
    sockets: tuple[tuple[int, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.threads or self.children or self.sockets)

    def __sub__(self, other: Held) -> Held:
        return Held(
            tuple(thread for thread in self.threads if thread not in other.threads),
            tuple(child for child in self.children if child not in other.children),
            tuple(socket for socket in self.sockets if socket not in other.sockets),
        )

    def alive(self) -> Held:
        """What of it still exists: a thread may have ended and a socket may be closed since."""
        tasks, children = _ids("/proc/self/task"), _children(_ids("/proc/self/task"))
        return Held(
            tuple(thread for thread in self.threads if thread[0] in tasks),
            tuple(child for child in self.children if child[0] in children),
            tuple(socket for socket in self.sockets if _link(socket[0]) == socket[1]),
        )


def look() -> Snapshot:
    """A snapshot of this process. Raises nothing: without /proc it is empty."""
    threads = _ids("/proc/self/task")
    return Snapshot(threads, _children(threads), _open_fds())


def added(before: Snapshot, after: Snapshot) -> Held:
    """What is in `after` only, with names.

    Descriptors are told apart by number alone; reading the link of each open one would cost more than all
    the rest in a process with hundreds of them.
    """
    threads, children, fds = after.threads - before.threads, after.children - before.children, after.fds - before.fds
    if not (threads or children or fds):
        return Held()
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    return Held(
        tuple((tid, names.get(tid) or _comm(f"/proc/self/task/{tid}")) for tid in sorted(threads)),
        tuple((pid, _comm(f"/proc/{pid}")) for pid in sorted(children)),
        tuple((fd, link) for fd in sorted(fds) if (link := _link(fd)).startswith("socket:")),
    )


class Witness:
    """Watches wide set-ups; `section` tells a failing test about them.

    Register it where something is isolated; it costs nothing elsewhere.

    Attributes:
        within_reach: children that tests can do with what they do outside: programs in sandboxes of isolate_factory.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.within_reach: set[int] = set()
        self._held: dict[pytest.FixtureDef[Any], Held] = {}

    # The old kind of wrapper: an exception doesn't pass through it, so tracebacks of fixtures don't show it.
    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, pluggy.Result[Any], None]:
        if fixturedef.scope == "function" or os.getpid() != self._pid:
            yield
            return
        known = set(self._held)
        before = look()
        outcome = yield
        if outcome.exception is not None:
            return
        held = added(before, look())
        held = replace(held, children=tuple(child for child in held.children if child[0] not in self.within_reach))
        for nested in self._held.keys() - known:  # asked for by the fixture's body, while it was being set up
            held -= self._held[nested]
        if held:
            self._held[fixturedef] = held

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if os.getpid() == self._pid:
            self._held.pop(fixturedef, None)

    def section(self, names: Collection[str], spec: Spec) -> tuple[str, str] | None:
        """Title and text for a failing test that uses the fixtures `names`; None if they hold nothing outside."""
        if not self._held or spec.fixtures == "inside":
            return None
        lines: list[str] = []
        found: list[Held] = []
        for fixture, at_set_up in self._held.items():
            if fixture.argname not in names:
                continue
            held = at_set_up.alive()
            if spec.net.mode == "host":  # the same network: sockets work on both sides
                held = replace(held, sockets=())
            if held:
                lines += [f"{fixture.scope} fixture '{fixture.argname}' was set up in the pytest process and holds there:"]
                lines += _described(held)
                found.append(held)
        return (TITLE, "\n".join([*lines, _remedy(found)])) if lines else None


def _described(held: Held) -> list[str]:
    addresses = _addresses({link for _, link in held.sockets})
    lines = [f"  thread {name!r}" for _, name in held.threads]
    lines += [f"  child process {_command(pid) or name} (pid {pid})" for pid, name in held.children]
    lines += [f"  {addresses.get(link, 'socket')} (fd {fd})" for fd, link in held.sockets]
    more = len(lines) - _MOST_LISTED
    return [*lines[:_MOST_LISTED], f"  and {more} more"] if more > 0 else lines


def _remedy(found: Sequence[Held]) -> str:
    why = []
    if any(held.threads for held in found):
        why.append("threads don't run there")
    if any(held.children for held in found):
        why.append("child processes are out of sight")
    sockets = any(held.sockets for held in found)
    if sockets:
        why.append("servers listen in another network")
    remedies = ['fixtures="inside" sets it up in the sandbox']
    if sockets:
        remedies.append('net="host" shares the host\'s network')
    return f"Only the fixture's memory is copied into the sandbox: {', '.join(why)}.\nremedy: {'; '.join(remedies)}"


def _ids(directory: str) -> frozenset[int]:
    try:
        return frozenset(map(int, os.listdir(directory)))
    except OSError:
        return frozenset()


def _open_fds() -> frozenset[int]:
    """The open descriptors, without the one that read the directory.

    That one is in the listing, too, and was the lowest free number; so is now the next one to be opened. Left in,
    it would hide the first socket of a fixture.
    """
    fds = _ids("/proc/self/fd")
    try:
        lowest = os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return fds
    os.close(lowest)
    return fds - {lowest}


def _children(threads: Iterable[int]) -> frozenset[int]:
    """Pids of child processes; the kernel lists them under the thread that forked (CONFIG_PROC_CHILDREN)."""
    own = os.getpid()
    found: list[bytes] = []
    for tid in [own, *sorted(set(threads) - {own})[: _MOST_THREADS - 1]]:
        try:
            fd = os.open(f"/proc/self/task/{tid}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # the thread ended
            continue
        try:
            found += os.read(fd, 1 << 16).split()
        except OSError:
            continue
        finally:
            os.close(fd)
    return frozenset(map(int, found))


def _link(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""


def _comm(directory: str) -> str:
    return _text(f"{directory}/comm").strip() or "unnamed"


def _command(pid: int) -> str:
    command = _text(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    return command if len(command) <= 100 else command[:99] + "…"


def _addresses(links: Collection[str]) -> dict[str, str]:
    """``TCP socket listening on 127.0.0.1:8000`` by link, from the tables of /proc/net."""
    if not links:
        return {}
    found: dict[str, str] = {}
    for table, kind in (("tcp", "TCP"), ("tcp6", "TCP"), ("udp", "UDP"), ("udp6", "UDP")):
        for line in _text(f"/proc/self/net/{table}").splitlines()[1:]:
            columns = line.split()
            if len(columns) > 9 and (link := f"socket:[{columns[9]}]") in links:
                found[link] = _inet(kind, columns[1], columns[2], columns[3])
    for line in _text("/proc/self/net/unix").splitlines()[1:]:
        columns = line.split(None, 7)
        if len(columns) > 6 and (link := f"socket:[{columns[6]}]") in links:
            path = columns[7] if len(columns) > 7 else ""
            found[link] = f"UNIX socket {path}" if path else "UNIX socket pair"
    return found


def _inet(kind: str, local: str, remote: str, state: str) -> str:
    if kind == "TCP" and state == _LISTEN:
        return f"TCP socket listening on {_address(local)}"
    to = "" if remote.endswith(":0000") else f" connected to {_address(remote)}"
    return f"{kind} socket {_address(local)}{to}"


def _address(text: str) -> str:
    """``0100007F:1F90`` as ``127.0.0.1:8000``: the kernel prints each 32-bit word in the machine's byte order."""
    host, _, port = text.partition(":")
    words = struct.unpack(f">{len(host) // 8}I", bytes.fromhex(host))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(packed)
    return f"[{address}]:{int(port, 16)}" if address.version == 6 else f"{address}:{int(port, 16)}"
