"""What a root file system is made of: the forms that ``rootfs=`` takes, and what they come to on this machine.

A `Source` is what somebody named. A `Stack` is what the layer store makes of it: directories that overlayfs stacks.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

__all__ = ["ARCHIVES", "Code", "ImageConfig", "Kind", "Source", "Stack"]

Kind = Literal["host", "directory", "oci", "docker-archive", "tarball", "layer", "recipe", "fixture"]

ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2")
"""How the name of a root file system's tarball ends."""


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of ``rootfs=``.

    Attributes:
        kind: ``host``; a ``directory`` that is a root file system or a layer of one; an ``oci`` image layout (a directory or a tar of it);
            a ``docker-archive`` (``docker save``); a ``tarball``; a ``layer`` of the store, by name; a ``recipe`` for a layer, which is
            made when it is needed; a ``fixture``, whose value is one of the others.
        path: of it, absolute; of a layer, recipe or fixture: its name. Empty for the host.
        tag: which image of a layout or archive; empty: the only one.
    """

    kind: Kind
    path: str = ""
    tag: str = ""

    def __str__(self) -> str:
        prefix = "" if self.kind in ("host", "directory", "tarball") else f"{self.kind}:"
        return f"{prefix}{self.path or self.kind}{f':{self.tag}' if self.tag else ''}"

    @classmethod
    def read(cls, text: str, base: str) -> Self:
        """From what was typed.

        Args:
            base: the directory that relative paths start at.

        Raises:
            ValueError: it is none of the forms.
        """
        if text == "host":
            return cls("host")
        for kind in ("oci", "docker-archive", "layer", "fixture"):
            if text.startswith(f"{kind}:"):
                rest = text.removeprefix(f"{kind}:")
                path, tag = (rest, "") if kind in ("layer", "fixture") else _without_tag(rest, base)
                if not path:
                    raise ValueError(f"{text!r} names nothing")
                return cls(kind, path, tag)
        if not text or "\0" in text:
            raise ValueError(f"{text!r} is not a path")
        path = _absolute(text, base)
        return cls("tarball" if path.endswith(ARCHIVES) and not os.path.isdir(path) else "directory", path)


def _absolute(path: str, base: str) -> str:
    return os.path.normpath(os.path.join(base, os.path.expanduser(path)))


def _without_tag(text: str, base: str) -> tuple[str, str]:
    """PATH[:TAG], where both may have colons and slashes: the longest path that exists, else what is before the last colon."""
    parts = text.split(":") if text else []
    for count in range(len(parts), 0, -1):
        path = _absolute(":".join(parts[:count]), base)
        if os.path.lexists(path):
            return path, ":".join(parts[count:])
    path, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        path, tag = text, ""
    return _absolute(path, base) if path else "", tag


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of its processes. Source: OCI image-spec, config.md.

    Attributes:
        env: variables, in the image's order.
        user: ``name``, ``uid``, ``name:group`` or ``uid:gid``; empty: root.
        working_dir: absolute; empty: ``/``.
        entrypoint, cmd: the default command, in two parts.
    """

    env: tuple[tuple[str, str], ...] = ()
    user: str = ""
    working_dir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(
            tuple((name, value) for name, value in data["env"]),
            data["user"],
            data["working_dir"],
            tuple(data["entrypoint"]),
            tuple(data["cmd"]),
        )


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers, ready to be mounted.

    Attributes:
        directories: absolute, bottom to top, in overlayfs's format (whiteouts as character devices 0/0; ``trusted.overlay.*`` in
            those of root, ``user.overlay.*`` in those of others).
        host: the host's own tree lies below them.
        config: the topmost image's.
        notes: what differs from the source (devices left out, owners squashed), a sentence each.
    """

    directories: tuple[str, ...] = ()
    host: bool = True
    config: ImageConfig | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        config = ImageConfig.from_json(data["config"]) if data["config"] else None
        return cls(tuple(data["directories"]), data["host"], config, tuple(data["notes"]))


@dataclass(frozen=True, slots=True)
class Code:
    """What of the host a test needs in a foreign root, at its own paths.

    Attributes:
        trees: read-only: the interpreter, its modules, the packages.
        projects: what tests may write to, to be thrown away: the directories of pytest's rootdir and working directory.
        runtime: a directory below all layers: shared libraries that the image may lack, links to the interpreter.
    """

    trees: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    runtime: str = ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(tuple(data["trees"]), tuple(data["projects"]), data["runtime"])
