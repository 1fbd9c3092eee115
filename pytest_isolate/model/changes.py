"""What a sandbox did to its files, in the words of ``docker diff``: A, C and D."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from pytest_isolate.model.units import format_size

__all__ = ["MOST", "Change", "Changes", "Kind"]

Kind = Literal["A", "C", "D"]

MOST: Final = 100_000
"""Entries of a list; of more, the first ones in the order of the walk."""

_CONTROL: Final = {
    **{number: f"\\x{number:02x}" for number in (*range(0x20), 0x7F)},
    0x0A: "\\n",
    0x0D: "\\r",
    0x09: "\\t",
    0x5C: "\\\\",
}
_UNDECODABLE: Final = {0xDC00 + number: f"\\x{number:02x}" for number in range(0x80, 0x100)}


@dataclass(frozen=True, slots=True)
class Change:
    """One path.

    Attributes:
        kind: ``A`` added, ``C`` changed, ``D`` deleted.
        path: inside the sandbox, absolute; bytes that aren't UTF-8 as os.fsdecode gives them. A deleted directory stands for all that was in it.
        size: bytes of a regular file, a deleted one's before; 0 for everything else.
    """

    kind: Kind
    path: str
    size: int = 0

    def __str__(self) -> str:
        """One line for people, whatever is in the path."""
        shown = self.path.translate(_CONTROL | _UNDECODABLE)
        return f"{self.kind} {shown}  {format_size(self.size)}" if self.size else f"{self.kind} {shown}"

    def to_json(self) -> list[Any]:
        return [self.kind, self.path, self.size]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> Self:
        return cls(*data)


class Changes(list[Change]):
    """A list of changes, sorted by path.

    Attributes:
        truncated: there are more than a list holds (`MOST`), or directories nest deeper than is looked.
    """

    def __init__(self, entries: Iterable[Change] = (), *, truncated: bool = False) -> None:
        super().__init__(entries)
        self.truncated = truncated

    def to_json(self) -> dict[str, Any]:
        return {"changes": [change.to_json() for change in self], "truncated": self.truncated}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(map(Change.from_json, data["changes"]), truncated=data["truncated"])
