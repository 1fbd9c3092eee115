"""What the lower layers of an overlay show together, found out without mounting them: overlayfs's look-up, in Python.

Layers are plain directories, top to bottom. Only names, kinds and attributes are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pytest_isolate.kernel.overlay_marks import is_whiteout, read_marks

__all__ = ["Found", "Lower"]


@dataclass(frozen=True, slots=True)
class Found:
    """A name that is there.

    Attributes:
        status: of the topmost one.
        path: of the topmost one.
        directory: what it shows, if it is one.
    """

    status: os.stat_result
    path: str
    directory: Lower | None


@dataclass(frozen=True, slots=True)
class Lower:
    """A directory as the layers show it.

    Attributes:
        layers: roots of all layers.
        places: the directories that are merged, top to bottom, each with the number of its layer.
    """

    layers: tuple[str, ...]
    places: tuple[tuple[int, str], ...]

    @classmethod
    def root(cls, layers: Sequence[str]) -> Self:
        return cls(tuple(layers), tuple(enumerate(layers)))

    def find(self, name: str) -> Found | None:
        """What `name` is here; None if it isn't there, or a whiteout says so."""
        found: Found | None = None
        merged: list[tuple[int, str]] = []
        places = list(self.places)
        while places:
            layer, directory = places.pop(0)
            path = f"{directory}/{name}"
            try:
                status = os.lstat(path)
            except OSError:  # not there; or no directory any more, or not for us to see
                continue
            if is_whiteout(status):
                break
            if not stat.S_ISDIR(status.st_mode):
                found = found or Found(status, path, None)
                break
            merged.append((layer, path))
            found = found or Found(status, path, self)
            marks = read_marks(path)
            if marks.opaque:
                break
            if marks.redirect.startswith("/"):
                places = [
                    (number, os.path.dirname(root + marks.redirect)) for number, root in enumerate(self.layers) if number > layer
                ]
            name = os.path.basename(marks.redirect) or name
        if found is None or not merged:
            return found
        return Found(found.status, found.path, Lower(self.layers, tuple(merged)))

    def below(self, redirect: str) -> Lower | None:
        """The directory that an upper directory in this one was, by its redirect."""
        if not redirect.startswith("/"):
            found = self.find(redirect)
            return found.directory if found else None
        place: Lower | None = Lower.root(self.layers)
        for part in redirect.strip("/").split("/"):
            if place is None or (found := place.find(part)) is None:
                return None
            place = found.directory
        return place

    def names(self) -> set[str]:
        """Everything that is there."""
        listed: set[str] = set()
        for _layer, directory in self.places:
            try:
                listed.update(os.listdir(directory))
            except OSError:
                continue
        return {name for name in listed if self.find(name) is not None}
