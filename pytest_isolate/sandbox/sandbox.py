"""The handle of one sandbox, on the side of whoever uses it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from pytest_isolate.kernel.cgroup import Group, count_tasks, memory_now, oom_victims, read_events, read_usage
from pytest_isolate.kernel.signals import has_ended
from pytest_isolate.model.errors import IsolateError, SandboxGone, SetupError
from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import Contacts, ProcessInfo, Usage
from pytest_isolate.network.attachment import INTERFACE, Address
from pytest_isolate.sandbox.entry import Entrance
from pytest_isolate.sandbox.inside import interface_traffic, processes, refused_packets
from pytest_isolate.sandbox.process import Process, Stream, spawn
from pytest_isolate.sandbox.sizes import is_full, used_bytes

if TYPE_CHECKING:
    from pytest_isolate.model.changes import Changes
    from pytest_isolate.sandbox.pool import Pool

__all__ = ["Events", "Placement", "Sandbox"]

_LAST_WRITES: Final = 0.5
"""Seconds for what was killed to have written its last."""
_DYING: Final = 0.5  # seconds for a sandbox without namespaces to be dead
_FORK_HINTS: Final = {
    errno.EAGAIN: "a limit on processes is reached: raise ulimit -u, or pids.max of the cgroup that pytest runs in",
    errno.ENOMEM: "there is no memory for another copy of the pytest process: run fewer workers, or see vm.overcommit_memory",
}


@dataclass(frozen=True, slots=True)
class Events:
    """What ran into a limit of the sandbox. Figures that the machine can't give are 0 or empty.

    Attributes:
        oom_kills: processes killed by the memory cap.
        oom_victims: their names, as far as the kernel's log tells.
        pids_cap_hits: forks that the pids cap refused.
        disk_full: the writable layer has no room left.
        refused_packets: packets without a route (``OutNoRoutes``): attempts to reach the outside.
    """

    oom_kills: int = 0
    oom_victims: tuple[str, ...] = ()
    pids_cap_hits: int = 0
    disk_full: bool = False
    refused_packets: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the builder put a sandbox.

    Attributes:
        number: its number in the run.
        init_pid: pid of its init outside; `entrance.pidfd` pins it.
        group: its cgroups, None where there are none.
        disk_path: a path inside that lies on the writable layer.
        entrance: the way in.
        address: where it is on its bridge network, None on none.
        ports: published ones: (port inside, protocol) to (host address, host port).
        joined: number of the sandbox whose network it is in; None: its own.
        disk_begin: bytes of its writable layer that were in use when it was made.
    """

    number: int
    init_pid: int
    group: Group | None
    disk_path: str
    entrance: Entrance
    address: Address | None = None
    ports: Mapping[tuple[int, str], tuple[str, int]] = field(default_factory=dict)
    joined: int | None = None
    disk_begin: int = 0


