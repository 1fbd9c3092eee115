"""What `docker save` and `podman save` write (moby, image/spec/v1.2: "Combined Image JSON + Filesystem Changeset Format")."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pytest_isolate.images.files import Files, read
from pytest_isolate.images.image import Image, config_of
from pytest_isolate.model.errors import ImageError

__all__ = ["image_of"]


def image_of(files: Files, tag: str) -> Image:
    """The image that `tag` names: ``name:tag``, ``tag`` or ``name``, with or without the registry's; empty: the only one there is.

    Raises:
        ImageError
    """
    found = files.find("manifest.json")
    if found is None:
        raise ImageError("it has no manifest.json: docker save didn't write it", "an OCI layout is named oci:PATH")
    try:
        manifests = json.loads(read(found))
    except (ValueError, RecursionError) as error:
        raise ImageError(f"manifest.json is no JSON: {error}") from None
    if not isinstance(manifests, list) or not manifests or not all(isinstance(each, dict) for each in manifests):
        raise ImageError("manifest.json isn't a list of images")
    return _image(files, _tagged(manifests, tag))


def _image(files: Files, manifest: dict[str, Any]) -> Image:
    name, layers = manifest.get("Config"), manifest.get("Layers")
    if not isinstance(name, str) or not isinstance(layers, list) or not all(isinstance(each, str) for each in layers):
        raise ImageError("manifest.json lacks Config and Layers of an image")
    document = files.find(name)
    if document is None:
        raise ImageError(f"its configuration is missing: {name}", "save the image again")
    config, diff_ids = config_of(read(document))
    if len(layers) != len(diff_ids):
        raise ImageError(f"manifest.json has {len(layers)} layers, its configuration {len(diff_ids)}")
    blobs = []
    for where, diff_id in zip(layers, diff_ids, strict=True):
        blob = files.find(where)
        if blob is None:
            raise ImageError(f"a layer is missing: {where}", "save the image again")
        blobs.append(replace(blob, diff_id=diff_id))
    return Image(tuple(blobs), config)


def _tags(manifest: dict[str, Any]) -> list[str]:
    tags = manifest.get("RepoTags")
    return [str(tag) for tag in tags] if isinstance(tags, list) else []


def _tagged(manifests: list[dict[str, Any]], tag: str) -> dict[str, Any]:
    there = ", ".join(sorted(name for each in manifests for name in _tags(each))) or "none"
    hint = "name one of them after the path, as PATH:TAG"

    def named(manifest: dict[str, Any]) -> bool:
        names = [form for name in _tags(manifest) for form in (name, name.rpartition(":")[0], name.rpartition(":")[2])]
        return any(tag == name or name.endswith(f"/{tag}") for name in names)

    wanted = [each for each in manifests if not tag or named(each)]
    if not wanted:
        raise ImageError(f"it has no tag {tag!r}; there are: {there}", hint)
    exact = [each for each in wanted if tag in _tags(each)]
    if len(exact or wanted) > 1:
        raise ImageError(f"it holds several images{f' that {tag!r} names' if tag else ''}, with the tags {there}", hint)
    return (exact or wanted)[0]
