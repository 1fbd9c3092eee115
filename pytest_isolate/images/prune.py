"""Removing layers: those that nobody used for longest first, never one that another one stands on, never one in use."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from pytest_isolate.images.importing import withdraw
from pytest_isolate.images.layer import Layer
from pytest_isolate.images.store import Store
from pytest_isolate.images.worker_process import Worker

__all__ = ["Pruned", "last_used", "prune"]


@dataclass(frozen=True, slots=True)
class Pruned:
    """
    Attributes:
        removed: in the order of removal.
        in_use: what would have been removed, but somebody holds it.
        left: bytes of what is left.
    """

    removed: tuple[Layer, ...]
    in_use: tuple[Layer, ...]
    left: int


def prune(store: Store, *, max_size: int | None = None, unused_for: float | None = None, everything: bool = False) -> Pruned:
    """Remove layers until those that are left hold at most `max_size` bytes; those unused for that many seconds; or all.

    What an image or a test's layer came to is forgotten with its topmost layer.

    Raises:
        ImageError
    """
    if not store.place.exists():
        return Pruned((), (), 0)
    with Worker() as worker:
        store.place.open(worker.owners)
        store.place.sweep(worker)
        done = _Pruning(store, worker).run(max_size, unused_for, everything=everything)
    _forget(store)
    return done


def last_used(store: Store, chains: Iterable[str]) -> dict[str, float]:
    """Seconds since the epoch, by chain id."""
    found = {}
    for chain in chains:
        with suppress(FileNotFoundError):
            found[chain] = os.stat(f"{store.place.layer(chain)}/used").st_mtime
    return found


class _Pruning:
    def __init__(self, store: Store, worker: Worker) -> None:
        self._store, self._worker = store, worker
        self._layers = {layer.chain: layer for layer in store.place.layers()}
        self._used = last_used(store, self._layers)
        self._above = self._dependents(self._layers.values())

    def _dependents(self, layers: Iterable[Layer]) -> dict[str, set[str]]:
        """Which layers stand on each one: as parts of its chain, or as what a test made on top of several images."""
        above: dict[str, set[str]] = {layer.chain: set() for layer in layers}
        for layer in layers:
            above.setdefault(layer.parent, set()).add(layer.chain)
        for kept in self._store.all_kept():
            if kept.chain in above:
                for directory in kept.base:
                    above.setdefault(self._store.chain_at(directory), set()).add(kept.chain)
        above.pop("", None)
        return above

    def run(self, max_size: int | None, unused_for: float | None, *, everything: bool) -> Pruned:
        removed: list[Layer] = []
        in_use: list[Layer] = []
        left = sum(layer.size for layer in self._layers.values())
        oldest = time.time() - unused_for if unused_for is not None else None
        tried: set[str] = set()
        while (chain := self._least(tried)) is not None:
            tried.add(chain)
            used, layer = self._used.get(chain, 0.0), self._layers[chain]
            if not (everything or (oldest is not None and used < oldest) or (max_size is not None and left > max_size)):
                continue
            if self._remove(chain):
                removed.append(layer)
                left -= layer.size
                # What it stood on was used with it.
                if layer.parent in self._used:
                    self._used[layer.parent] = max(used, self._used[layer.parent])
            else:
                in_use.append(layer)
        return Pruned(tuple(removed), tuple(in_use), left)

    def _least(self, tried: set[str]) -> str | None:
        """The one used least recently of those that nothing stands on."""
        free = [chain for chain in self._layers if chain not in tried and not self._above.get(chain)]
        return min(free, key=lambda chain: (self._used.get(chain, 0.0), chain), default=None)

    def _remove(self, chain: str) -> bool:
        def still_free() -> bool:
            """While it was, somebody may have put a layer on it."""
            return all(layer.parent != chain for layer in self._store.place.layers() if layer.chain not in self._layers)

        if not withdraw(self._store.place, self._worker, chain, still_free):
            return False
        layer = self._layers.pop(chain)
        for dependents in self._above.values():
            dependents.discard(layer.chain)
        return True


def _forget(store: Store) -> None:
    """What was written down of layers that are gone."""
    there = {layer.chain for layer in store.place.layers()}
    for part in ("images", "kept"):
        for name in os.listdir(f"{store.path}/{part}"):
            data = store.place.read(f"{part}/{name}") or {}
            chains = data.get("chains") or [data.get("chain")]
            if chains[-1:] and chains[-1] not in there:
                with suppress(FileNotFoundError):
                    os.unlink(f"{store.path}/{part}/{name}")
