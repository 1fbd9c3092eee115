"""The members of a tar stream: ustar, GNU and pax (tar(5), POSIX.1-2017 pax, GNU tar's "Basic Tar Format" and "Sparse Formats").

Python's `tarfile` takes 15 us for a header and one more pass over each file's contents. This reads what images are made of, and
nothing else: no seeking, no writing, names as the bytes that they are.
"""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pytest_isolate.model.errors import ImageError

__all__ = ["BLOCK", "Member", "TarReader", "check_begin", "shown_name"]

BLOCK: Final = 512
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZEROS: Final = bytes(BLOCK)
_LONGEST_HEADER: Final = 1 << 20
"""Bytes of one extended header: 64 KiB of an attribute are the kernel's most, names are shorter."""
_MOST_PIECES: Final = 1 << 20
"""Pieces of one sparse file."""
_NO_ID: Final = 0xFFFFFFFF
"""(uid_t)-1, which chown(2) takes for "leave it"."""
_LAST_TIME: Final = 1 << 70
"""Nanoseconds: beyond what file systems keep, within what utimensat(2) takes."""
_XATTR: Final = b"SCHILY.xattr."
_REGULAR: Final = frozenset(b"07\0S")


def shown_name(name: bytes) -> str:
    """For messages: quoted, and not too long."""
    text = repr(name.decode("utf-8", "surrogateescape"))
    return text if len(text) <= 200 else f"{text[:199]}…"


@dataclass(slots=True)
class Member:
    """One entry.

    Attributes:
        kind: the type flag: ``0`` a file, ``1`` a hard link, ``2`` a symbolic one, ``3`` ``4`` devices, ``5`` a directory, ``6`` a fifo.
        size: of a file, holes included.
        stored: bytes of it that follow in the stream.
        mtime: nanoseconds.
        pieces: of a sparse file: (offset, length) of what isn't a hole.
        xattrs: by name, as raw bytes.
        lost: what the archive says of it and nobody can set, in words.
    """

    name: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    stored: int
    mtime: int
    link: bytes
    pieces: list[tuple[int, int]] | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


