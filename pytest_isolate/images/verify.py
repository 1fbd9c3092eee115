"""Whether layers still hold what was put into them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from pytest_isolate.images.image import Progress
from pytest_isolate.images.layer import Layer
from pytest_isolate.images.store import Store
from pytest_isolate.images.worker_process import Worker

__all__ = ["verify"]


def verify(
    store: Store, layers: Iterable[Layer], progress: Callable[[Progress], None] | None = None
) -> Iterator[tuple[Layer, list[str]]]:
    """Read each layer whole, and compare it with the list of files that was written down when it was made.

    Yields:
        The layer, and a sentence for each path that isn't what it was: none where all is well.

    Raises:
        ImageError
    """
    with Worker() as worker:
        for layer in layers:
            told = _reporter(layer, progress)
            altered: list[str] = []
            fd = os.open(store.place.layer(layer.chain), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                worker.ask("verify", (fd,), tree=layer.tree, progress=told, altered=altered.extend)
            finally:
                os.close(fd)
            yield layer, altered


def _reporter(layer: Layer, progress: Callable[[Progress], None] | None) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda done: progress(Progress(done, layer.size, f"reading layer {layer.chain[:12]}"))
