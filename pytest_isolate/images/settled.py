"""Layers that may not have reached the disk: read whole before they are used after the machine was started again.

A layer's files aren't flushed before it is renamed into place: for 283 MiB that takes 0.4 to 0.7 s, half of what unpacking takes. So after a power cut
a layer may be there with files that are empty. Within the boot that it was made in, what the kernel shows is what was written. In a later one it
is compared once with the list of its files; what was read then lies on the disk, and a mark says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from pytest_isolate.images.holding import Held
from pytest_isolate.images.importing import withdraw
from pytest_isolate.images.layer import Layer, this_boot
from pytest_isolate.images.place import Place
from pytest_isolate.images.worker_process import Worker
from pytest_isolate.model.errors import ImageError

__all__ = ["settle"]

_MARK: Final = "settled"


def settle(place: Place, held: Held, chains: Iterable[str]) -> bool:
    """Whether the layers of `chains`, bottom to top, are whole. Those from one that isn't on are removed.

    Raises:
        ImageError: one isn't whole, and in use.
    """
    wanted = [chain for chain in chains if not _is_settled(place, chain)]
    if not wanted:
        return True
    with Worker() as worker:
        for chain in wanted:
            with place.lock(chain):
                if not _is_settled(place, chain) and (altered := _altered(place, worker, chain)):
                    _remove(place, held, worker, chain, altered[0])
                    return False
    return True


def _is_settled(place: Place, chain: str) -> bool:
    if os.path.exists(f"{place.layer(chain)}/{_MARK}"):
        return True
    data = place.read(f"layers/{chain}/meta.json")
    return data is None or data.get("boot") == this_boot()


def _altered(place: Place, worker: Worker, chain: str) -> list[str]:
    """What isn't as it was made; nothing: it is marked."""
    path = place.layer(chain)
    layer = Layer.from_json(place.read(f"layers/{chain}/meta.json") or {})
    altered: list[str] = []
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        worker.ask("verify", (fd,), tree=layer.tree, altered=altered.extend)
    finally:
        os.close(fd)
    if not altered:
        os.close(os.open(f"{path}/{_MARK}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return altered


def _remove(place: Place, held: Held, worker: Worker, chain: str, what: str) -> None:
    """The layer `chain` and all that stands on it."""
    for above in [layer.chain for layer in place.layers() if layer.parent == chain]:
        _remove(place, held, worker, above, what)
    held.drop(place.layer(chain))
    if os.path.exists(place.layer(chain)) and not withdraw(place, worker, chain, lambda: True):
        raise ImageError(
            f"layer {chain[:12]} isn't what it was when it was made, after the machine was started again ({what}), and it is in use",
            "end what uses it, and try again",
        )
