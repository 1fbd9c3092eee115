"""The project that ``inputs=`` takes paths of, and what of it is shown without being asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.paths import within

__all__ = ["Project", "outside"]

_ACCEPTED: Final = "paths in the project's directory"


@dataclass(frozen=True, slots=True)
class Project:
    """
    Attributes:
        root: its directory, without symbolic links: pytest's rootdir, or the working directory of a command.
        here: the working directory, which is there inside, empty unless inputs are in it.
        kept: paths that are shown too: the interpreter, the packages that are installed for it, the test's own file.
    """

    root: str
    here: str
    kept: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(data["root"], data["here"], tuple(data["kept"]))


def outside(inputs: Iterable[str], root: str) -> list[SpecError]:
    """An error for each of `inputs` that isn't in the project at `root`; the errors carry no place yet."""
    if not inputs:
        return []
    if root == "/":
        return [SpecError("inputs", "the project's directory is '/', and no program runs without the rest of it",
                          "a project with a directory of its own (--rootdir)")]  # fmt: skip
    real = os.path.realpath(root)
    return [
        SpecError("inputs", f"{path!r} is outside of the project {root!r}, and what is outside is shown anyway", _ACCEPTED)
        for path in inputs
        if not (within(path, root) or any(within(place, real) for place in _places(path)))
    ]


def _places(path: str) -> tuple[str, ...]:
    """Where it is, and, if it is a link, where what it leads to is."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name), os.path.realpath(path)
