"""`isolate_layer`: how a layer is made. What it makes is kept in the layer store, by everything that it depends on.

Only what is asked for is written down here; `layering` makes it, when a sandbox is first to have it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, overload

from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.image import Source, Stack
from pytest_isolate.model.keys import KEYS
from pytest_isolate.model.parse import parse_key, parse_keys
from pytest_isolate.plugin.handle import calling_line, calling_place

__all__ = ["Recipe", "Step", "isolate_layer", "known"]

Step = str | Sequence[str]
"""A command for ``/bin/sh -c``, or a program with its arguments."""

_KNOWN: Final[dict[str, Recipe]] = {}
"""By what their `Source` calls them: recipes are declared by modules, as functions are, and a spec crosses processes as text."""

_OF_TESTS: Final = frozenset({"rootfs", "timeout", "fixtures", "leak", "forward", "publish", "upper", "inputs", "budget"})


class Recipe:
    """How a layer is made; give it to ``rootfs=``.

    Attributes:
        name: for people: error messages, ``layers list``.
        base: what the steps run on, and what the layer needs below it.
        steps: what is run, one after the other.
        function: what is called after them, in a sandbox as a test is.
        inputs: paths of files and directories whose content the result depends on.
        keys: spec keys of the sandbox that it is made in, checked.
        place: where it was declared.
    """

    def __init__(
        self,
        name: str,
        base: tuple[Source, ...],
        steps: tuple[Step, ...],
        inputs: tuple[str, ...],
        keys: dict[str, Any],
        place: str,
    ) -> None:
        self.name, self.base, self.steps, self.inputs, self.keys, self.place = name, base, steps, inputs, keys, place
        self.function: Callable[[], object] | None = None
        self.isolate_source = Source("recipe", f"{name} ({place}, {len(_KNOWN) + 1})")
        _KNOWN[self.isolate_source.path] = self

    def __repr__(self) -> str:
        return f"<Recipe {self.name!r} of {self.place}>"

    def key(self, base: Stack) -> str:
        """What the layer is known by in the store: a digest of base, steps, function and inputs.

        Raises:
            OSError: an input can't be read.
        """
        about: dict[str, Any] = {
            "base": [base.host, *base.directories],
            "steps": [step if isinstance(step, str) else list(step) for step in self.steps],
            "keys": repr(sorted(self.keys.items())),
            "inputs": [[name, digest] for path in self.inputs for name, digest in _digests(path)],
        }
        if self.function is not None:
            about["function"] = [inspect.getsource(self.function), sys.version]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _digests(path: str) -> Iterator[tuple[str, str]]:
    """Each file at or below `path` with a digest of its mode and content. Raises OSError."""
    if os.path.isdir(path) and not os.path.islink(path):
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.name != "__pycache__":
                yield from _digests(entry.path)
        return
    made = hashlib.sha256(oct(os.lstat(path).st_mode).encode())
    if os.path.islink(path):
        made.update(os.fsencode(os.readlink(path)))
    else:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                made.update(chunk)
    yield path, made.hexdigest()


@overload
def isolate_layer(
    name: str, *, steps: Step | Sequence[Step], base: Any = ..., inputs: Sequence[str | os.PathLike[str]] = ..., **keys: Any
) -> Recipe: ...
@overload
def isolate_layer(
    name: str, *, steps: None = ..., base: Any = ..., inputs: Sequence[str | os.PathLike[str]] = ..., **keys: Any
) -> Callable[[Callable[[], object]], Recipe]: ...
def isolate_layer(
    name: str,
    *,
    steps: Step | Sequence[Step] | None = None,
    base: Any = "host",
    inputs: Sequence[str | os.PathLike[str]] = (),
    **keys: Any,
) -> Recipe | Callable[[Callable[[], object]], Recipe]:
    """A layer for ``rootfs=``: made once, in a sandbox on `base`, and kept in the layer store until what it is made of changes.

    With `steps` it is the layer; without, a decorator of the function that makes it::

        schema = isolate_layer("schema", steps=["createdb app", ["psql", "-f", "schema.sql"]], inputs=["schema.sql"])

        @isolate_layer("data", base=[schema])
        def data():
            fill_database()

        @pytest.mark.isolate(rootfs=[data])
        def test_query(): ...

    Args:
        name: for people.
        steps: commands (``/bin/sh -c``) or argument lists; each must succeed.
        base: as ``rootfs=``: what they run on, and what lies below the layer wherever it is used as the first of a list.
        inputs: files and directories, relative to the module's own: when their content changes, the layer is made again.
        keys: of the sandbox that it is made in: ``net``, ``user``, ``env``, ``memory`` and so on.

    Raises:
        SpecError: a key or value that can't be meant.
    """
    place = f"isolate_layer at {calling_place()}"
    directory = os.path.dirname(os.path.abspath(calling_line()[0]))
    unknown = [key for key in keys if key in _OF_TESTS]
    if unknown:
        raise SpecError(unknown[0], "it says nothing about how a layer is made", ", ".join(sorted(set(KEYS) - _OF_TESTS)), place)
    checked, errors = parse_keys(keys, directory, place)
    for error in errors:
        raise error
    listed: Sequence[Step] = () if steps is None else (steps,) if isinstance(steps, str) else steps
    try:
        sources = parse_key("rootfs", base, directory)
        paths = parse_key("writable", [os.fspath(path) for path in inputs], directory)
    except SpecError as error:
        raise error.at(place) from None
    recipe = Recipe(
        name, sources, tuple(step if isinstance(step, str) else tuple(step) for step in listed), paths, checked, place
    )
    if steps is not None:
        return recipe

    def of(function: Callable[[], object]) -> Recipe:
        recipe.function = function
        return recipe

    return of


def known(source: Source) -> Recipe:
    """The recipe that `source` names. Raises SpecError."""
    try:
        return _KNOWN[source.path]
    except KeyError:
        raise SpecError("rootfs", f"{source} is declared nowhere in this process", "a layer of isolate_layer") from None