class TarReader:
    """Reads `chunks`, one member after the other: `members`, and after each `data` for a file's contents.

    Raises:
        ImageError: it is no tar archive, is truncated or damaged, or holds something that isn't known.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._at = 0
        self._left = 0  # of the current member's contents
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self.ended = False

    def members(self) -> Iterator[Member]:
        pax: dict[bytes, bytes] = {}
        long_name = long_link = None
        read = False
        while True:
            self._skip()
            header = self._take(BLOCK, "a header", optional=True)
            if not header:
                if not read:
                    raise ImageError("it is empty")
                return
            if header == _ZEROS:
                self.ended = True
                self._drain()
                return
            fields = _HEADER.unpack(header)
            _check(header, fields[6], first=not read)
            read = True
            kind, size = fields[7], _number(fields[4])
            if kind in b"xgLKX":
                if size > _LONGEST_HEADER:
                    raise ImageError(f"an extended header of {size} bytes, of which {_LONGEST_HEADER} are taken")
                content = self._take(size, "an extended header")
                self._take(-size % BLOCK, "an extended header")
                if kind in b"xX":
                    pax = _pax_records(content)
                elif kind == b"g":
                    self._globals.update(_pax_records(content))
                elif kind == b"L":
                    long_name = content.split(b"\0", 1)[0]
                else:
                    long_link = content.split(b"\0", 1)[0]
                continue
            member = self._member(fields, {**self._globals, **pax} if self._globals else pax, long_name, long_link)
            pax, long_name, long_link = {}, None, None
            yield member

    def data(self) -> Iterator[memoryview]:
        """The stored contents of the current member, in pieces, none of them empty."""
        while self._left:
            if self._at == len(self._chunk):
                self._next("a file's contents")
            end = min(len(self._chunk), self._at + self._left)
            piece = memoryview(self._chunk)[self._at : end]
            self._left -= end - self._at
            self._at = end
            yield piece

    def _member(
        self, fields: tuple[bytes, ...], pax: dict[bytes, bytes], long_name: bytes | None, long_link: bytes | None
    ) -> Member:
        kind = fields[7]
        name = long_name if long_name is not None else fields[0].split(b"\0", 1)[0]
        if long_name is None and fields[14][0] and fields[9] == b"ustar\x0000":
            name = fields[14].split(b"\0", 1)[0] + b"/" + name
        stored = _number(fields[4])
        link = long_link if long_link is not None else fields[8].split(b"\0", 1)[0]
        member = Member(
            name, kind.decode("latin-1"), _number(fields[1]) & 0o7777, _number(fields[2]), _number(fields[3]),
            stored, stored, _number(fields[5]) * 1_000_000_000, link,
        )  # fmt: skip
        if pax:
            _apply(member, pax)
        _check_numbers(member)
        if kind == b"\0" and member.name.endswith(b"/"):
            member.kind = "5"
        elif kind[0] in _REGULAR:
            member.kind = "0"
        self._left = member.stored if member.kind not in ("1", "2", "3", "4", "5", "6") else 0
        self._padding = -self._left % BLOCK
        if kind == b"S":
            self._old_sparse(member, fields)
        elif b"GNU.sparse.major" in pax:
            self._new_sparse(member, pax)
        elif b"GNU.sparse.map" in pax or b"GNU.sparse.size" in pax:
            _early_sparse(member, pax)
        if member.pieces is not None:
            _check_pieces(member)
        return member

    def _old_sparse(self, member: Member, fields: tuple[bytes, ...]) -> None:
        """GNU's type S: up to four pieces in the header, more in blocks that follow it."""
        raw = fields[14][386 - 345 :]  # where others have a prefix: pieces, whether more follow, the size
        pieces = _piece_numbers(raw[:96])
        more = raw[96]
        member.size = _number(raw[97:109])
        while more:
            block = self._take(BLOCK, "a sparse file's map")
            pieces += _piece_numbers(block[:504])
            more = block[504]
            _few(pieces)
        member.pieces = [piece for piece in pieces if piece[1]] or []

    def _new_sparse(self, member: Member, pax: dict[bytes, bytes]) -> None:
        """GNU.sparse 1.0: the map stands before the contents, as decimal numbers, one a line, padded to a block."""
        if pax[b"GNU.sparse.major"] != b"1":
            _early_sparse(member, pax)
            return
        member.size = _decimal(pax.get(b"GNU.sparse.realsize", b""))
        member.name = pax.get(b"GNU.sparse.name", member.name)
        numbers: list[int] = []
        wanted = 1
        rest = b""
        while len(numbers) < wanted:
            block = self._take(BLOCK, "a sparse file's map")
            self._left -= BLOCK
            member.stored -= BLOCK
            if self._left < 0:
                raise ImageError(f"{shown_name(member.name)}: its map of holes is longer than it")
            *lines, rest = (rest + block).split(b"\n")
            numbers += [_decimal(line) for line in lines[: wanted - len(numbers)]]
            if wanted == 1 and numbers:
                wanted = 1 + 2 * numbers[0]
                _few(range(numbers[0]))
                numbers += [_decimal(line) for line in lines[1:wanted]]
        member.pieces = list(zip(numbers[1::2], numbers[2::2], strict=True))

    def _skip(self) -> None:
        """To the next header."""
        for _ in self.data():
            pass
        if self._padding:
            self._take(self._padding, "the padding of a file")
            self._padding = 0

    def _drain(self) -> None:
        """What follows the end counts for the digest, and for nothing else."""
        self._chunk, self._at = b"", 0
        for _ in self._chunks:
            pass

    def _next(self, what: str) -> None:
        self._chunk, self._at = next(self._chunks, b""), 0
        if not self._chunk:
            raise ImageError(f"truncated: it ends within {what}")

    def _take(self, size: int, what: str, *, optional: bool = False) -> bytes:
        end = self._at + size
        if end <= len(self._chunk):
            data = self._chunk[self._at : end]
            self._at = end
            return data
        parts = [self._chunk[self._at :]]
        missing = size - len(parts[0])
        while missing:
            self._chunk, self._at = next(self._chunks, b""), 0
            if not self._chunk:
                if optional and not any(parts):
                    return b""
                raise ImageError(f"truncated: it ends within {what}")
            self._at = min(missing, len(self._chunk))
            parts.append(self._chunk[: self._at])
            missing -= self._at
        return b"".join(parts)


def check_begin(block: bytes) -> None:
    """Whether an archive can begin with `block`. Raises ImageError as `TarReader` would for it."""
    for _ in TarReader([block]).members() if len(block) < BLOCK else ():
        pass
    if block != _ZEROS:
        _check(block, block[148:156], first=True)


def _check(header: bytes, claimed: bytes, *, first: bool) -> None:
    total = sum(header) - sum(header[148:156]) + 256
    try:
        right = _number(claimed) == total
    except ImageError:
        right = False
    # Old tars summed signed characters: 256 less for each that is above 127.
    if not right and total - 256 * sum(value > 127 for value in header) != _signed(claimed):
        raise ImageError(
            "it is no tar archive, and in none of the compressions gzip, xz, bzip2 and zstd"
            if first
            else "damaged: a header's checksum is wrong"
        )


