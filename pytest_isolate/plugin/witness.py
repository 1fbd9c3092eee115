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

import os
import threading
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pluggy
import pytest

from pytest_isolate.kernel.inet_sockets import InetSocket, in_tables, socket_inode
from pytest_isolate.model.spec import Spec

if TYPE_CHECKING:
    from pytest_isolate.plugin.servers import Server

__all__ = ["Held", "SetUp", "Snapshot", "Witness", "look", "open_fds"]

TITLE: Final = "isolate: fixtures set up outside"
_MOST_THREADS: Final = 16
_MOST_LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Thread ids, child pids and descriptor numbers of this process."""

    threads: frozenset[int]
    children: frozenset[int]
    fds: frozenset[int]


@dataclass(frozen=True, slots=True)
class SetUp:
    """One set-up that is over.

    Attributes:
        held: what it added.
        nested: the fixtures that its body asked for, as far as they hold something.
        fds: the open descriptors afterwards.
    """

    held: Held
    nested: frozenset[pytest.FixtureDef[Any]]
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
    return Snapshot(threads, _children(threads), open_fds())


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
        set_ups: of the fixtures that are set up and hold something.
        within_reach: children that tests can do with what they do outside: programs in sandboxes of isolate_factory.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.set_ups: dict[pytest.FixtureDef[Any], SetUp] = {}
        self.within_reach: set[int] = set()

    # The old kind of wrapper: an exception doesn't pass through it, so tracebacks of fixtures don't show it.
    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, pluggy.Result[Any], None]:
        if fixturedef.scope == "function" or os.getpid() != self._pid:
            yield
            return
        known = set(self.set_ups)
        before = look()
        outcome = yield
        if outcome.exception is not None:
            return
        after = look()
        held = added(before, after)
        held = replace(held, children=tuple(child for child in held.children if child[0] not in self.within_reach))
        nested = frozenset(self.set_ups.keys() - known)  # asked for by the fixture's body, while it was being set up
        for fixture in nested:
            held -= self.set_ups[fixture].held
        if held or nested:
            self.set_ups[fixturedef] = SetUp(held, nested, after.fds)

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if os.getpid() == self._pid:
            self.set_ups.pop(fixturedef, None)

    def section(self, names: Collection[str], spec: Spec, forwarded: Collection[Server] = ()) -> tuple[str, str] | None:
        """Title and text for a failing test that uses the fixtures `names`; None if they hold nothing outside.

        Args:
            forwarded: the servers that the test could reach.
        """
        if not self.set_ups or spec.fixtures == "inside":
            return None
        lines: list[str] = []
        found: list[Held] = []
        for fixture, set_up in self.set_ups.items():
            if fixture.argname not in names:
                continue
            held = set_up.held.alive()
            reached = [server for server in forwarded if server.fixture is fixture]
            links = {f"socket:[{server.inode}]" for server in reached}
            held = replace(held, sockets=tuple(pair for pair in held.sockets if pair[1] not in links))
            if spec.net.mode == "host":  # the same network: sockets work on both sides
                held = replace(held, sockets=())
            if held:
                lines += [f"{fixture.scope} fixture '{fixture.argname}' was set up in the pytest process and holds there:"]
                lines += _described(held)
                found.append(held)
            lines += [f"  forwarded, so reachable inside: {server.forward}" for server in reached if held]
        return (TITLE, "\n".join([*lines, _remedy(found, spec)])) if found else None


def _described(held: Held) -> list[str]:
    addresses = _addresses({link for _, link in held.sockets})
    lines = [f"  thread {name!r}" for _, name in held.threads]
    lines += [f"  child process {_command(pid) or name} (pid {pid})" for pid, name in held.children]
    lines += [f"  {addresses.get(link, 'socket')} (fd {fd})" for fd, link in held.sockets]
    more = len(lines) - _MOST_LISTED
    return [*lines[:_MOST_LISTED], f"  and {more} more"] if more > 0 else lines


def _remedy(found: Sequence[Held], spec: Spec) -> str:
    why = []
    if any(held.threads for held in found):
        why.append("threads don't run there")
    if any(held.children for held in found):
        why.append("child processes are out of sight")
    sockets = any(held.sockets for held in found)
    if sockets:
        why.append("sockets belong to another network")
    remedies = ['fixtures="inside" sets it up in the sandbox']
    if sockets:
        remedies.append('net="host" shares the host\'s network')
        if spec.forward == "none":
            remedies.append('forward="fixtures" lets the test reach servers on the loopback')
    return f"Only the fixture's memory is copied into the sandbox: {', '.join(why)}.\nremedy: {'; '.join(remedies)}"


def _ids(directory: str) -> frozenset[int]:
    try:
        return frozenset(map(int, os.listdir(directory)))
    except OSError:
        return frozenset()


def open_fds() -> frozenset[int]:
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
    inodes = {inode for link in links if (inode := socket_inode(link)) is not None}
    found = {f"socket:[{sock.inode}]": _inet(sock) for sock in in_tables(inodes)}
    for line in _text("/proc/self/net/unix").splitlines()[1:]:
        columns = line.split(None, 7)
        if len(columns) > 6 and (link := f"socket:[{columns[6]}]") in links:
            path = columns[7] if len(columns) > 7 else ""
            found[link] = f"UNIX socket {path}" if path else "UNIX socket pair"
    return found


def _inet(sock: InetSocket) -> str:
    what = f"{sock.kind.upper()} socket"
    if sock.kind == "tcp" and sock.serves:
        return f"{what} listening on {sock.local}"
    return f"{what} {sock.local} connected to {sock.remote}" if sock.remote else f"{what} {sock.local}"
