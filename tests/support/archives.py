"""Archives and image layouts made by hand, well-formed or as no tool would write them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pytest_isolate.images.image import architecture

__all__ = ["GZIP", "TAR", "Member", "digest", "docker_archive", "layout", "member", "tar"]

TAR: Final = "application/vnd.oci.image.layer.v1.tar"
GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

Member = tuple[tarfile.TarInfo, bytes]


def member(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "", **more: Any
) -> Member:
    """One entry; `more` are attributes of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
    info.mtime = 1_600_000_000
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of `members`, in their order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layout(
    path: Path,
    layers: Sequence[bytes],
    *,
    media: str = TAR,
    tags: Sequence[str] = ("one",),
    config: Mapping[str, Any] | None = None,
    layer: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    index: Mapping[str, Any] | None = None,
) -> Path:
    """An OCI image layout in the directory `path`; what is given replaces or adds keys of those documents."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    packed = [gzip.compress(data, 1, mtime=0) if media.endswith("gzip") else data for data in layers]
    about = {
        "architecture": architecture(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
        "config": {"Env": ["PATH=/bin", "EMPTY="], "User": "5:6", "WorkingDir": "/w", "Entrypoint": ["/e"], "Cmd": ["c"]}, **(config or {}),
    }  # fmt: skip
    written = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(about).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [{**blob(data, media), **(layer or {})} for data in packed],
        **(manifest or {}),
    }
    named = blob(json.dumps(written).encode(), "application/vnd.oci.image.manifest.v1+json")
    manifests = [{**named, "annotations": {"org.opencontainers.image.ref.name": tag}} for tag in tags]
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests, **(index or {})}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


def docker_archive(path: Path, layers: Sequence[bytes], tags: Sequence[str] = ("name:tag",), **manifest: Any) -> Path:
    """As `docker save` wrote them before version 25: the second of two equal layers is a symbolic link to the first."""
    about = {
        "architecture": architecture(),
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
    }
    members = [member("config.json", json.dumps(about).encode())]
    names: dict[bytes, str] = {}
    for number, data in enumerate(layers):
        name = f"{number}/layer.tar"
        if data in names:
            members.append(member(name, kind=tarfile.SYMTYPE, link=f"../{names[data]}"))
        else:
            members.append(member(name, data))
            names[data] = name
    listed = {
        "Config": "config.json",
        "RepoTags": list(tags),
        "Layers": [f"{number}/layer.tar" for number in range(len(layers))],
        **manifest,
    }
    members.append(member("manifest.json", json.dumps([listed]).encode()))
    path.write_bytes(tar(*members))
    return path
