"""Sandboxes for the coming tests: when the builder starts, what it is told to expect, what a refusal means.

The pool is made once something is to be isolated, as early as that is known, so that the builder starts up
while pytest collects. Fails closed: a test gets the sandbox it asked for, or, if the run says so, a named
skip or a named weaker one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.model.errors import ImageError, IsolateError, MissingCapability, SandboxGone
from pytest_isolate.model.image import Code
from pytest_isolate.model.spec import Spec
from pytest_isolate.plugin import private
from pytest_isolate.plugin.collected import add_note
from pytest_isolate.plugin.settings import Settings
from pytest_isolate.sandbox.pool import Pool
from pytest_isolate.sandbox.roots import FindCode, Roots

if TYPE_CHECKING:
    from pytest_isolate.images.image import Progress
    from pytest_isolate.plugin.layering import Layering
    from pytest_isolate.plugin.measurable import Measurable
    from pytest_isolate.sandbox import Sandbox

__all__ = ["Obtained", "Supply"]

_KILLED_READY: Final = 8
"""More than the pool keeps ready."""


@dataclass(frozen=True, slots=True)
class Obtained:
    """A sandbox, the spec it has, and a sentence on each thing that the machine couldn't give."""

    box: Sandbox
    spec: Spec
    weakened: tuple[str, ...] = ()


