"""Reading spec values: from what was typed under a name of `keys.KEYS` to what `Spec` holds.

Values come as Python or TOML objects (marker, profile) or as text (command line, ini; with `text=True`). Relative
paths start at a directory that the caller names, because it depends on where they were typed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from pytest_isolate.model.budget import parse_budget
from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.image import Source
from pytest_isolate.model.keys import KEYS
from pytest_isolate.model.parse_net import net_text, parse_bandwidth, parse_net, parse_publish, quality_text
from pytest_isolate.model.spec import IoLimit
from pytest_isolate.model.units import (
    assignment,
    entries_of,
    parse_cpu,
    parse_duration,
    parse_rate,
    parse_size,
    shown,
    whole_number,
)

__all__ = ["parse_key", "parse_keys"]

_PIDS_MAX: Final = 4194304
"""PID_MAX_LIMIT of 64-bit kernels (include/linux/threads.h): pids.max refuses more."""


def parse_key(name: str, value: Any, base: str, *, text: bool = False) -> Any:
    """The checked value of one key.

    Args:
        name: a name in `KEYS`.
        value: what was typed: an object, or with `text` an option's or ini value (a list of them where `Key.many`).
        base: the directory that relative paths start at.

    Raises:
        SpecError: without a place.
    """
    try:
        if text:
            value = _from_text(name, value)
        return _PARSERS[name](value, base)
    except ValueError as error:
        raise SpecError(name, str(error), KEYS[name].form(text=text)) from None


def parse_keys(
    values: Mapping[str, Any], base: str, place: str, *, text: bool = False, also: Iterable[str] = ()
) -> tuple[dict[str, Any], list[SpecError]]:
    """All keys of one place: the checked values, and every error found, each with the place.

    Args:
        also: names that the place accepts beside `KEYS`, for the error that lists them; their values aren't read here.
    """
    checked: dict[str, Any] = {}
    errors: list[SpecError] = []
    for name, value in values.items():
        if name not in KEYS:
            errors.append(SpecError(name, "no such key", ", ".join((*KEYS, *also)), place))
            continue
        try:
            checked[name] = parse_key(name, value, base, text=text)
        except SpecError as error:
            errors.append(error.at(place))
    return checked, errors


def _from_text(name: str, value: Any) -> Any:
    if name == "env":
        return dict(assignment(line) for line in value)
    if name in ("io", "budget"):
        return entries_of(str(value))
    if name == "net":
        return net_text(str(value))
    if name == "bandwidth":
        return quality_text(str(value))
    return value


def _choice(*choices: str) -> Callable[[Any, str], str]:
    def parse(value: Any, _base: str) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError(f"{shown(value)} is not accepted")

    return parse


def _pids(value: Any, _base: str) -> int:
    number = whole_number(value)
    if number is None:
        raise ValueError(f"{shown(value)} is not a whole number")
    if number < 1:
        raise ValueError(f"{shown(value)} leaves no task for the test itself")
    if number > _PIDS_MAX:
        raise ValueError(f"{shown(value)} is more than Linux can have ({_PIDS_MAX})")
    return number


def _disk(value: Any, _base: str) -> int:
    size = parse_size(value)
    if size < 65536:
        raise ValueError(f"{shown(value)} has no room for the writable layer's own directories (64 KiB)")
    return size


def _memory(value: Any, _base: str) -> int:
    size = parse_size(value)
    if size < 1 << 20:
        raise ValueError(f"{shown(value)} is less than 1 MiB: no process would start")
    return size


def _io(value: Any, base: str) -> IoLimit:
    if not isinstance(value, Mapping):
        raise ValueError(f"{shown(value)} is not a mapping")
    unknown = sorted(set(value) - {"read", "write", "path"}, key=str)
    if unknown:
        raise ValueError(f"unknown entry {shown(unknown[0])}")
    if not {"read", "write"} & set(value):
        raise ValueError("neither 'read' nor 'write' given")
    limits = {}
    for name in ("read", "write"):
        if name in value:
            try:
                limits[name] = parse_rate(value[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return IoLimit(**limits, path=_path(value["path"], base) if "path" in value else None)


def _path(value: Any, base: str) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{shown(value)} is not a path")
    path = os.fspath(value)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(f"{shown(value)} is not a path")
    path = os.path.normpath(os.path.join(base, os.path.expanduser(path)))
    # POSIX lets "//x" be something else than "/x", so normpath keeps it; on Linux it is the same.
    return "/" + path.lstrip("/") if path.startswith("//") else path


def _paths(value: Any, base: str) -> tuple[str, ...]:
    if isinstance(value, (str, os.PathLike)) or not isinstance(value, Sequence):
        raise ValueError(f"{shown(value)} is not a list")
    return tuple(dict.fromkeys(_path(path, base) for path in value))


def _rootfs(value: Any, base: str) -> tuple[Source, ...]:
    entries = [value] if isinstance(value, (str, os.PathLike, Source)) or hasattr(value, "isolate_source") else value
    if not isinstance(entries, Sequence) or not entries:
        raise ValueError(f"{shown(value)} is neither a path nor a list")
    sources = [_source(entry, base) for entry in entries]
    for place, source in enumerate(sources):
        if source.kind == "host" and place:
            raise ValueError('"host" can only be at the bottom, the first of the list')
    return () if [source.kind for source in sources] == ["host"] else tuple(sources)


def _source(entry: Any, base: str) -> Source:
    source = getattr(entry, "isolate_source", entry)
    if isinstance(source, Source):
        return source
    text = os.fspath(entry) if isinstance(entry, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise ValueError(f"{shown(entry)} is not a path")
    return Source.read(text, base)


def _env(value: Any, _base: str) -> tuple[tuple[str, str | None], ...]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{shown(value)} is not a mapping")
    for name, content in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"{shown(name)} can't be a variable's name")
        if content is not None and (not isinstance(content, str) or "\0" in content):
            raise ValueError(f"{name}={shown(content)} is not a string")
    return tuple(sorted(value.items()))


def _hostname(value: Any, _base: str) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", value, re.ASCII):
        return value
    raise ValueError(f"{shown(value)} is not a host name")


def _user(value: Any, _base: str) -> str | int:
    if isinstance(value, str) and value in ("self", "root"):
        return value
    number = whole_number(value)
    if number is not None and 0 <= number < 2**32 - 1:
        return number
    raise ValueError(f"{shown(value)} is not accepted")


_PARSERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "cpu": lambda value, _base: parse_cpu(value),
    "memory": _memory,
    "swap": lambda value, _base: parse_size(value),
    "pids": _pids,
    "disk": _disk,
    "io": _io,
    "net": lambda value, _base: parse_net(value),
    "publish": lambda value, _base: parse_publish(value),
    "bandwidth": lambda value, _base: parse_bandwidth(value),
    "forward": _choice("fixtures", "none"),
    "timeout": lambda value, _base: parse_duration(value),
    "rootfs": _rootfs,
    "upper": _choice("tmpfs", "disk"),
    "writable": _paths,
    "hide": _paths,
    "inputs": _paths,
    "env": _env,
    "hostname": _hostname,
    "user": _user,
    "fixtures": _choice("shared", "inside"),
    "leak": _choice("report", "fail"),
    "budget": lambda value, _base: parse_budget(value),
}
