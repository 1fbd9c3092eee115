"""Cgroup v1, also as the v1 half of a hybrid host: one directory per sandbox in each controller's hierarchy.

Kernel documents: Documentation/admin-guide/cgroup-v1/{cgroups,memory,blkio-controller,pids,cpuacct}.rst and
Documentation/scheduler/sched-bwc.rst. Reading figures is `cgroup_v1_usage`, names and removal `cgroup_runs`.

Left alone: the freezer (a frozen init can't be killed), `cpuset`, `devices`, kmem limits. Ending processes is
the PID namespace's affair.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final

from pytest_isolate.kernel.block import mounted_disks
from pytest_isolate.kernel.cgroup_mounts import V1_NAMES, Place
from pytest_isolate.kernel.cgroup_runs import remove_tree
from pytest_isolate.kernel.cgroup_types import Caps, Group, IoCap
from pytest_isolate.model.errors import MissingCapability, SetupError
from pytest_isolate.model.units import format_size

__all__ = ["V1Hierarchy", "join"]

PERIOD_US: Final = 100_000

_KERNEL_NAME: Final = {"cpu": "cpu", "memory": "memory", "pids": "pids", "io": "blkio"}
"""Ours, which are those of v2, to v1's. `cpuacct` only counts, so it isn't among what can be capped."""

_CAP_FILE: Final = {
    "cpu": ("cpu.cfs_quota_us", "CONFIG_CFS_BANDWIDTH"),
    "memory": ("memory.limit_in_bytes", "CONFIG_MEMCG_V1"),
    "pids": ("pids.max", "CONFIG_CGROUP_PIDS"),
    "blkio": ("blkio.throttle.write_bps_device", "CONFIG_BLK_DEV_THROTTLING"),
}


def write(path: str, text: str) -> None:
    """One write(2) of `text` to an existing file. Raises OSError naming it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def read(path: str) -> str:
    """The text of a cgroup file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


class V1Hierarchy:
    """The v1 hierarchies that the caller can make directories in. Implements `cgroup_types.Hierarchy`.

    Args:
        places: the caller's own or delegated directory by kernel controller name; see `cgroup_mounts.place_of`.
        hand_over: the remedy where a directory can't be found or written: `cgroup_mounts.delegation_hint`.
    """

    def __init__(self, layout: str, places: dict[str, Place], hand_over: str) -> None:
        self.layout: Final = layout
        self._hand_over: Final = hand_over
        self._bases: dict[str, str] = {}
        self._why: dict[str, tuple[str, str]] = {}
        for name, place in places.items():
            if refusal := (place.why, place.hint) if place.why else _refusal(place.directory):
                self._why[name] = refusal[0], refusal[1] or hand_over
            else:
                self._bases[name] = place.directory
        self._run: dict[str, str] = {}
        self._io_counted = False

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(name for name, kernel_name in _KERNEL_NAME.items() if kernel_name not in self._why)

    @property
    def lacking(self) -> dict[str, MissingCapability]:
        return {
            f"cgroup-{name}": MissingCapability(f"cgroup-{name}", [], *self._why[kernel_name])
            for name, kernel_name in _KERNEL_NAME.items()
            if kernel_name in self._why
        }

    @property
    def run_directories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._run.values()))

    @property
    def bases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._bases.values()))

    def create_run(self, name: str) -> None:
        for controller, base in self._bases.items():
            directory = f"{base}/{name}"
            try:
                os.mkdir(directory)
            except FileExistsError:  # the other one of co-mounted cpu and cpuacct
                pass
            except OSError as error:
                self._why[controller] = f"mkdir {directory}: {error.strerror}", self._hand_over
                continue
            self._run[controller] = directory
            file, config = _CAP_FILE.get(controller, ("", ""))
            if file and not os.path.exists(f"{directory}/{file}"):
                why = f"{directory} has no {file}: this kernel was built without {config}"
                self._why[controller] = why, f"boot a kernel with {config}=y, or leave the cap out"
        if "blkio" in self._run:
            self._io_counted = activate_io_counters(self._run["blkio"])

    def create(self, box: str, caps: Caps) -> Group:
        if error := self.missing(caps):
            raise error
        run = os.path.basename(next(iter(self._run.values()), ""))
        directories = tuple((name, f"{self._run[name]}/{box}") for name in V1_NAMES if name in self._run)
        group = Group(box, run, directories, self._io_counted)
        made: list[str] = []
        try:
            for directory in group.directories():
                os.mkdir(directory)
                made.append(directory)
            _set_caps(dict(group.v1), caps)
        except OSError as refused:
            _remove(made)
            raise SetupError.from_os_error("set up cgroup", refused, hint=_create_hint(refused, caps)) from None
        return group

    def missing(self, caps: Caps) -> MissingCapability | None:
        for name, keys in caps.needs().items():
            if (kernel_name := _KERNEL_NAME[name]) in self._why:
                return MissingCapability(f"cgroup-{name}", keys, *self._why[kernel_name])
        memory = self._run.get("memory", "")
        if caps.swap and memory and not os.path.exists(f"{memory}/memory.memsw.limit_in_bytes"):
            why = f"{memory} has no memory.memsw.limit_in_bytes: the kernel doesn't account swap"
            hint = "boot with swapaccount=1, or leave swap out (0 works)"
            return MissingCapability("cgroup-swap", ["swap"], why, hint)
        return None

    def remove(self, group: Group) -> bool:
        return _remove(group.directories())

    def remove_run(self) -> bool:
        return _remove(self.run_directories)


def _refusal(directory: str) -> tuple[str, str] | None:
    """Why no directory can be made in `directory`, and the remedy (empty: have one handed over); None if it can."""
    try:
        read_only = bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError as error:
        return f"{directory}: {error.strerror}", "run pytest from a cgroup that its mounts show and that still exists"
    if read_only:
        return f"{directory} is mounted read-only", "in a container, make it writable: docker run --privileged, or a volume"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"{directory} can't be written by user {os.geteuid()}", ""
    return None


def _remove(directories: Iterable[str]) -> bool:
    """Every directory is tried, also behind a busy one."""
    removed = [remove_tree(directory) for directory in directories]
    return all(removed)


def activate_io_counters(blkio: str) -> bool:
    """Have the kernel count the block I/O of the groups below `blkio`; False if it counts none.

    `blkio.throttle.io_service_bytes` stays 0 for disks that no throttle was ever set on: since Linux 6.10
    (blk-throttle: delay initialization until configuration) the policy starts with a disk's first setting, and
    then stays. Setting "no limit" is enough, and changes nothing else.
    """
    counted = False
    for major, minor in mounted_disks():
        try:
            write(f"{blkio}/blkio.throttle.read_bps_device", f"{major}:{minor} 0")
        except OSError:  # ENODEV: a network or virtual file system whose number isn't a disk's
            continue
        counted = True
    return counted


def _set_caps(directories: dict[str, str], caps: Caps) -> None:
    if caps.cpu is not None:
        _cap_cpu(directories["cpu"], caps.cpu)
    if caps.memory is not None:
        _cap_memory(directories["memory"], caps.memory, caps.swap or 0)
    if caps.pids is not None:
        write(f"{directories['pids']}/pids.max", str(caps.pids))
    for cap in caps.io:
        _cap_io(directories["blkio"], cap)


def _cap_cpu(directory: str, cpus: float) -> None:
    """CFS quota. v1 refuses one above an ancestor's with EINVAL; then the ancestor's caps already, and more."""
    write(f"{directory}/cpu.cfs_period_us", str(PERIOD_US))
    try:
        write(f"{directory}/cpu.cfs_quota_us", str(round(cpus * PERIOD_US)))
    except OSError as error:
        if error.errno != errno.EINVAL or not _caps_already(os.path.dirname(directory), cpus):
            raise


def _caps_already(directory: str, cpus: float) -> bool:
    """Whether `directory` or one above it has a CPU quota below `cpus`. The hierarchy's root has no such file."""
    while os.path.exists(f"{directory}/cpu.cfs_quota_us"):
        quota = int(read(f"{directory}/cpu.cfs_quota_us"))
        if 0 < quota < cpus * int(read(f"{directory}/cpu.cfs_period_us")):
            return True
        directory = os.path.dirname(directory)
    return False


