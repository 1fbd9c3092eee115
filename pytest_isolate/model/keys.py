"""The table of spec keys: how each is spelt, read, explained. Marker, command line, ini, `run` and the
reference page are all made from it, so that they can't disagree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.spec import IoLimit
from pytest_isolate.model.units import (
    CPU_FORM,
    DURATION_FORM,
    RATE_FORM,
    SIZE_FORM,
    parse_cpu,
    parse_duration,
    parse_rate,
    parse_size,
)

__all__ = ["KEYS", "Key", "parse_key", "parse_keys"]

Parser = Callable[[Any, str], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One spec key.

    Attributes:
        name: as typed in the marker; ``--isolate-NAME`` and ``isolate_NAME`` elsewhere.
        parse: from what was typed and the directory that relative paths start at; raises ValueError.
        accepted: the accepted form, for errors and the reference.
        default: the default, for the reference.
        docker: Docker's name for it, empty if Docker has none.
        help: one line.
        text: from an option's or ini value's text to what `parse` takes; None: the text as it is.
        many: given more than once on the command line, a list of paths or lines in ini.
        everywhere: False: makes sense in a marker or profile only.
    """

    name: str
    parse: Parser
    accepted: str
    default: str
    docker: str
    help: str
    text: Callable[[str], Any] | None = None
    many: str = ""
    everywhere: bool = True


def _plain(parse: Callable[[Any], Any]) -> Parser:
    return lambda value, _base: parse(value)


def _choice(*choices: str) -> Parser:
    def parse(value: Any, _base: str) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError(f"{value!r} is not one of them")

    return parse


def _pids(value: Any, _base: str) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"{value!r} is not a whole number")
    if number < 1:
        raise ValueError(f"{value!r} leaves no task for the test itself")
    return number


def _disk(value: Any, _base: str) -> int:
    size = parse_size(value)
    if size < 65536:
        raise ValueError(f"{value!r} has no room for the writable layer's own directories (64 KiB)")
    return size


def _memory(value: Any, _base: str) -> int:
    size = parse_size(value)
    if size < 1 << 20:
        raise ValueError(f"{value!r} is less than 1 MiB: no process would start")
    return size


def _io(value: Any, base: str) -> IoLimit:
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not a mapping")
    unknown = sorted(set(value) - {"read", "write", "path"}, key=str)
    if unknown:
        raise ValueError(f"unknown entry {unknown[0]!r}")
    if not {"read", "write"} & set(value):
        raise ValueError("neither 'read' nor 'write' given")
    limits = {name: parse_rate(value[name]) for name in ("read", "write") if name in value}
    return IoLimit(**limits, path=_path(value["path"], base) if "path" in value else None)


def _path(value: Any, base: str) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{value!r} is not a path")
    path = os.fspath(value)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(f"{value!r} is not a path")
    return os.path.normpath(os.path.join(base, os.path.expanduser(path)))


def _paths(value: Any, base: str) -> tuple[str, ...]:
    if isinstance(value, (str, os.PathLike)) or not isinstance(value, Sequence):
        raise ValueError(f"{value!r} is not a list")
    return tuple(dict.fromkeys(_path(path, base) for path in value))


def _env(value: Any, _base: str) -> tuple[tuple[str, str | None], ...]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not a mapping")
    for name, content in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} can't be a variable's name")
        if content is not None and (not isinstance(content, str) or "\0" in content):
            raise ValueError(f"{name}={content!r} is not a string")
    return tuple(sorted(value.items()))


def _hostname(value: Any, _base: str) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", value, re.ASCII):
        return value
    raise ValueError(f"{value!r} is not a host name")


def _user(value: Any, _base: str) -> str | int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if value in ("self", "root") and isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1:
        return value
    raise ValueError(f"{value!r} is not one of them")


def _timeout(value: Any, _base: str) -> float:
    return parse_duration(value)


