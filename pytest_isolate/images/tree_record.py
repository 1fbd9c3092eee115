r"""What a layer holds, written down when it is made: a line for each path, and the digest of all lines.

`layers verify` makes the same lines of what lies there now. A line has eight fields separated by tabs: kind (``f`` file, ``d`` directory,
``l`` symbolic link, ``p`` fifo, ``w`` whiteout, ``h`` another name of a file), mode in octal, the image's uid and gid, size, the content
(sha256 of a file, target of a link, first name of a hard-linked file), extended attributes (``NAME=HEX`` joined by ``,``), and the path.
Times are left out: reading alone would change some. Tab, newline, comma, ``=`` and backslash in names are escaped as ``\xNN``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["LABEL", "Entry", "differences", "digest", "lines"]

LABEL: Final = "security.selinux"
"""An extended attribute that is the system's, not the image's: each new file is given one."""

_SPECIAL: Final = re.compile(rb"[\x00-\x1f\\\x7f,=]")
_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(slots=True)
class Entry:
    """
    Attributes:
        kind: one of ``f d l p w``.
        uid, gid: the image's.
        content: of a file its sha256 (raw), of a symbolic link its target.
        identity: the same for all names of one file; 0: it has only one.
        xattrs: overlayfs's own without their ``trusted.`` or ``user.``, so that root and others write the same lines.
    """

    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    content: bytes = b""
    identity: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)


def lines(entries: Mapping[bytes, Entry]) -> Iterator[bytes]:
    """Sorted by path; the root's is ``.``."""
    first: dict[int, bytes] = {}
    for path in sorted(entries):
        entry = entries[path]
        kind, content = entry.kind, entry.content
        if kind == "f":
            content = content.hex().encode()
            if entry.identity and (other := first.setdefault(entry.identity, path)) is not path:
                kind, content = "h", _escape(other)
        elif content:
            content = _escape(content)
        xattrs = b""
        if entry.xattrs:
            pairs = sorted((_escape(name.encode("utf-8", "surrogateescape")), value) for name, value in entry.xattrs.items())
            xattrs = b",".join(name + b"=" + value.hex().encode() for name, value in pairs)
        yield b"%s\t%o\t%d\t%d\t%d\t%s\t%s\t%s\n" % (
            kind.encode(), entry.mode, entry.uid, entry.gid, entry.size, content, xattrs, _escape(path) or b".",
        )  # fmt: skip


def digest(all_lines: Iterable[bytes]) -> str:
    """sha256 of the lines, in hexadecimal."""
    made = hashlib.sha256()
    for line in all_lines:
        made.update(line)
    return made.hexdigest()


_FIELDS: Final = ("kind", "mode", "owner", "group", "size", "content", "extended attributes")


def differences(before: Iterable[bytes], after: Iterable[bytes]) -> Iterator[str]:
    """A sentence for each path that differs, by path: ``etc/passwd: content, size``."""
    old, new = _by_path(before), _by_path(after)
    for path in sorted(old.keys() | new.keys()):
        shown = repr(_ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), path).decode("utf-8", "surrogateescape"))[1:-1]
        if path not in new:
            yield f"{shown}: missing"
        elif path not in old:
            yield f"{shown}: added"
        elif old[path] != new[path]:
            yield f"{shown}: {', '.join(name for name, one, other in zip(_FIELDS, old[path], new[path], strict=True) if one != other)}"


def _by_path(some: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    found = {}
    for line in some:
        *fields, path = line.rstrip(b"\n").split(b"\t")
        found[path] = fields
    return found


def _escape(name: bytes) -> bytes:
    return _SPECIAL.sub(lambda found: b"\\x%02x" % found[0][0], name) if _SPECIAL.search(name) else name