class Sandbox:
    """One set of namespaces, a cgroup and a root file system.

    As a context manager on its own it starts a builder for itself; many sandboxes share one `Pool`::

        with Sandbox(Spec(memory=64 << 20)) as box:
            print(box.run(["id"]).stdout)

    Args:
        spec: what it is asked to be.
        pool: where to get it from; None: one of its own.
        name: under which others find it: on its network, and for ``net="container:NAME"``.
        kept: a directory that `keep` made: it begins with what another one wrote.
    """

    def __init__(
        self, spec: Spec | None = None, *, pool: Pool | None = None, name: str | None = None, kept: str | None = None
    ) -> None:
        self.spec = spec or Spec()
        self.name = name
        self._kept = kept
        self._own_pool: Pool | None = None
        self._pool = pool
        self._placement: Placement | None = None
        self._sampled_peak: int | None = None

    @classmethod
    def placed(cls, spec: Spec, pool: Pool, placement: Placement, name: str | None = None) -> Sandbox:
        """The handle of a sandbox that `pool` has built."""
        box = cls(spec, pool=pool, name=name)
        box._placement = placement
        return box

    def __enter__(self) -> Self:
        """Raises MissingCapability, SetupError, SandboxGone."""
        if self._placement is None:
            from pytest_isolate.sandbox.pool import Pool

            if self._pool is None:
                self._pool = self._own_pool = Pool(depth=0)
            try:
                self._placement = self._pool.place(self.spec, self.name, self._kept)
            except BaseException:
                self._close_own_pool()
                raise
            if self.name is not None:
                self._pool.names[self.name] = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()
        self._close_own_pool()

    def _close_own_pool(self) -> None:
        if self._own_pool is not None:
            self._own_pool.close()
            self._own_pool = self._pool = None

    @property
    def _place(self) -> Placement:
        if self._placement is None:
            raise SandboxGone("this sandbox isn't open", "use it inside its with block")
        return self._placement

    @property
    def number(self) -> int:
        """Its number in the run."""
        return self._place.number

    @property
    def network_of(self) -> int:
        """Number of the sandbox that its network was made for: its own, or with ``net="container:NAME"`` that one's."""
        joined = self._place.joined
        return self.number if joined is None else joined

    @property
    def in_host_network(self) -> bool:
        """Whether its network is the host's."""
        return self._place.entrance.spec.net.mode == "host"

    @property
    def init_pid(self) -> int:
        """The process id of its PID 1 outside."""
        return self._place.init_pid

    @property
    def open(self) -> bool:
        """Whether it is in use: placed, and not given back."""
        return self._placement is not None

    @property
    def address(self) -> Address | None:
        """Where it is on its bridge network; None on none. A sandbox in another one's network has that one's address."""
        return self._place.address

    @property
    def ports(self) -> Mapping[tuple[int, str], tuple[str, int]]:
        """Published ports: (port inside, ``tcp`` or ``udp``) to (host address, host port)."""
        return self._place.ports

    def cut(self, other: Sandbox) -> None:
        """Lose every packet between the two, silently, until `mend`. Raises SetupError if they aren't on one bridge network."""
        self._partition("cut", other)

    def mend(self, other: Sandbox) -> None:
        """Undo `cut`. Raises SetupError."""
        self._partition("mend", other)

    def _partition(self, operation: str, other: Sandbox) -> None:
        for box in (self, other):
            if box.address is None:
                raise SetupError(
                    operation, box.name or str(box.number), detail=f'it is on no bridge network: net is "{box.spec.net}"',
                    hint='make both with net="bridge"',
                )  # fmt: skip
        if self.network_of == other.network_of:
            raise SetupError(
                operation, self.name or str(self.number), detail="they share one network namespace: nothing is between them"
            )
        assert self._pool is not None
        self._pool.ask(operation, self.network_of, {"m": other.network_of})

    def contacts(self) -> Contacts | None:
        """Which remote addresses it reached or was refused since the last call, by any program; None without a bridge network."""
        if self.spec.net.mode != "bridge" or self._pool is None:
            return None
        traffic = interface_traffic(self.init_pid, INTERFACE)
        if traffic is not None and not traffic["net_tx_packets"]:  # nobody need be asked
            return Contacts()
        told = self._pool.ask("contacts", self.number, {})["contacts"]
        return sum(map(Contacts.from_json, told), Contacts())

    @property
    def group(self) -> Group | None:
        """Its cgroup directories; None where there are none."""
        return self._place.group

    def fork(self, failed: Callable[[SetupError], object]) -> int:
        """os.fork of the calling process into the sandbox.

        The child is in the sandbox's cgroup and namespaces, in a process group of its own, with the spec's
        privileges, environment and the caller's working directory, and without the pool's fds.

        Args:
            failed: called in the child if joining fails; the child then ends with status 70.

        Returns:
            0 in the child; in the parent the pid of the child, which is a direct child of the caller.

        Raises:
            SetupError: no child came to be.
        """
        try:
            return self._place.entrance.fork(failed, self._pool.counting(self.number) if self._pool is not None else None)
        except OSError as error:
            # It has no namespaces any more a moment before it is dead. ESRCH is also told where the process that makes ours was killed.
            if self.ended(_DYING if error.errno == errno.ESRCH else 0):
                raise SandboxGone("the sandbox ended before it was entered: its builder was killed") from None
            hint = _FORK_HINTS.get(error.errno or 0, "")
            raise SetupError.from_os_error("fork into the sandbox", error, hint=hint) from None

    def popen(
        self,
        args: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        cwd: str | None = None,
        foreground: bool = False,
    ) -> Process:
        """Start a program inside; streams as subprocess.Popen takes them.

        Args:
            foreground: hand the terminal on standard input to the program, as a shell does.

        Raises:
            SetupError: the sandbox could not be joined.
            OSError: the program could not be executed.
        """
        return spawn(self.fork, args, (stdin, stdout, stderr), cwd, foreground=foreground, tick=self.sampler)

    def run(
        self,
        args: Sequence[str],
        *,
        input: bytes | None = None,  # noqa: A002 - subprocess.run's name for it
        cwd: str | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside to its end, its output captured, as subprocess.run does.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds, the program killed.
            subprocess.CalledProcessError: with `check`, on a return code other than 0.
            SetupError, OSError: as `popen`.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        process = self.popen(args, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd)
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.close()
            raise
        done = subprocess.CompletedProcess(list(args), process.wait(), out, err)
        if check:
            done.check_returncode()
        return done

    def usage(self) -> Usage:
        """What it has consumed so far, as its cgroups and its writable layer tell."""
        usage = read_usage(self._place.group) if self._place.group is not None else Usage()
        if self._pool is not None:
            usage = self._pool.counted(self.number, usage)
        if self.sampler is not None:
            self._sample()
            usage = replace(usage, memory_peak_bytes=self._sampled_peak)
        if self.spec.net.mode == "bridge" and (traffic := interface_traffic(self.init_pid, INTERFACE)) is not None:
            usage = replace(usage, **traffic)
        among_others = self.spec.upper == "disk" and self.spec.disk is None
        size = self._pool.size_of(self.number) if among_others and self._pool is not None else None
        return replace(usage, disk_written_bytes=size if among_others else used_bytes(self._disk(), self._place.disk_begin))

    def changes(self) -> Changes:
        """What it did to its files so far, as ``docker diff`` tells it; also after everything inside has ended.

        Paths that are bound read-write (``writable=``) aren't its own, and aren't among them.

        Raises:
            SandboxGone: it is given back, or its builder was killed.
            IsolateError: the writable layer can't be read.
        """
        return self._written("changes", {})

    def keep(self, directory: str, about: dict[str, Any] | None = None) -> Changes:
        """End everything inside, and make a directory of what it wrote, which can be mounted as layers of an overlay.

        Args:
            directory: to be made, in one that exists. What has that name is replaced.
            about: what to write down beside, in its ``kept.json``.

        Returns:
            What is in it, as `changes`.

        Raises:
            OSError, IsolateError: it can't be made, and what was there is as it was.
        """
        self.kill()
        self.ended(_LAST_WRITES)
        place, name = os.path.split(os.path.abspath(directory))
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        about = {"spec": self.spec.to_json(), **(about or {})}
        try:
            return self._written("keep", {"in": place, "as": name, "about": about}, (fd,))
        finally:
            os.close(fd)

    def _written(self, what: str, about: dict[str, Any], fds: tuple[int, ...] = ()) -> Changes:
        from pytest_isolate.model.changes import Changes

        number = self.number
        assert self._pool is not None
        (fd,) = self._pool.ask(what, number, about, fds)["fds"]
        with open(fd, encoding="ascii") as file:
            return Changes.from_json(json.load(file))

    def written(self) -> list[tuple[str, int]]:
        """The path of each overlay, and a descriptor (O_PATH) of its upper directory, the caller's to close. Raises SandboxGone."""
        assert self._pool is not None
        answer = self._pool.ask("written", self.number, {})
        return list(zip(answer["trees"], answer["fds"], strict=True))

    @property
    def sampler(self) -> Callable[[], None] | None:
        """What whoever waits for the sandbox is to call every few milliseconds, so that `usage` knows the peak of
        memory; None where the kernel keeps it."""
        group = self._place.group
        return self._sample if group is not None and group.peak_sampled else None

    def sample(self, file: int, *, since: float, interval: float) -> dict[str, str]:
        """Have the builder write what it has to `file` (see `BuilderProcess.sample`); why the machine lacks figures, by capability."""
        builder = self._place.entrance.builder
        builder.sample(self.number, file, since=since, interval=interval)
        return builder.facts().missing

    def _sample(self) -> None:
        group = self._place.group
        now = memory_now(group) if group is not None else None
        if now is not None:
            self._sampled_peak = max(now, self._sampled_peak or 0)

    def events(self, known: Collection[int] = (), *, network: bool = True) -> Events:
        """What ran into a limit so far.

        Args:
            known: pids outside of processes that were inside, as `fork` gave them: helps to name OOM victims.
            network: also read the tables of the network namespace, which cost more than all the rest.
        """
        group = self._place.group
        counted = read_events(group) if group is not None else None
        kills = (counted.oom_kills or 0) if counted else 0
        victims = (
            tuple(f"{victim.name} (pid {victim.pid} of the host)" for victim in oom_victims(group, known))
            if group and kills
            else ()
        )
        disk = self._disk()
        return Events(
            oom_kills=kills,
            oom_victims=victims,
            pids_cap_hits=(counted.pids_cap_hits or 0) if counted else 0,
            disk_full=is_full(disk, self.spec),
            refused_packets=refused_packets(self.init_pid) if network and self.spec.net.mode != "host" else 0,
        )

    def _disk(self) -> os.statvfs_result | None:
        """overlayfs answers statfs with the figures of its upper layer, here a tmpfs of the sandbox's own."""
        try:
            return os.statvfs(f"/proc/{self.init_pid}/root{self._place.disk_path}")
        except OSError:
            return None

    def processes(self) -> list[ProcessInfo]:
        """What runs inside, init left out; after a test's end, what it left behind."""
        return processes(self.init_pid)

    def tasks(self) -> int | None:
        """Threads inside, ended ones that nobody has waited for yet included, init left out; None where they aren't counted."""
        return count_tasks(self._place.group) if self._place.group is not None else None

    def ended(self, within: float) -> bool:
        """Whether its init is dead, or dies within so many seconds."""
        return has_ended(self._place.entrance.pidfd, within)

    def alive(self) -> bool:
        """Whether its init lives."""
        return not has_ended(self._place.entrance.pidfd, 0)

    def kill(self) -> None:
        """SIGKILL everything inside, by killing init. Idempotent.

        Init itself ends only after the caller has waited for the children that it forked into the sandbox
        (pid_namespaces(7): init's exit waits for the last process of its namespace).
        """
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._place.entrance.pidfd, signal.SIGKILL)

    def release(self) -> None:
        """SIGKILL everything inside and hand what remains to the builder; waits for nothing. Idempotent."""
        if self._placement is None:
            return
        self.kill()
        if self._placement.ports and self.spec.net.mode == "bridge" and self._pool is not None:
            with suppress(IsolateError):  # then the builder is gone, and the ports with it
                self._pool.ask("unpublish", self.number, {})
        placement, self._placement = self._placement, None
        placement.entrance.builder.release(placement.number, placement.entrance.pidfd)
        if self._pool is not None:
            self._pool.released(placement.number)
