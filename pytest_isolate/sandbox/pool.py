"""The pool: pytest's end of the builder. It orders sandboxes ahead of need and hands them out by spec.

An order costs a packet; the builder works it off while the test before runs. `expect` tells what comes
next; `acquire` takes the oldest order with an equal spec whose paths are still the same files, and orders directly
where there is none, so a wrong expectation costs time, never correctness.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_isolate.model.errors import IsolateError, SandboxGone, SetupError, error_from_json
from pytest_isolate.sandbox.builder_process import BuilderProcess, Facts
from pytest_isolate.sandbox.delegation import Delegation, obtain
from pytest_isolate.sandbox.paths import Files, files_of

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec
    from pytest_isolate.model.usage import Usage
    from pytest_isolate.sandbox.counting import Counters, Counting
    from pytest_isolate.sandbox.roots import Roots
    from pytest_isolate.sandbox.sandbox import Placement, Sandbox

__all__ = ["Pool", "trees_of_user"]


class Pool:
    """The sandboxes of one run, and the process that makes them.

    Args:
        places: gives the host paths that every sandbox gets read-write; called when the builder is set up.
        cgroup: a delegated cgroup directory, relative to each hierarchy's mount point.
        cwd: the directory that `io` caps without a path are about, and a tree of the user's when rootless;
            None: the working directory.
        depth: how many sandboxes to keep ready.
        paced: its user says with `proceed` when the builder may work; otherwise it does at once.
        uplink: how bridge networks reach the outside: ``auto``, ``veth``, ``pasta``, ``slirp4netns``.
        roots: what looks up ``rootfs=``; None: one of its own, for programs.

    Attributes:
        names: the sandboxes that ``net="container:NAME"`` finds, by their names in the run.
        delegation: whether the calling process was moved to a cgroup of the run's, or why not; known once the builder is set up.
    """

    def __init__(
        self,
        *,
        places: Callable[[], Sequence[str]] = tuple,
        cgroup: str | None = None,
        cwd: str | None = None,
        depth: int = 3,
        paced: bool = False,
        uplink: str = "auto",
        roots: Roots | None = None,
    ) -> None:
        self._places = places
        self._cgroup = cgroup
        self._cwd = cwd
        self._depth = depth
        self._paced = paced
        self._uplink = uplink
        self._roots = roots
        self.names: dict[str, Sandbox] = {}
        self._counters: Counters | None = None
        self.delegation = Delegation()
        self._expected: Iterator[Spec] = iter(())
        self._builder: BuilderProcess | None = None
        self._refused: IsolateError | None = None
        self._orders: list[tuple[int, Spec, Files, int | None]] = []
        self._next = 0
        # Threads of a test may make sandboxes at the same time. A forked test process, in which it may be held for ever, has no use for the pool.
        self._turn = threading.RLock()

    def count_instructions(self) -> None:
        """From now on, of every process that is forked into a sandbox."""
        from pytest_isolate.sandbox.counting import Counters

        self._counters = self._counters or Counters()

    def counting(self, box: int) -> Counting | None:
        """What counts the instructions of a process that is going to be forked into the sandbox; None where they aren't counted."""
        return self._counters.new(box) if self._counters is not None else None

    def counted(self, box: int, usage: Usage) -> Usage:
        """`usage` of a sandbox with what was counted of it."""
        return self._counters.added(box, usage) if self._counters is not None else usage

    def launch(self) -> BuilderProcess:
        """Start the builder's interpreter, which takes a moment, without saying yet what it is to do. Raises OSError."""
        if self._builder is None:
            self._builder = BuilderProcess(_temporary_directory(), self._cgroup)
            self._orders.clear()
        return self._builder

    def start(self) -> BuilderProcess:
        """Start the builder, without waiting for it. Raises OSError."""
        builder = self.launch()
        if not builder.is_set_up:
            cwd = self._cwd or _directory()
            self.delegation = obtain([builder.pid], self._cgroup)
            places, trees = self._places(), trees_of_user(cwd)
            builder.set_up(cwd=cwd, places=places, trees=trees, refused=self.delegation.refused, uplink=self._uplink)
        return builder

    def expect(self, specs: Iterable[Spec]) -> None:
        """The specs that will be acquired next, in order; drawn lazily. Replaces the former expectation."""
        with self._turn:
            self._expected = iter(specs)
            if self._refused is None:
                self.start()
                self._top_up()

    def acquire(self, spec: Spec, name: str | None = None) -> Sandbox:
        """A sandbox for `spec`, at once if one is ready.

        Args:
            name: under which others find it: on its network, and for ``net="container:NAME"``.

        Raises:
            MissingCapability: the machine can't give what `spec` asks.
            SetupError: a step of building it failed.
            SandboxGone: the builder was killed; the next call starts another.
        """
        from pytest_isolate.sandbox.sandbox import Sandbox

        with self._turn:
            box = Sandbox.placed(spec, self, self.place(spec, name), name)
            if name is not None:
                self.names[name] = box
            return box

    def place(self, spec: Spec, name: str | None = None, kept: str | None = None) -> Placement:
        """As `acquire`, without the handle.

        Args:
            kept: a directory that `Sandbox.keep` made: what its writable layer begins as.
        """
        with self._turn:
            return self._placed(spec, name, kept)

    def _placed(self, spec: Spec, name: str | None, kept: str | None) -> Placement:
        if name is not None and (other := self.names.get(name)) is not None and other.open:
            raise SetupError("name a sandbox", name, errno.EEXIST, "names are for one sandbox of the run at a time")
        builder = self._running()
        spec, owner = _joining(self._resolved(spec), self._owner(spec))
        join = owner.number if owner is not None else None
        number = self._take_order(builder, spec.sandbox(), join, kept)
        answer = self._answer(builder, number)
        # Where the process that holds its network was killed, maybe long since, another one gives it another.
        if answer.get("again") or not builder.has_network(answer):
            builder.give_back(number, answer)
            number = self._order(builder, spec.sandbox(), join, kept)
            answer = self._answer(builder, number)
        if "error" in answer:
            raise error_from_json(answer["error"])
        if spec.net.mode == "bridge":
            return self._activated(builder, number, spec, answer, name)
        placement = builder.placement(number, spec, answer)
        if owner is None:
            return placement
        return replace(placement, address=owner.address, ports=owner.ports, joined=owner.network_of)

    def _resolved(self, spec: Spec) -> Spec:
        """With what its ``rootfs=`` comes to, and what its ``inputs=`` are of. Raises IsolateError."""
        if spec.inputs and spec.project is None:
            from pytest_isolate.sandbox.project import project_of

            here = self._cwd or _directory()
            spec = replace(spec, project=project_of(here, here))
        if not (spec.rootfs or spec.upper == "disk") or spec.stack is not None or spec.scratch:
            return spec
        if self._roots is None:
            from pytest_isolate.sandbox.roots import Roots

            self._roots = Roots()
        return self._roots.resolved(spec)

    def _answer(self, builder: BuilderProcess, number: int) -> dict[str, Any]:
        """What came of an order, an error as well. Raises SandboxGone."""
        try:
            answer = builder.answer(number)
        except SandboxGone:
            self._abandon()
            raise
        except BaseException:  # a time limit or Ctrl-C
            builder.discard(number)
            raise
        return answer

    def _activated(self, builder: BuilderProcess, number: int, spec: Spec, answer: dict[str, Any], name: str | None) -> Placement:
        """Its names and ports are its own from now on, and its address, if that was asked for: they could be another's before."""
        from pytest_isolate.sandbox.publishing import listening

        names = [found for found in (name, spec.hostname, *spec.net.aliases) if found]
        ports: dict[tuple[int, str], tuple[str, int]] = {}
        if names or spec.publish or "address" not in answer:
            builder.remove_released()  # the test before may have had the same
            try:
                with listening(spec.publish) as listeners:
                    described = [(entry.port, int(listener.family)) for entry, listener in listeners]
                    fds = tuple(listener.fileno() for _, listener in listeners)
                    answer |= builder.ask("activate", number, {"names": names, "ports": described}, fds)
                    ports = {(entry.port, entry.protocol): (entry.host_ip, entry.host_port) for entry, _ in listeners}
            except BaseException as error:
                builder.give_back(number, answer)
                if isinstance(error, SandboxGone):
                    self._abandon()
                raise
        return replace(builder.placement(number, spec, answer), ports=ports)

    def _owner(self, spec: Spec) -> Sandbox | None:
        """The sandbox whose network `spec` wants to join. Raises SetupError."""
        if (name := spec.net.container) is None:
            return None
        box = self.names.get(name)
        if box is None:
            known = ", ".join(sorted(other for other, found in self.names.items() if found.open)) or "none"
            raise SetupError(
                f'net="container:{name}"', detail=f"no sandbox of the run has that name; there: {known}",
                hint=f"make it before, with isolate_factory(name={name!r}) in a fixture that the test uses",
            )  # fmt: skip
        if not box.open or not box.alive():
            raise SetupError(
                f'net="container:{name}"', detail="that sandbox has ended",
                hint="have the test use the fixture that makes it, so that it lives as long",
            )  # fmt: skip
        return box

    def ask(self, what: str, number: int, about: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        """A question about a sandbox: see `BuilderProcess.ask`. Raises what it is answered with, or SandboxGone."""
        with self._turn:
            if self._builder is None:
                raise SandboxGone("the builder has ended")
            try:
                return self._builder.ask(what, number, about, fds)
            except SandboxGone:  # what it has ready is dying as well
                self._abandon()
                raise

    def size_of(self, number: int) -> int | None:
        """Bytes that a sandbox wrote to a directory on a disk; None: not known, or more than can be counted in no time."""
        with suppress(IsolateError):
            size: int | None = self.ask("size", number, {})["size"]
            return size
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the machine's networks, a sentence each."""
        return tuple(self._builder.notes) if self._builder is not None else ()

    def released(self, box: int) -> None:
        """A sandbox was given back."""
        if self._counters is not None:
            self._counters.close(box)
        if not self._paced:
            self.proceed()

    def proceed(self) -> None:
        """Let the builder remove what was given back and make what comes next.

        The best moment is when a test process has been forked and its parent waits for it: then the builder has a CPU
        for itself, and doesn't keep the child from starting.
        """
        with self._turn:
            if self._builder is not None:
                self._builder.remove_released()
                self._top_up()

    def _top_up(self) -> None:
        builder = self._builder
        while builder is not None and len(self._orders) < self._depth:
            if (spec := next(self._expected, None)) is None:
                return
            owner = self.names.get(spec.net.container or "")
            if spec.net.container is not None and (owner is None or not owner.open):  # it may come to be until then
                continue
            try:
                spec, owner = _joining(self._resolved(spec), owner)
            except IsolateError:  # whoever acquires it is told
                continue
            wanted = spec.sandbox()
            join = owner.number if owner is not None else None
            self._orders.append((self._order(builder, wanted, join), wanted, files_of(wanted), join))

    def facts(self) -> Facts:
        """Waits for the builder's greeting. Raises as `acquire`."""
        return self._running().facts()

    def _running(self) -> BuilderProcess:
        """The builder, greeted."""
        if self._refused is not None:
            raise self._refused
        builder = self.start()
        try:
            builder.facts()
        except SandboxGone:
            self._abandon()
            raise
        except IsolateError as error:
            self._refused = error
            self._abandon()
            raise
        return builder

    def _take_order(self, builder: BuilderProcess, wanted: Spec, join: int | None, kept: str | None) -> int:
        files = files_of(wanted)
        for index, (number, spec, then, joined) in enumerate(self._orders if kept is None else ()):
            if spec == wanted and joined == join:
                del self._orders[index]
                if then == files:
                    return number
                builder.discard(number)
                break
        while self._orders and len(self._orders) >= self._depth:  # they were for tests that never came
            builder.discard(self._orders.pop(0)[0])
        return self._order(builder, wanted, join, kept)

    def _order(self, builder: BuilderProcess, spec: Spec, join: int | None, kept: str | None = None) -> int:
        self._next += 1
        builder.order(self._next, spec, join, kept)
        return self._next

    def _abandon(self) -> None:
        """Bury a builder that ended by itself; the next use starts another."""
        if self._builder is not None:
            self._builder.close()
            self._builder = None

    def close(self) -> None:
        """End every sandbox and the builder; wait until nothing of them is left. Idempotent."""
        if self._counters is not None:
            self._counters.close_all()
        self._abandon()
        if self._roots is not None:
            self._roots.close()


def _joining(spec: Spec, owner: Sandbox | None) -> tuple[Spec, Sandbox | None]:
    """What is to be built, and whose network it is to join. One that would join the host's stays in it: an unprivileged user can't enter it."""
    if owner is None or not owner.in_host_network:
        return spec, owner
    from pytest_isolate.model.net import Net

    return replace(spec, net=Net("host")), None


def _directory() -> str:
    """The working directory, or / where no path leads to it any more."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _temporary_directory() -> str:
    """What tempfile.gettempdir() finds, without its import and its trial file."""
    candidates = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    for path in (*candidates, "/tmp", "/var/tmp"):  # noqa: S108 - tempfile's own list
        if path and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            return os.path.abspath(path)
    return "/tmp"  # noqa: S108


def trees_of_user(cwd: str) -> list[str]:
    """The user's trees: what a rootless sandbox has a writable layer over."""
    return [os.path.expanduser("~"), cwd, "/tmp", "/var/tmp", _temporary_directory()]  # noqa: S108
