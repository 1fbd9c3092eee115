"""What runs of pytest-isolate have left on this machine: processes, cgroups, directories, mounts."""

from __future__ import annotations

import glob
import os
import re
import tempfile

__all__ = ["builder_of", "forwarders_of", "inits_of", "remains_of"]

_RUN = re.compile(r"pytest-isolate-(\d+)-(\d+)-\d+\.(\d+)")
"""As `kernel.cgroup_runs` names them: pid and start time of the process that the run is of, and its PID namespace."""

_PROGRAMS = (b"pytest_isolate.sandbox.builder", b"pytest_isolate.network.forwarder")


def remains_of(pid: int | None) -> set[str]:
    """Everything named after a run of process `pid`, None for any whose process has ended: empty if nothing was left.

    Processes are the builders, forwarders and inits, found by their command lines; zombies aside, which wait for a slow PID 1.
    Others may run suites on the machine at the same time: what belongs to a run that lives isn't left.
    """
    prefix = "pytest-isolate-" + (f"{pid}-" if pid else "")
    found = {**_processes(), **_cgroups(prefix), **_directories(prefix), **_mounts(prefix)}
    return {what for what, run in found.items() if not run or (run.startswith(prefix) and (pid or not _lives(run)))}


def _run_of(path: str) -> str:
    """The name of the run that a path is of; empty: of none."""
    match = _RUN.search(path)
    return match[0] if match else ""


def _lives(run: str) -> bool:
    match = _RUN.fullmatch(run)
    assert match
    if int(match[3]) != os.stat("/proc/self/ns/pid").st_ino:
        return False
    try:
        with open(f"/proc/{match[1]}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19]) == int(match[2])
    except OSError:
        return False


def _processes() -> dict[str, str]:
    """With the run that each is of: its working directory or its cgroups are named after it, or its builder's are."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        pid = int(path.split("/")[2])
        words = _words(pid)
        if words[:1] == [b"pytest-isolate-init"] or any(name in word for word in words for name in _PROGRAMS):
            found[f"process {pid}"] = _run_of_process(pid) or _run_of_process(_parent(pid))
    return found


def _run_of_process(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            return _run_of(os.readlink(f"/proc/{pid}/cwd")) or _run_of(file.read())
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _cgroups(prefix: str) -> dict[str, str]:
    return {
        os.path.join(path, name): _run_of(name)
        for path, names, _files in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith(prefix) and not name.endswith(".scope")
    }


def _directories(prefix: str) -> dict[str, str]:
    return {path: _run_of(path) for folder in {tempfile.gettempdir(), "/tmp"} for path in glob.glob(f"{folder}/{prefix}*")}


def _mounts(prefix: str) -> dict[str, str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return {line.split()[4]: _run_of(line) for line in file if f"/{prefix}" in line}


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
