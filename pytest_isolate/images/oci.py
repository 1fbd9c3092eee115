"""OCI image layouts, as a directory or a tar of it (OCI image-spec: image-layout.md, image-index.md, manifest.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from pytest_isolate.images.files import Files, read
from pytest_isolate.images.image import Blob, Image, architecture, check_platform, config_of, mapping, sha256_of
from pytest_isolate.model.errors import ImageError

__all__ = ["image_of"]

_REF_NAME: Final = "org.opencontainers.image.ref.name"
_INDEXES: Final = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
_MANIFESTS: Final = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
_CONFIGS: Final = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})
_LAYERS: Final = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
_DEEPEST: Final = 4


def image_of(files: Files, tag: str) -> Image:
    """The image that `tag` names, for this machine.

    Args:
        tag: value of the annotation ref.name; empty: the only image there is.

    Raises:
        ImageError
    """
    layout = files.find("oci-layout")
    if layout is None:
        raise ImageError("it is no OCI image layout: it has no file oci-layout", "docker save writes docker-archive:")
    version = mapping(read(layout), "oci-layout").get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise ImageError(f"its layout version {version!r} isn't known, 1.0.0 is")
    index = files.find("index.json")
    if index is None:
        raise ImageError("it has no index.json")
    descriptor = _tagged(_descriptors(mapping(read(index), "index.json"), "index.json"), tag)
    for _ in range(_DEEPEST):
        media = descriptor.get("mediaType")
        document = mapping(read(_blob(files, descriptor, "a manifest")), "a manifest")
        if document.get("schemaVersion", 2) != 2:
            raise ImageError(f"a manifest of schema version {document['schemaVersion']!r}; 2 is known")
        media = document.get("mediaType") or media
        if media in _MANIFESTS:
            return _image(files, document)
        if media not in _INDEXES:
            raise ImageError(f"a manifest of the media type {media!r}, which isn't known")
        descriptor = _for_this_machine(_descriptors(document, "an index"))
    raise ImageError(f"indexes of indexes, more than {_DEEPEST} deep")


def _image(files: Files, manifest: dict[str, Any]) -> Image:
    about = manifest.get("config")
    if not isinstance(about, dict) or about.get("mediaType") not in _CONFIGS:
        what = about.get("mediaType") if isinstance(about, dict) else None
        raise ImageError(f"its configuration has the media type {what!r}: it is no image")
    config, diff_ids = config_of(read(_blob(files, about, "its configuration")))
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) != len(diff_ids):
        raise ImageError(f"its manifest's layers aren't the {len(diff_ids)} of its configuration")
    blobs = []
    for number, (descriptor, diff_id) in enumerate(zip(layers, diff_ids, strict=True), 1):
        media = descriptor.get("mediaType") if isinstance(descriptor, dict) else None
        if media not in _LAYERS:
            foreign = "nondistributable" in str(media) or "foreign" in str(media)
            why = "is not distributed with the image" if foreign else f"has the media type {media!r}, which isn't known"
            raise ImageError(f"its layer {number} {why}")
        blobs.append(replace(_blob(files, descriptor, f"its layer {number}"), diff_id=diff_id))
    return Image(tuple(blobs), config)


def _blob(files: Files, descriptor: dict[str, Any], what: str) -> Blob:
    digest = sha256_of(descriptor.get("digest"), f"the digest of {what}")
    found = files.find(f"blobs/sha256/{digest}")
    if found is None:
        raise ImageError(f"the blob of {what} is missing: blobs/sha256/{digest}", "copy the image again")
    if descriptor.get("size") != found.size:
        raise ImageError(f"{found.name}: size mismatch: {found.size} bytes, {what} is said to have {descriptor.get('size')}")
    return replace(found, digest=digest)


def _descriptors(document: dict[str, Any], what: str) -> list[dict[str, Any]]:
    found = document.get("manifests")
    if document.get("schemaVersion", 2) != 2 or not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ImageError(f"{what} isn't an index of schema version 2")
    return found


def _name(descriptor: dict[str, Any]) -> str:
    annotations = descriptor.get("annotations")
    return str(annotations.get(_REF_NAME, "")) if isinstance(annotations, dict) else ""


def _tagged(descriptors: list[dict[str, Any]], tag: str) -> dict[str, Any]:
    names = ", ".join(sorted({_name(each) for each in descriptors if _name(each)})) or "none"
    if not descriptors:
        raise ImageError("it holds no image")
    wanted = [each for each in descriptors if not tag or _name(each) == tag]
    if not wanted:
        raise ImageError(f"it has no tag {tag!r}; there are: {names}", "name one of them after the path, as PATH:TAG")
    if len({_name(each) for each in wanted}) > 1:
        raise ImageError(f"it holds several images, with the tags {names}", "name one of them after the path, as PATH:TAG")
    return wanted[0] if len(wanted) == 1 else _for_this_machine(wanted)


def _for_this_machine(descriptors: list[dict[str, Any]]) -> dict[str, Any]:
    """Of an index, by platform; entries without one are taken last."""

    def platform(each: dict[str, Any]) -> tuple[Any, Any]:
        said = each.get("platform")
        return (said.get("os"), said.get("architecture")) if isinstance(said, dict) else (None, None)

    own = ("linux", architecture())
    for wanted in (own, (None, None)):
        if found := [each for each in descriptors if platform(each) == wanted]:
            return found[0]
    for each in descriptors:
        if platform(each)[0] == "linux":
            try:
                check_platform(*platform(each))
            except ImageError:
                continue
            return each
    there = ", ".join(sorted({"/".join(map(str, platform(each))) for each in descriptors})) or "nothing"
    raise ImageError(f"it is for {there}, this machine is {'/'.join(own)}", f"get it for {'/'.join(own)}")