class Supply:
    """The pool of one run."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._roots = Roots(settings.store, getattr(config, "workerinput", {}).get("testrunuid", ""))
        self._told: dict[str, str] = {}
        self._pool = Pool(places=self.places, cgroup=settings.cgroup, paced=True, uplink=settings.uplink, roots=self._roots)
        if settings.instructions:
            self._pool.count_instructions()
        self._find_code: FindCode | None = None
        self._emptied: list[str] = []

    def launch(self) -> None:
        """Let the builder's interpreter start up, before pytest's own directories are known."""
        self._pool.launch()

    def start(self) -> None:
        """Start the builder."""
        self._pool.start()
        if self._pool.delegation.scope and not self._settings.isolate_all:  # else the header says it
            add_note(self._config, "pytest left its cgroup for a scope of systemd's, so that sandboxes can have caps and figures")

    def expect(self, specs: Iterable[Spec]) -> None:
        self._pool.expect(self._rooted(specs))

    def _rooted(self, specs: Iterable[Spec]) -> Iterator[Spec]:
        for spec in specs:
            with suppress(IsolateError):  # the test itself is told
                # Making a layer takes a sandbox itself, and its time: not before a test waits for it.
                if all(source.kind != "recipe" or self.layering.is_made(source) for source in spec.rootfs):
                    yield self.rooted(spec)

    def rooted(self, spec: Spec, *, code: bool = True, shown: Sequence[str] = ()) -> Spec:
        """A spec with what its ``rootfs=`` comes to.

        Args:
            code: code of the suite is to run there, not only programs.
            shown: paths of the host that programs are to see there too.

        Raises:
            IsolateError
        """
        if not spec.rootfs and spec.upper != "disk":
            return spec
        if any(source.kind == "recipe" for source in spec.rootfs):
            spec = replace(spec, rootfs=self.layering.expanded(spec.rootfs))
        if code and self._find_code is None:
            from pytest_isolate.plugin.own_code import own_code

            self._find_code = own_code(self._config)
        with self._progress():
            found = self._roots.resolved(spec, self._find_code if code else None)
        for note in found.stack.notes if found.stack else ():
            add_note(self._config, note)
        return replace(found, code=Code(tuple(shown))) if shown and found.foreign and not code else found

    @contextmanager
    def _progress(self) -> Iterator[None]:
        """On a terminal, a line that says how far an import is, for as long as there is one."""
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        shown: list[Progress] = []

        def tell(progress: Progress) -> None:
            with private.without_capture(self._config):
                reporter.rewrite(
                    f"isolate: {progress.what}, {progress.done_bytes / max(progress.total_bytes, 1):.0%}", erase=True
                )
            shown.append(progress)

        self._roots.progress = tell if getattr(reporter, "isatty", False) else None
        yield
        if shown:
            with private.without_capture(self._config):
                reporter.rewrite("", erase=True)

    def companions(self) -> dict[str, Sandbox]:
        """The sandboxes with a name that are in use: those of isolate_factory."""
        return {name: box for name, box in list(self._pool.names.items()) if box.open}

    @property
    def roots(self) -> Roots:
        """Where layers are kept and looked up."""
        return self._roots

    @cached_property
    def layering(self) -> Layering:
        """What makes the suite's layers."""
        from pytest_isolate.plugin.layering import Layering

        return Layering(self, self._roots)

    def proceed(self) -> None:
        """A test process is forked, and waited for: the builder may work."""
        self._pool.proceed()

    def obtain(self, spec: Spec, nodeid: str) -> Obtained:
        """The sandbox of the test `nodeid` for `spec`.

        Raises:
            pytest.fail.Exception: none can be had; the text says which step failed and what helps.
            pytest.skip.Exception: the machine lacks something, and the run skips such tests.
        """
        try:
            return self.acquire(self.rooted(spec))
        except ImageError as error:
            raise pytest.fail.Exception(self._once(error, spec, nodeid), pytrace=False) from None
        except IsolateError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    def _once(self, error: ImageError, spec: Spec, nodeid: str) -> str:
        """The whole error for the first test that meets it; where to read it for the others."""
        if (first := self._told.setdefault(str(error), nodeid)) == nodeid:
            return str(error)
        return f"rootfs {', '.join(map(str, spec.rootfs))} can't be had, as {first} says, the first test that asked for it"

    def acquire(self, spec: Spec, name: str | None = None) -> Obtained:
        """A sandbox for `spec`, or what the run does without it.

        Raises:
            MissingCapability, SetupError, SandboxGone: none can be had.
            pytest.skip.Exception: as `obtain`.
        """
        if spec.stack is None:
            spec = self.rooted(spec, code=False)
        weakened: list[str] = []
        while True:
            try:
                box = self._acquire(spec, name)
                if spec.budget:
                    self._check_budget(spec, box)
                for note in self._pool.notes:
                    add_note(self._config, note)
                return Obtained(box, spec, tuple(weakened))
            except MissingCapability as error:
                weaker = self._without(spec, error)
                if weaker == spec:
                    raise
                weakened.append(error.message)
                spec = weaker

    def _check_budget(self, spec: Spec, box: Sandbox) -> None:
        try:
            self._measurable.check(spec, box)
        except MissingCapability:
            box.release()
            raise

    @cached_property
    def _measurable(self) -> Measurable:
        from pytest_isolate.plugin.measurable import Measurable

        def missing() -> Mapping[str, tuple[str, str]]:
            facts = self._pool.facts()
            return {name: (why, facts.remedies.get(name, "")) for name, why in facts.missing.items()}

        return Measurable(missing, instructions=self._settings.instructions)

    def _acquire(self, spec: Spec, name: str | None) -> Sandbox:
        pool = self._pool
        for _ in range(_KILLED_READY):
            try:
                box = pool.acquire(spec, name)
            except SandboxGone:  # the builder was killed between two tests; the pool starts another
                continue
            if box.alive():
                return box
            box.release()  # it was ready before, and died with the builder
        return pool.acquire(spec, name)

    def _without(self, spec: Spec, error: MissingCapability) -> Spec:
        missing = self._settings.missing
        if missing == "skip":
            raise private.skip_at_item(f"isolate: {error.message}")
        return spec.without(error.keys) if missing == "weaken" else spec

    def close(self) -> None:
        """End everything that is left of the run."""
        self._pool.close()
        for path in self._emptied:
            with suppress(OSError):  # the tests left something in it
                os.rmdir(path)

    def places(self) -> list[str]:
        """pytest's own directories, made now, so that each sandbox can have them read-write."""
        found = []
        if (base := private.basetemp(self._config)) is not None:
            # Workers of xdist have their bases side by side, and suites share files between them there.
            found.append(str(base.parent if hasattr(self._config, "workerinput") and base.name.startswith("popen-") else base))
        if (cache := private.cache_directory(self._config)) is not None:
            found.append(str(cache))
        if (examples := self._hypothesis()) is not None:
            found.append(examples)
        return found

    def _hypothesis(self) -> str | None:
        """The directory of hypothesis's database, if hypothesis is there to use it."""
        path = os.environ.get("HYPOTHESIS_STORAGE_DIRECTORY") or os.path.join(os.getcwd(), ".hypothesis")
        if os.path.isdir(path):
            return path
        if self._config.pluginmanager.hasplugin("hypothesispytest") or "hypothesis" in sys.modules:
            with suppress(OSError):
                os.mkdir(path)
                self._emptied.append(path)
                return path
        return None
