"""Layers that the suite makes: of `isolate_layer`, kept for later runs, and of snapshots of fixtures, which end with theirs.

Both come to be in the same way: a sandbox on top of what the layer is for, steps or a function in it, and then its writable layer is
copied into the store before the sandbox ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pytest_isolate.model.errors import IsolateError
from pytest_isolate.model.image import Source
from pytest_isolate.model.spec import Spec
from pytest_isolate.plugin.inside_run import call_inside
from pytest_isolate.plugin.recipe import Recipe, Step, known

if TYPE_CHECKING:
    from pytest_isolate.plugin.supply import Supply
    from pytest_isolate.sandbox.roots import Roots
    from pytest_isolate.sandbox.sandbox import Sandbox

__all__ = ["Layering"]

_END: Final = 5.0
"""Seconds for everything in a sandbox to end."""

_SHOWN: Final = 2000
"""Bytes of a failing step's output in the error."""


class Layering:
    """Makes the layers of one run.

    Args:
        supply: where sandboxes come from.
        roots: whose store the layers are kept in.
    """

    def __init__(self, supply: Supply, roots: Roots) -> None:
        self._supply, self._roots = supply, roots
        self._directories: dict[str, str] = {}

    def is_made(self, source: Source) -> bool:
        """Whether the layer of a recipe was looked up or made in this run."""
        return source.path in self._directories

    def expanded(self, sources: Sequence[Source]) -> tuple[Source, ...]:
        """`sources` with each recipe made: at the bottom with all that it needs below it, above that its own layer alone.

        Raises:
            IsolateError: a layer can't be made; SpecError: it is declared nowhere.
        """
        found: list[Source] = []
        for place, source in enumerate(sources):
            if source.kind != "recipe":
                found.append(source)
                continue
            recipe = known(source)
            base = self.expanded(recipe.base) or (Source("host"),)
            if source.path not in self._directories:
                self._directories[source.path] = self._made(recipe, base)
            layer = Source("directory", self._directories[source.path])
            found += [layer] if place else [*base, layer]
        return tuple(found)

    def _made(self, recipe: Recipe, base: tuple[Source, ...]) -> str:
        """The directory of its layer, from the store if it is there."""
        below = self._roots.resolved(Spec(rootfs=base)).stack
        assert below is not None
        store = self._roots.store
        try:
            key = recipe.key(below)
        except OSError as error:
            raise IsolateError(f"layer {recipe.name!r} of {recipe.place}: {error}", "name inputs that are there") from None
        with store.making(key):
            if directory := store.find(key):
                return directory
            spec = replace(Spec(**recipe.keys), rootfs=base)
            box = self._supply.acquire(self._supply.rooted(spec, code=recipe.function is not None, shown=recipe.inputs)).box
            try:
                for step in recipe.steps:
                    _run(box, step, recipe)
                if recipe.function is not None:
                    call_inside(box, recipe.function, f"layer {recipe.name!r} of {recipe.place}")
                about = {"name": recipe.name, "place": recipe.place}
                under = [*(["host"] if below.host else []), *below.directories]
                return self._kept(box, lambda parts: store.add(parts, under, about, key=key).directory)
            finally:
                box.release()

    def taken(self, call: Callable[[], Any], below: Sequence[str], what: str) -> tuple[Any, str]:
        """What `call` returns in a sandbox, and the layer of what it wrote there; whoever takes it gives it back.

        Args:
            below: layers over the host that it sees.

        Raises:
            IsolateError
        """
        spec = Spec(rootfs=(Source("host"), *(Source("directory", layer) for layer in below)) if below else ())
        box = self._supply.acquire(self._supply.rooted(spec)).box
        try:
            value = call_inside(box, call, what)
            return value, self._kept(box, lambda parts: self._roots.store.borrow(parts, ["host", *below]))
        finally:
            box.release()

    def _kept(self, box: Sandbox, keep: Callable[[list[tuple[str, int]]], str]) -> str:
        box.kill()  # what is left in it would go on writing
        box.ended(_END)
        parts = box.written()
        try:
            return keep(parts)
        finally:
            for _, fd in parts:
                with suppress(OSError):
                    os.close(fd)


def _run(box: Sandbox, step: Step, recipe: Recipe) -> None:
    """Raises IsolateError where it fails."""
    argv = ["/bin/sh", "-c", step] if isinstance(step, str) else list(step)
    about = f"layer {recipe.name!r} of {recipe.place}: step {step!r}"
    try:
        done = box.run(argv)
    except OSError as error:
        raise IsolateError(f"{about}: {error.filename}: {error.strerror}", "install it on the base of the layer") from None
    if done.returncode:
        output = (done.stdout + done.stderr)[-_SHOWN:].decode(errors="replace").rstrip()
        raise IsolateError(f"{about} ended with status {done.returncode}:\n{output}")