def _assignments(text: str) -> dict[str, str]:
    """``read=10MB/s,write=5MB/s`` as a mapping. Raises ValueError."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(sign for _, sign, _ in pairs):
        raise ValueError(f"{text!r} is not NAME=VALUE,…")
    return {name.strip(): value.strip() for name, _, value in pairs}


_TABLE: Final = (
    Key("cpu", _plain(parse_cpu), CPU_FORM, "no cap", "--cpus", "cap on CPU time (CFS quota)"),
    Key("memory", _memory, SIZE_FORM + ", at least 1 MiB", "no cap", "--memory", "cap on memory: heap touched, page cache, tmpfs"),
    Key("swap", _plain(parse_size), SIZE_FORM, "0 beside memory", "--memory-swap", "swap allowed on top of memory"),
    Key("pids", _pids, "whole number, at least 1", "no cap", "--pids-limit", "cap on processes and threads"),
    Key("disk", _disk, SIZE_FORM + ", at least 64 KiB", "half of the RAM", "--storage-opt size=", "size of the writable layer"),
    Key("io", _io, f'{{"read": RATE, "write": RATE, "path": PATH}}, RATE in {RATE_FORM}', "no cap",
        "--device-read-bps, --device-write-bps", "throttle of the device that holds PATH (default: the working directory)",
        text=_assignments),
    Key("net", _choice("none", "host"), '"none" or "host"', '"none"', "--network", "network mode"),
    Key("timeout", _timeout, DURATION_FORM, "no limit", "", "limit on the time inside the sandbox, set-up and teardown included"),
    Key("rootfs", _choice("host"), '"host"', '"host"', "IMAGE", "what the root file system is made of"),
    Key("writable", _paths, "list of paths", "nothing", "--volume", "host paths passed through read-write", many="paths"),
    Key("hide", _paths, "list of paths", "nothing", "--tmpfs", "paths that are empty inside", many="paths"),
    Key("env", _env, 'mapping of names to strings, None to unset: {"TZ": "UTC"}', "as in pytest", "--env",
        "environment variables", many="lines"),
    Key("hostname", _hostname, "letters, digits, '-' and '.', at most 64", "the host's", "--hostname", "host name"),
    Key("user", _user, '"self", "root" or a user id', '"self"', "--user", "who the test runs as"),
    Key("fixtures", _choice("shared", "inside"), '"shared" or "inside"', '"shared"', "",
        "where fixtures wider than function scope are set up"),
    Key("leak", _choice("report", "fail"), '"report" or "fail"', '"report"', "", "what processes left behind do to the test"),
)  # fmt: skip

KEYS: Final[Mapping[str, Key]] = {key.name: key for key in _TABLE}


def parse_key(name: str, value: Any, base: str, *, text: bool = False) -> Any:
    """The checked value of one key.

    Args:
        name: a name in `KEYS`.
        value: what was typed: an object, or with `text` an option's or ini value (a list of them where `many`).
        base: the directory that relative paths start at.

    Raises:
        SpecError: without a place.
    """
    key = KEYS[name]
    try:
        if text and key.many == "lines":
            value = _env_lines(value)
        elif text and key.text:
            value = key.text(value)
        return key.parse(value, base)
    except ValueError as error:
        raise SpecError(name, str(error), key.accepted) from None


def _env_lines(lines: Sequence[str]) -> dict[str, str]:
    for line in lines:
        if "=" not in line:
            raise ValueError(f"{line!r} is not NAME=VALUE")
    return dict(line.split("=", 1) for line in lines)


def parse_keys(values: Mapping[str, Any], base: str, place: str, *, text: bool = False) -> tuple[dict[str, Any], list[SpecError]]:
    """All keys of one place: the checked values, and every error found, each with the place."""
    checked: dict[str, Any] = {}
    errors: list[SpecError] = []
    for name, value in values.items():
        if name not in KEYS:
            errors.append(SpecError(name, "no such key", ", ".join(KEYS), place))
            continue
        try:
            checked[name] = parse_key(name, value, base, text=text)
        except SpecError as error:
            errors.append(error.at(place))
    return checked, errors