def _cap_memory(directory: str, memory: int, swap: int) -> None:
    """Memory, and memory plus swap, which the kernel keeps in this order: limit_in_bytes <= memsw.limit_in_bytes.

    So lowering sets the first one first (a new group has no limits), raising the second one. Without swap
    accounting `memory.swappiness` 0 keeps a group's pages from being swapped for its own limit (vmscan.c,
    get_scan_count), which is what swap=0 means.
    """
    total = f"{directory}/memory.memsw.limit_in_bytes"
    settings = [(f"{directory}/memory.limit_in_bytes", memory), (total, memory + swap)]
    if not os.path.exists(total):
        settings = [settings[0], (f"{directory}/memory.swappiness", 0)]
    elif int(read(total)) < memory:
        settings.reverse()
    for path, value in settings:
        write(path, str(value))


def _cap_io(directory: str, cap: IoCap) -> None:
    for name, rate in (("read", cap.read), ("write", cap.write)):
        if rate is not None:
            write(f"{directory}/blkio.throttle.{name}_bps_device", f"{cap.major}:{cap.minor} {rate}")


def join(group: Group) -> None:
    """Move the calling thread, which must be its process's only one, into `group`.

    Written is `0`, the writer itself, and to `tasks` rather than `cgroup.procs`: a thread that moves only itself
    needs no write lock of cgroup_threadgroup_rwsem (kernel/cgroup/cgroup.c, cgroup_procs_write_start; Michal
    Koutny, "cgroup: Optimize single thread migration", Linux 5.5), whose taking waits for an RCU grace period:
    after 100 ms of quiet 0.24 ms here instead of 5.7 ms.

    Raises:
        SetupError: with the file, the errno and the remedy.
    """
    for directory in group.directories():
        try:
            write(f"{directory}/tasks", "0")
        except OSError as error:
            raise SetupError.from_os_error("join cgroup", error, hint=_JOIN_HINTS.get(error.errno or 0, "")) from None


_JOIN_HINTS: Final = {
    errno.ENOENT: "the sandbox was removed meanwhile; if something else cleans up cgroups here, exclude pytest-isolate-*",
    errno.EACCES: "tasks must be writable by the user that runs pytest: hand over a directory (chown) and name it with "
    "--isolate-cgroup=PATH",
    errno.EINVAL: "a real-time process can't join a cgroup without real-time budget: run pytest under chrt --other 0",
}


def _create_hint(error: OSError, caps: Caps) -> str:
    name = os.path.basename(str(error.filename or ""))
    if name.startswith("memory.") and caps.memory is not None:
        return f"the kernel refused memory={format_size(caps.memory)}: see the limits of the cgroups above"
    if name.startswith("blkio."):
        return 'the device can\'t be throttled: name a path on a disk in io={"path": "…"}'
    if name.startswith("cpu."):
        return "the quota must be at least 1 ms and no more than that of the cgroups above"
    return "the run's cgroup was removed or taken away; run again" if error.errno == errno.ENOENT else ""