def _signed(claimed: bytes) -> int | None:
    try:
        return _number(claimed)
    except ImageError:
        return None


def _number(raw: bytes) -> int:
    """Octal, or GNU's base-256."""
    try:
        return int(raw.rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        try:
            return tarfile.nti(raw)  # type: ignore[attr-defined, no-any-return]
        except tarfile.HeaderError as error:
            raise ImageError(f"damaged: {raw!r} in a header is no number") from error


def _decimal(raw: bytes) -> int:
    try:
        value = int(raw)
    except ValueError:
        value = -1
    if value < 0 or len(raw) > 20:
        raise ImageError(f"damaged: {raw[:40]!r} in a header is no number")
    return value


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    r"""``LENGTH KEY=VALUE\n``, LENGTH being that of the whole record."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(content) and content[at]:
        space = content.find(b" ", at, at + 20)
        length = _decimal(content[at:space]) if space > 0 else 0
        record = content[space + 1 : at + length]
        key, sign, value = record.partition(b"=")
        if length <= space - at or not sign or record[-1:] != b"\n" or at + length > len(content):
            raise ImageError("damaged: an extended header can't be read")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # 0.0 repeats them
            records[b"GNU.sparse.map"] = records.get(b"GNU.sparse.map", b"") + value[:-1] + b","
        else:
            records[key] = value[:-1]
        at += length
    return records


def _apply(member: Member, pax: dict[bytes, bytes]) -> None:
    member.name = pax.get(b"path", member.name)
    member.link = pax.get(b"linkpath", member.link)
    if b"size" in pax:
        member.size = member.stored = _decimal(pax[b"size"])
    if b"uid" in pax:
        member.uid = _decimal(pax[b"uid"])
    if b"gid" in pax:
        member.gid = _decimal(pax[b"gid"])
    if b"mtime" in pax:
        whole, _, part = pax[b"mtime"].partition(b".")
        try:
            nanoseconds = int(part[:9].ljust(9, b"0"))
            member.mtime = int(whole or b"0") * 1_000_000_000 + (-nanoseconds if whole.startswith(b"-") else nanoseconds)
        except ValueError:
            raise ImageError(f"damaged: {pax[b'mtime'][:40]!r} in a header is no time") from None
    lost = []
    for key, value in pax.items():
        if key.startswith(_XATTR):
            member.xattrs[key.removeprefix(_XATTR).decode("utf-8", "surrogateescape")] = value
        elif key.startswith(b"SCHILY.acl."):
            lost.append("an access control list as text")
    member.lost = tuple(lost)


def _check_numbers(member: Member) -> None:
    if member.stored < 0 or not (0 <= member.uid < _NO_ID and 0 <= member.gid < _NO_ID) or abs(member.mtime) > _LAST_TIME:
        raise ImageError(f"{shown_name(member.name)}: damaged: its size, owner or time is no number that Linux has")


def _early_sparse(member: Member, pax: dict[bytes, bytes]) -> None:
    """GNU.sparse 0.0 and 0.1: the map is in the extended header."""
    member.size = _decimal(pax.get(b"GNU.sparse.size", pax.get(b"GNU.sparse.realsize", b"")))
    member.name = pax.get(b"GNU.sparse.name", member.name)
    numbers = [_decimal(number) for number in pax.get(b"GNU.sparse.map", b"").split(b",") if number]
    if len(numbers) % 2:
        raise ImageError(f"{shown_name(member.name)}: damaged: its map of holes is cut")
    member.pieces = list(zip(numbers[::2], numbers[1::2], strict=True))


def _piece_numbers(raw: bytes) -> list[tuple[int, int]]:
    return [(_number(raw[at : at + 12]), _number(raw[at + 12 : at + 24])) for at in range(0, len(raw) - 23, 24) if raw[at]]


def _few(pieces: list[tuple[int, int]] | range) -> None:
    if len(pieces) > _MOST_PIECES:
        raise ImageError(f"a sparse file in more than {_MOST_PIECES} pieces")


def _check_pieces(member: Member) -> None:
    """In order, apart, within the file, and as long together as what is stored."""
    assert member.pieces is not None
    member.pieces = [piece for piece in member.pieces if piece[1]]
    end = total = 0
    for offset, length in member.pieces:
        if offset < end or offset + length > member.size:
            raise ImageError(f"{shown_name(member.name)}: damaged: its map of holes contradicts itself")
        end = offset + length
        total += length
    if total != member.stored:
        raise ImageError(
            f"{shown_name(member.name)}: damaged: its map of holes speaks of {total} bytes, {member.stored} are stored"
        )
