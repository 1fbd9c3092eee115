"""From the store to archives: a layer as an OCI layer's tar, an image as an OCI layout, in a directory or a tar of it."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from typing import Any, Final

from pytest_isolate.images.choosing import Chosen
from pytest_isolate.images.image import Progress, architecture
from pytest_isolate.images.layer import Layer
from pytest_isolate.images.store import Store
from pytest_isolate.images.worker_process import Worker
from pytest_isolate.model.errors import ImageError
from pytest_isolate.model.image import ImageConfig

__all__ = ["export"]

_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"


def export(store: Store, chosen: Chosen, path: str, progress: Callable[[Progress], None] | None = None) -> None:
    """An image as an OCI layout: in the new directory `path`, or a tar of it if that ends in ``.tar``. A layer as its archive.

    Raises:
        ImageError: `path` is there already, or can't be written; the layer can't be said in an archive.
    """
    if os.path.lexists(path):
        raise ImageError(f"{path} is there already", "another name, or remove it")
    above, name = os.path.split(os.path.abspath(path))
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=above) as half, Worker() as worker:
            store.place.open(worker.owners)
            if chosen.image is None:
                _layer(store, worker, chosen.layers[0], f"{half}/layer.tar", progress)
                os.rename(f"{half}/layer.tar", path)
                return
            layout = f"{half}/layout"
            _layout(store, worker, chosen.layers, chosen.image.config, layout, chosen.image.name, progress)
            if path.endswith(".tar"):
                with tarfile.open(f"{half}/layout.tar", "x", format=tarfile.PAX_FORMAT) as archive:
                    for entry in sorted(os.listdir(layout)):
                        archive.add(f"{layout}/{entry}", entry)
                os.rename(f"{half}/layout.tar", path)
            else:
                os.rename(layout, path)
    except OSError as error:
        raise ImageError(f"{error.filename or path}: {error.strerror}") from None


def _layer(store: Store, worker: Worker, layer: Layer, path: str, progress: Callable[[Progress], None] | None) -> dict[str, Any]:
    directory = os.open(store.place.layer(layer.chain), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            told = (
                None
                if progress is None
                else lambda done: progress(Progress(done, layer.size, f"writing layer {layer.chain[:12]}"))
            )
            return worker.ask("export", (directory, out), progress=told)
        finally:
            os.close(out)
    finally:
        os.close(directory)


def _layout(
    store: Store,
    worker: Worker,
    layers: tuple[Layer, ...],
    config: ImageConfig | None,
    layout: str,
    name: str,
    progress: Callable[[Progress], None] | None,
) -> None:
    blobs = f"{layout}/blobs/sha256"
    os.makedirs(blobs)
    written = []
    for layer in layers:
        answer = _layer(store, worker, layer, f"{blobs}/half", progress)
        os.rename(f"{blobs}/half", f"{blobs}/{answer['digest']}")
        written.append({"mediaType": _LAYER, "digest": f"sha256:{answer['digest']}", "size": answer["size"]})
    said = config or ImageConfig()
    process = {
        "Env": [f"{key}={value}" for key, value in said.env],
        "User": said.user,
        "WorkingDir": said.working_dir,
        "Entrypoint": list(said.entrypoint) or None,
        "Cmd": list(said.cmd) or None,
    }
    about = {
        "architecture": architecture(),
        "os": "linux",
        "config": {key: value for key, value in process.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in written]},
    }
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": _document(blobs, about, _CONFIG), "layers": written}
    described = {**_document(blobs, manifest, _MANIFEST), "platform": {"os": "linux", "architecture": architecture()}}
    if name:
        described["annotations"] = {"org.opencontainers.image.ref.name": name}
    for file, content in (
        ("index.json", {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [described]}),
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
    ):
        with open(f"{layout}/{file}", "w", encoding="utf-8") as out:
            json.dump(content, out)


def _document(blobs: str, content: dict[str, Any], media: str) -> dict[str, Any]:
    data = json.dumps(content).encode()
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{blobs}/{digest}", "wb") as out:
        out.write(data)
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}
