"""The pool: pytest's end of the builder. It orders sandboxes ahead of need and hands them out by spec.

An order costs a packet; the builder works it off while the test before runs. `expect` tells what comes
next; `acquire` takes the oldest order with an equal spec whose paths are still the same files, and orders directly
where there is none, so a wrong expectation costs time, never correctness.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_isolate.model.errors import IsolateError, SandboxGone, error_from_json
from pytest_isolate.sandbox.builder_process import BuilderProcess, Facts
from pytest_isolate.sandbox.delegation import Delegation, obtain
from pytest_isolate.sandbox.paths import Files, files_of

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec
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

    Attributes:
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
    ) -> None:
        self._places = places
        self._cgroup = cgroup
        self._cwd = cwd
        self._depth = depth
        self._paced = paced
        self.delegation = Delegation()
        self._expected: Iterator[Spec] = iter(())
        self._builder: BuilderProcess | None = None
        self._refused: IsolateError | None = None
        self._orders: list[tuple[int, Spec, Files]] = []
        self._next = 0

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
            builder.set_up(cwd=cwd, places=places, trees=trees, refused=self.delegation.refused)
        return builder

    def expect(self, specs: Iterable[Spec]) -> None:
        """The specs that will be acquired next, in order; drawn lazily. Replaces the former expectation."""
        self._expected = iter(specs)
        if self._refused is None:
            self.start()
            self._top_up()

    def acquire(self, spec: Spec) -> Sandbox:
        """A sandbox for `spec`, at once if one is ready.

        Raises:
            MissingCapability: the machine can't give what `spec` asks.
            SetupError: a step of building it failed.
            SandboxGone: the builder was killed; the next call starts another.
        """
        from pytest_isolate.sandbox.sandbox import Sandbox

        return Sandbox.placed(spec, self, self.place(spec))

    def place(self, spec: Spec) -> Placement:
        """As `acquire`, without the handle."""
        builder = self._running()
        number = self._take_order(builder, spec.sandbox())
        try:
            answer = builder.answer(number)
        except SandboxGone:
            self._abandon()
            raise
        if "error" in answer:
            raise error_from_json(answer["error"])
        return builder.placement(number, spec, answer)

    def released(self) -> None:
        """A sandbox was given back."""
        if not self._paced:
            self.proceed()

    def proceed(self) -> None:
        """Let the builder remove what was given back and make what comes next.

        The best moment is when a test process has been forked and its parent waits for it: then the builder has a CPU
        for itself, and doesn't keep the child from starting.
        """
        if self._builder is not None:
            self._builder.remove_released()
            self._top_up()

    def _top_up(self) -> None:
        builder = self._builder
        while builder is not None and len(self._orders) < self._depth:
            if (spec := next(self._expected, None)) is None:
                return
            wanted = spec.sandbox()
            self._orders.append((self._order(builder, wanted), wanted, files_of(wanted)))

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

    def _take_order(self, builder: BuilderProcess, wanted: Spec) -> int:
        files = files_of(wanted)
        for index, (number, spec, then) in enumerate(self._orders):
            if spec == wanted:
                del self._orders[index]
                if then == files:
                    return number
                builder.discard(number)
                break
        while self._orders and len(self._orders) >= self._depth:  # they were for tests that never came
            builder.discard(self._orders.pop(0)[0])
        return self._order(builder, wanted)

    def _order(self, builder: BuilderProcess, spec: Spec) -> int:
        self._next += 1
        builder.order(self._next, spec)
        return self._next

    def _abandon(self) -> None:
        """Bury a builder that ended by itself; the next use starts another."""
        if self._builder is not None:
            self._builder.close()
            self._builder = None

    def close(self) -> None:
        """End every sandbox and the builder; wait until nothing of them is left. Idempotent."""
        self._abandon()


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
