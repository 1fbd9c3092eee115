"""What the store says of a layer, and of what a source came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

from pytest_isolate.model.image import ImageConfig

__all__ = ["Kept", "Layer", "Record", "this_boot"]


@cache
def this_boot() -> str:
    """A name of the time since the machine was started (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@dataclass(frozen=True, slots=True)
class Layer:
    """
    Attributes:
        chain: chain id, in hexadecimal: its name in the store.
        diff_id: sha256 of its archive, uncompressed; of a layer that was made here, of its list of files.
        parent: chain id of the layer below; empty: it is a lowest one.
        tree: digest of its list of files.
        size: bytes of its files, holes included.
        created: seconds since the epoch.
        source: what it was imported from, as it was named.
        boot: of the machine, when it was made.
    """

    chain: str
    diff_id: str
    parent: str
    tree: str
    size: int
    entries: int
    created: float
    source: str
    notes: tuple[str, ...] = ()
    boot: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "notes": tuple(data["notes"])})


@dataclass(frozen=True, slots=True)
class Record:
    """What an image or an archive came to.

    Attributes:
        source: as it was named when it was imported.
        name: given by whoever imported it; may be empty.
        chains: of its layers, bottom to top.
        boot: of the machine, when they were made, or last looked at.
    """

    source: str
    name: str
    chains: tuple[str, ...]
    config: ImageConfig | None
    notes: tuple[str, ...] = ()
    boot: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        config = ImageConfig.from_json(data["config"]) if data["config"] else None
        return cls(data["source"], data["name"], tuple(data["chains"]), config, tuple(data["notes"]), data.get("boot", ""))


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer that was made by a test.

    Attributes:
        key: of what it was made from.
        name: people's name for it; of several with one name, the last one counts.
        chain: its own.
        base: directories below it, bottom to top; ``host`` for the host's tree.
        about: what else its maker wrote down.
        directory: where it lies.
    """

    key: str
    name: str
    chain: str
    base: tuple[str, ...]
    about: dict[str, Any]
    created: float
    directory: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "base": tuple(data["base"])})
