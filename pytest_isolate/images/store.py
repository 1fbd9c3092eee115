"""The layer store: what `rootfs=` names becomes directories that overlayfs stacks, unpacked once for all runs.

What is there already costs a stat of the source and the reading of a small file. Whatever has to be made is made by a
worker process, under a lock per layer, in ``tmp/``, and renamed into place: it is there whole, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Self

from pytest_isolate.images.compression import Limits
from pytest_isolate.images.files import unreadable
from pytest_isolate.images.holding import Held
from pytest_isolate.images.image import Progress, architecture
from pytest_isolate.images.importing import Importer, publish
from pytest_isolate.images.judging import judge
from pytest_isolate.images.layer import Kept, Record, this_boot
from pytest_isolate.images.place import Place, default_path
from pytest_isolate.images.worker_process import Worker
from pytest_isolate.model.errors import ImageError
from pytest_isolate.model.image import ImageConfig, Source, Stack

__all__ = ["Progress", "Store"]


class Store:
    """
    Args:
        path: its directory; None: ``$XDG_DATA_HOME/pytest-isolate``. It is made when something is put into it.
        max_layer: bytes that one layer may come to.
        run: what several processes have in common which needn't all find out that an image is bad; empty: nothing.

    Raises:
        ImageError: from every method, with the remedy.
    """

    def __init__(self, path: str | None = None, *, max_layer: int = 20_000_000_000, run: str = "") -> None:
        self.path = os.path.abspath(path) if path else default_path()
        self.place = Place(self.path)
        self._limits = Limits(size=max_layer)
        self._held = Held()
        self._run = run
        self._borrowed: dict[str, ExitStack] = {}

    def resolve(self, sources: Sequence[Source], progress: Callable[[Progress], None] | None = None) -> Stack:
        """Directories for `sources`, bottom to top. Its layers stay held until `close`.

        Args:
            progress: called now and then while something is imported.
        """
        directories: list[str] = []
        config: ImageConfig | None = None
        notes: list[str] = []
        host = False
        for number, source in enumerate(sources):
            if source.kind == "host":
                if number:
                    raise ImageError("the host can't lie above another layer", "name 'host' first, or not at all")
                host = True
            elif source.kind == "directory":
                directories.append(_directory(source.path))
            elif source.kind == "layer":
                kept = self._named(source.path)
                if not number:
                    host = kept.base[:1] == ("host",)
                    directories += kept.base[1:] if host else kept.base
                directories.append(kept.directory)
            else:
                record = self.image(source, progress)
                directories += [f"{self.place.layer(chain)}/diff" for chain in record.chains]
                config = record.config or config
                notes += (f"{source}: {note}" for note in record.notes)
        return Stack(tuple(directories), host, config, tuple(notes))

    def image(self, source: Source, progress: Callable[[Progress], None] | None = None, name: str = "") -> Record:
        """What an archive or an image comes to, imported unless it is there. Its layers are held.

        Args:
            name: to find it by later.
        """
        key = _identity(source)
        if self.place.exists() and (record := self._record(key)) is not None and (not name or record.name == name):
            return record
        if not self.place.exists():
            with Worker() as worker:
                self.place.open(worker.owners)
        with self.place.lock(f"image-{key}"):
            if (record := self._record(key)) is None:
                if self._run and (refusal := self.place.refusal(key, self._run)):
                    raise refusal
                with Worker() as worker:
                    self.place.open(worker.owners)
                    self.place.sweep(worker)
                    record = self._imported(key, Importer(self.place, worker, self._held, self._limits, progress), source, name)
            elif not name or record.name == name:
                return record
            record = replace(record, name=name or record.name)
            self.place.write(f"images/{key}.json", record.to_json())
            return record

    def _imported(self, key: str, importer: Importer, source: Source, name: str) -> Record:
        try:
            return importer.run(source, name)
        except ImageError as error:
            if self._run and not importer.interrupted:
                self.place.refuse(key, self._run, error)
            raise

    def judge(self, source: Source) -> None:
        """What is wrong with it, as far as that is told by small reads: nothing is unpacked. What is there already is good."""
        if source.kind == "directory":
            _directory(source.path)
        elif source.kind in ("oci", "docker-archive", "tarball") and not self._is_there(source):
            judge(source)

    def _is_there(self, source: Source) -> bool:
        """Whether it was imported, and nobody removed it since."""
        key = _identity(source)
        try:
            data = self.place.read(f"images/{key}.json") if self.place.exists() else None
        except ImageError:  # of the store, not of the image: whoever imports is told
            return False
        return data is not None and all(os.path.exists(f"{self.place.layer(chain)}/used") for chain in data["chains"][-1:])

    def _record(self, key: str) -> Record | None:
        """What was written down, as long as all of it is there; then it is held."""
        data = self.place.read(f"images/{key}.json")
        if data is None:
            return None
        record = Record.from_json(data)
        # Who is below is needed by who is above, and so not removed.
        if not all(self._held.take(self.place.layer(chain)) for chain in record.chains[-1:]):
            return None
        if record.boot != this_boot():
            if not self._is_whole(record.chains):
                return None
            record = replace(record, boot=this_boot())
            self.place.write(f"images/{key}.json", record.to_json())
        return record

    def _is_whole(self, chains: Sequence[str]) -> bool:
        from pytest_isolate.images.settled import settle

        return settle(self.place, self._held, chains)

    def add(self, parts: Sequence[tuple[str, int]], base: Sequence[str], about: Mapping[str, Any], *, key: str) -> Kept:
        """Keep what a sandbox wrote as a layer: whiteouts, opaque directories, links, holes, modes and owners as they are.

        Args:
            parts: of each of its overlays the path, and a descriptor (O_PATH will do) of the upper directory.
            base: directories below it, bottom to top; ``host`` first for the host's tree.
            about: ``name`` (to be found by), and what else should be known of it later; JSON.
            key: of what it was made from. A layer of this key that is there already is replaced.
        """
        name = str(about.get("name", ""))
        with self._copied(parts, base) as (path, answer):
            parents = [chain for each in base if (chain := self.chain_at(each))]
            chain = publish(self.place, path, parents[-1] if parents else "", answer["tree"], answer, f"layer:{name or key}")
        self._held.take(self.place.layer(chain))
        kept = Kept(key, name, chain, tuple(base), dict(about), time.time(), f"{self.place.layer(chain)}/diff")
        self.place.write(f"kept/{_hash(key)}.json", kept.to_json())
        return kept

    def borrow(self, parts: Sequence[tuple[str, int]], base: Sequence[str]) -> str:
        """A layer as `add` makes it that is nobody else's, until `give_back` or `close`. Returns its directory."""
        with ExitStack() as stack:
            path, _ = stack.enter_context(self._copied(parts, base))
            directory = f"{path}/diff"
            self._borrowed[directory] = stack.pop_all()
        return directory

    @contextmanager
    def _copied(self, parts: Sequence[tuple[str, int]], base: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """A directory in ``tmp/`` with a copy of `parts`, and what the worker says of it; removed at the end if it is still there."""
        with Worker() as worker:
            self.place.open(worker.owners)
            self.place.sweep(worker)
            with self.place.scratch(worker) as (path, target):
                yield path, _copy(worker, target, parts, base)

    def give_back(self, directory: str) -> None:
        """Remove what `borrow` gave."""
        self._borrowed.pop(directory).close()

    @contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Whoever makes the layer of `key` does it alone."""
        if not self.place.exists():
            with Worker() as worker:
                self.place.open(worker.owners)
        with self.place.lock(f"kept-{_hash(key)}"):
            yield

    def find(self, key: str) -> str | None:
        """The directory of the layer that was kept under `key`, held; None: there is none, or it was removed."""
        kept = self.kept(key)
        return kept.directory if kept else None

    def kept(self, key: str) -> Kept | None:
        """As `find`, with all that was written down."""
        data = self.place.read(f"kept/{_hash(key)}.json") if self.place.exists() else None
        kept = Kept.from_json(data) if data else None
        return kept if kept and self._held.take(self.place.layer(kept.chain)) and self._is_whole([kept.chain]) else None

    def _named(self, name: str) -> Kept:
        found = [kept for kept in self.all_kept() if name in (kept.name, kept.key)]
        for kept in sorted(found, key=lambda each: each.created, reverse=True):
            if self._held.take(self.place.layer(kept.chain)) and self._is_whole([kept.chain]):
                return kept
        there = ", ".join(sorted({kept.name for kept in self.all_kept() if kept.name})) or "none"
        raise ImageError(
            f"layer:{name}: no such layer in {self.path}; there are: {there}", "python -m pytest_isolate layers list"
        )

    def all_kept(self) -> list[Kept]:
        """Those that were made, whether or not their layers are there."""
        return [Kept.from_json(data) for name in self.place.names("kept") if (data := self.place.read(f"kept/{name}"))]

    def all_images(self) -> dict[str, Record]:
        """What was imported, by key."""
        names = self.place.names("images")
        return {name[:-5]: Record.from_json(data) for name in names if (data := self.place.read(f"images/{name}"))}

    def chain_at(self, directory: str) -> str:
        """The chain id of a layer's directory; empty: it is none of the store's."""
        above, name = os.path.split(os.path.normpath(directory))
        within, chain = os.path.split(above)
        return chain if name == "diff" and within == f"{self.path}/layers" else ""

    def close(self) -> None:
        """Hold no layer any more."""
        while self._borrowed:
            self._borrowed.popitem()[1].close()
        self._held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _copy(worker: Worker, target: int, parts: Sequence[tuple[str, int]], base: Sequence[str]) -> dict[str, Any]:
    """Those of `parts` that have something, copied by `worker`; an O_PATH descriptor will do for it."""
    opened: list[int] = []
    paths: list[str] = []
    try:
        for path, fd in parts:
            readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.append(readable)
            if os.listdir(readable):
                paths.append(path)
            else:
                os.close(opened.pop())
        return worker.ask("copy", (target, *opened), paths=paths, base=["/" if each == "host" else each for each in base])
    finally:
        for fd in opened:
            os.close(fd)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _directory(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(error, path) from None
    if not os.path.isdir(path):
        what = "a file" if os.path.isfile(path) else f"no directory (mode {status.st_mode:o})"
        raise ImageError(
            f"{path}: it is {what}",
            "name a directory, or an archive: oci:PATH, docker-archive:PATH, or a file *.tar, *.tar.gz, …",
        )
    return os.path.abspath(path)


def _identity(source: Source) -> str:
    """Changes with what is at the source's path."""
    try:
        status = os.stat(source.path)
        if source.kind == "oci" and os.path.isdir(source.path):
            with open(os.path.join(source.path, "index.json"), "rb") as file:
                what: list[Any] = [hashlib.sha256(file.read()).hexdigest()]
        else:
            what = [status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size]
    except OSError as error:
        raise unreadable(error, str(error.filename)) from None
    return _hash(json.dumps([source.kind, source.tag, architecture(), *what]))
