"""What an image is before it is unpacked: where the bytes of its layers lie, and what it says of itself."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import dataclass
from typing import Any, Final

from pytest_isolate.model.errors import ImageError
from pytest_isolate.model.image import ImageConfig

__all__ = ["Blob", "Image", "Progress", "architecture", "chain_id", "check_platform", "config_of", "sha256_of"]

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")

_ARCHITECTURES: Final = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i386": "386",
    "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64", "loongarch64": "loong64",
}  # fmt: skip
"""Go's names, which images use, by what uname(2) says."""

_ALSO_RUNS: Final = {"amd64": ("386",)}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something long is.

    Attributes:
        what: in words: ``unpacking layer 2 of 5 of oci:/images/app``.
    """

    done_bytes: int
    total_bytes: int
    what: str


@dataclass(frozen=True, slots=True)
class Blob:
    """
    Attributes:
        path: the file that holds it.
        offset, size: where in the file, in bytes.
        digest: sha256 of it as it lies, in hexadecimal; empty: not said.
        diff_id: sha256 of it uncompressed, in hexadecimal; empty: not known before it is read.
        name: for messages.
    """

    path: str
    offset: int
    size: int
    digest: str = ""
    diff_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """Layers bottom to top."""

    layers: tuple[Blob, ...]
    config: ImageConfig | None = None


def chain_id(parent: str, diff_id: str) -> str:
    """Of a layer on `parent`'s chain (empty: none), in hexadecimal (OCI image-spec, config.md, "Layer ChainID")."""
    return hashlib.sha256(f"sha256:{parent} sha256:{diff_id}".encode()).hexdigest() if parent else diff_id


def sha256_of(value: object, what: str) -> str:
    """The hexadecimal part of a digest. Raises ImageError for one of another kind."""
    if isinstance(value, str) and (match := _DIGEST.fullmatch(value)):
        return match[1]
    raise ImageError(f"{what} is {value!r}: only sha256: and 64 hexadecimal digits is known")


def architecture() -> str:
    """This machine's, in Go's words."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def check_platform(system: object, arch: object) -> None:
    """Raises ImageError unless this machine runs it. What isn't said is no reason."""
    own = architecture()
    if (system and system != "linux") or (arch and arch != own and arch not in _ALSO_RUNS.get(own, ())):
        raise ImageError(
            f"it is for {system or 'linux'}/{arch}, this machine is linux/{own}",
            f"get it for linux/{own}, e.g. skopeo copy --override-os linux --override-arch {own} …",
        )


def config_of(raw: bytes) -> tuple[ImageConfig, list[str]]:
    """An image's configuration, checked against this machine, and its diff ids (OCI image-spec, config.md; Docker's is the same).

    Raises:
        ImageError
    """
    data = mapping(raw, "its configuration")
    check_platform(data.get("os"), data.get("architecture"))
    rootfs = data.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers" or not isinstance(rootfs.get("diff_ids"), list):
        raise ImageError("its configuration has no rootfs of type 'layers'")
    diff_ids = [sha256_of(value, "a diff id of its configuration") for value in rootfs["diff_ids"]]
    said = data.get("config") or {}
    try:
        env = tuple((name, value) for name, _, value in (entry.partition("=") for entry in said.get("Env") or ()))
        config = ImageConfig(
            env,
            str(said.get("User") or ""),
            str(said.get("WorkingDir") or ""),
            _strings(said.get("Entrypoint")),
            _strings(said.get("Cmd")),
        )
    except (AttributeError, TypeError):
        raise ImageError("its configuration can't be read: Env, Entrypoint and Cmd are lists of strings") from None
    return config, diff_ids


def mapping(raw: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises ImageError."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise ImageError(f"{what} is no JSON object")
    return data


def _strings(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(str(each) for each in value)
