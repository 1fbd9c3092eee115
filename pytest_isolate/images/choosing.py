"""What is meant by a name on the command line: an image, a layer that was made, or a layer by its chain id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pytest_isolate.images.layer import Kept, Layer, Record
from pytest_isolate.images.store import Store
from pytest_isolate.model.errors import ImageError

__all__ = ["Chosen", "choose"]

_CHAIN: Final = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Layers bottom to top, and what they are of: an image, a layer that was made, or neither."""

    layers: tuple[Layer, ...]
    image: Record | None = None
    kept: Kept | None = None


def choose(store: Store, name: str) -> Chosen:
    """By the name or the source of an image, the name or the key of a layer that was made, or the beginning of a chain id.

    Raises:
        ImageError: nothing is named so, or several are.
    """
    there = {layer.chain: layer for layer in store.place.layers()}
    if images := [record for record in store.all_images().values() if name in (record.name, record.source)]:
        # A source that has changed since has been imported more than once.
        record = max(images, key=lambda each: max((there[chain].created for chain in each.chains if chain in there), default=0))
        return Chosen(tuple(there[chain] for chain in record.chains if chain in there), image=record)
    name = name.removeprefix("layer:")
    if kept := [each for each in store.all_kept() if name in (each.name, each.key) and each.chain in there]:
        last = max(kept, key=lambda each: each.created)
        return Chosen((there[last.chain],), kept=last)
    if match := _CHAIN.fullmatch(name):
        found = [layer for chain, layer in there.items() if chain.startswith(match[1])]
        if len(found) == 1:
            return Chosen((found[0],))
        if found:
            raise ImageError(f"{name}: {len(found)} layers' chain ids begin so", "more of its digits")
    raise ImageError(f"{name}: neither an image nor a layer in {store.path}", "python -m pytest_isolate layers list")
