"""What runs of pytest-isolate have left on this machine: cgroups, directories, mounts; and which processes are theirs."""

from __future__ import annotations

import glob
import os
import tempfile

__all__ = ["builder_of", "forwarders_of", "inits_of", "remains_of"]


def remains_of(pid: int) -> set[str]:
    """Everything but processes that is named after a run of process `pid`: empty if nothing was left."""
    prefix = f"pytest-isolate-{pid}-"
    return _cgroups(prefix) | _directories(prefix) | _mounts(prefix)


def _cgroups(prefix: str) -> set[str]:
    return {
        os.path.join(path, name)
        for path, names, _files in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith(prefix) and not name.endswith(".scope")
    }


def _directories(prefix: str) -> set[str]:
    return {path for folder in {tempfile.gettempdir(), "/tmp"} for path in glob.glob(f"{folder}/{prefix}*")}


def _mounts(prefix: str) -> set[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return {line.split()[4] for line in file if f"/{prefix}" in line}


def builder_of(pid: int) -> list[int]:
    """The builders that process `pid` started."""
    return [child for child in _children(pid) if any(b"pytest_isolate.sandbox.builder" in word for word in _words(child))]


def forwarders_of(pid: int) -> list[int]:
    """The forwarders that process `pid` started."""
    return [child for child in _children(pid) if any(b"pytest_isolate.network.forwarder" in word for word in _words(child))]


def inits_of(pid: int) -> list[int]:
    """The inits of the builders of process `pid`."""
    return [child for builder in builder_of(pid) for child in _children(builder) if _words(child)[:1] == [b"pytest-isolate-init"]]


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _words(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []
