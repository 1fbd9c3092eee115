"""The last report of this boot, kept for those who can't wait for an examination.

In ``$XDG_CACHE_HOME/pytest-isolate`` or ``~/.cache/pytest-isolate``; where that can't be written there is no cache, and nothing
is said. A report counts as long as what decided it is the same: boot, user, version, cgroup, namespaces, and every fact of
`Machine`. A file of somebody else's, or one that others may write, is never read.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytest_isolate.probe.capability import Report

__all__ = ["cache_path", "key_of", "known_refusal", "load", "store"]

_NAMESPACES: Final = ("user", "pid", "mnt", "net", "uts", "ipc", "cgroup")
_LARGEST: Final = 1 << 20


def cache_path() -> str:
    """Where it is kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of base directories wants relative paths ignored.
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "pytest-isolate", "doctor.json")


def store(report: Report, key: dict[str, Any]) -> None:
    """Keep `report`, replacing another one whole.

    Args:
        key: `key_of` before the examination, which may move the process to another cgroup.
    """
    path = cache_path()
    data = json.dumps({"key": key, "report": report.to_json()})
    with suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd, half = tempfile.mkstemp(dir=os.path.dirname(path), prefix="doctor-")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(data)
            os.replace(half, path)
        except OSError:
            os.unlink(half)
            raise


def load(delegated: str | None = None) -> Report | None:
    """The report that holds for the caller now; None where there is none."""
    if (data := _read()) is None:
        return None
    return _report(data, delegated)


def known_refusal(delegated: str | None = None) -> Report | None:
    """A report that says that nothing can be isolated; None where that isn't known. Costs one small file where all is well."""
    data = _read()
    if data is None or not isinstance(data.get("report"), dict) or data["report"].get("ready") is not False:
        return None
    return _report(data, delegated)


def _report(data: dict[str, Any], delegated: str | None) -> Report | None:
    from pytest_isolate.probe.capability import Report

    try:
        return Report.from_json(data["report"]) if data["key"] == key_of(delegated) else None
    except (KeyError, TypeError, ValueError):
        return None


def _read() -> dict[str, Any] | None:
    try:
        fd = os.open(cache_path(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        mine = status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode) and not status.st_mode & 0o022
        if not mine or status.st_size > _LARGEST:
            return None
        try:
            data = json.loads(file.read())
        except ValueError:
            return None
    return data if isinstance(data, dict) else None


def key_of(delegated: str | None = None) -> dict[str, Any]:
    """Everything that a report depends on, as JSON gives it back.

    Args:
        delegated: ``--isolate-cgroup``.
    """
    from pytest_isolate import __version__
    from pytest_isolate.machine.reading import read_machine

    key = {
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "uid": os.geteuid(),
        "version": __version__,
        "cgroup": _text("/proc/self/cgroup"),
        "delegated": delegated,
        "namespaces": [_link(f"/proc/self/ns/{name}") for name in _NAMESPACES],
        "machine": read_machine().to_json(),
    }
    same: dict[str, Any] = json.loads(json.dumps(key))
    return same


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
