"""From an archive to layers of the store: each is unpacked once, by whoever comes first; the others wait for it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from pytest_isolate.images.compression import Limits
from pytest_isolate.images.files import files_of, open_file
from pytest_isolate.images.holding import Held, take_alone
from pytest_isolate.images.image import Blob, Image, Progress, chain_id
from pytest_isolate.images.judging import IMAGES
from pytest_isolate.images.layer import Layer, Record, this_boot
from pytest_isolate.images.place import Place
from pytest_isolate.images.worker_process import Worker, package_directory
from pytest_isolate.model.errors import ImageError
from pytest_isolate.model.image import Source

__all__ = ["Importer", "publish", "withdraw"]


class Importer:
    """
    Args:
        held: holds what is imported, and what was there already.
    """

    def __init__(
        self, place: Place, worker: Worker, held: Held, limits: Limits, progress: Callable[[Progress], None] | None
    ) -> None:
        self._place, self._worker, self._held, self._limits = place, worker, held, limits
        self._progress = progress
        self._made: list[str] = []

    @property
    def interrupted(self) -> bool:
        """Whether what went wrong may not be the image's fault."""
        return self._worker.gone

    def run(self, source: Source, name: str = "") -> Record:
        """Raises ImageError, naming the source."""
        try:
            if source.kind == "tarball":
                return self._tarball(source, name)
            reader = IMAGES[source.kind]
            with self._place.scratch(self._worker) as (scratch, _), files_of(source.path, scratch, self._limits) as files:
                return self._layers(source, reader(files, source.tag), name)
        except ImageError as error:
            self._withdraw()
            shown = str(source)
            raise error if shown in error.message else ImageError(f"{shown}: {error.message}", error.hint) from None

    def _layers(self, source: Source, image: Image, name: str) -> Record:
        chains: list[str] = []
        notes: list[str] = []
        total = sum(blob.size for blob in image.layers)
        done = 0
        for number, blob in enumerate(image.layers, 1):
            chain = chain_id(chains[-1] if chains else "", blob.diff_id)
            what = f"unpacking layer {number} of {len(image.layers)} of {source}"
            if not self._is_there(chain):
                with self._place.lock(chain):
                    if not self._held.take(self._place.layer(chain)):
                        self._unpack(source, blob, chains, self._reporter(done, total, what))
                        self._held.take(self._place.layer(chain))
                        self._made.append(chain)
            chains.append(chain)
            done += blob.size
            notes += self._notes(chain, f"layer {number}: " if len(image.layers) > 1 else "")
        return Record(str(source), name, tuple(chains), image.config, tuple(notes), this_boot())

    def _is_there(self, chain: str) -> bool:
        """Then it is held."""
        from pytest_isolate.images.settled import settle

        return self._held.take(self._place.layer(chain)) and settle(self._place, self._held, [chain])

    def _withdraw(self) -> None:
        """The layers that were made of an image that is refused go, unless somebody else has taken them for another one."""
        for chain in reversed(self._made):
            self._held.drop(self._place.layer(chain))
            withdraw(self._place, self._worker, chain, lambda: all(layer.parent != chain for layer in self._place.layers()))  # noqa: B023

    def _notes(self, chain: str, prefix: str) -> Iterator[str]:
        data = self._place.read(f"layers/{chain}/meta.json")
        yield from (f"{prefix}{note}" for note in (data or {}).get("notes", ()))

    def _reporter(self, before: int, total: int, what: str) -> Callable[[int], None] | None:
        if (told := self._progress) is None:
            return None
        return lambda done: told(Progress(before + done, total, what))

    def _tarball(self, source: Source, name: str) -> Record:
        fd = open_file(source.path)
        try:
            blob = Blob(source.path, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        chain = self._unpack(source, blob, [], self._reporter(0, blob.size, f"unpacking {source}"))
        self._held.take(self._place.layer(chain))
        return Record(str(source), name, (chain,), None, tuple(self._notes(chain, "")), this_boot())

    def _unpack(self, source: Source, blob: Blob, below: list[str], progress: Callable[[int], None] | None) -> str:
        """One layer on those of `below`, into its place. Returns its chain id."""
        fd = open_file(blob.path)
        try:
            with self._place.scratch(self._worker) as (path, target):
                limits = self._limits
                try:
                    answer = self._worker.ask(
                        "unpack", (fd, target), progress=progress,
                        offset=blob.offset, size=blob.size, below=[f"{self._place.layer(chain)}/diff" for chain in below],
                        limits=[limits.size, limits.ratio, limits.entries], expected=blob.diff_id, digest=blob.digest,
                        packages="" if shutil.which("zstd") else package_directory("zstandard") or "",
                    )  # fmt: skip
                except ImageError as error:
                    raise ImageError(f"{blob.name}: {error.message}" if blob.name else error.message, error.hint) from None
                return publish(self._place, path, below[-1] if below else "", answer["diff_id"], answer, str(source))
        finally:
            os.close(fd)


def publish(place: Place, scratch: str, parent: str, diff_id: str, answer: dict[str, Any], source: str) -> str:
    """Let what lies complete in `scratch` be a layer. Returns its chain id.

    Raises:
        OSError
    """
    chain = chain_id(parent, diff_id)
    layer = Layer(
        chain,
        diff_id,
        parent,
        answer["tree"],
        answer["size"],
        answer["entries"],
        time.time(),
        source,
        tuple(answer["notes"]),
        this_boot(),
    )
    half = os.path.relpath(scratch, place.path)
    place.write(f"{half}/meta.json", layer.to_json())
    os.close(os.open(f"{scratch}/used", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with suppress(OSError):  # ENOTEMPTY, EEXIST: another one was faster, with the same
        os.rename(scratch, place.layer(chain))
    return chain


def withdraw(place: Place, worker: Worker, chain: str, still_free: Callable[[], bool]) -> bool:
    """Remove a layer, unless it is in use.

    Args:
        still_free: asked when nobody can begin to use it any more: whether nothing stands on it.

    Returns:
        Whether it was removed.
    """
    fd = take_alone(place.layer(chain))
    if fd is None:
        return False
    try:
        if not still_free():
            return False
        with place.scratch(worker) as (scratch, _):
            os.rename(place.layer(chain), f"{scratch}/layer")
    finally:
        os.close(fd)
    return True
