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
from contextlib import suppress
from typing import Final

from pytest_isolate.kernel.block import mounted_disks
from pytest_isolate.kernel.cgroup_files import read, write
from pytest_isolate.kernel.cgroup_files import refusal as refused_because
from pytest_isolate.kernel.cgroup_mounts import V1_NAMES, Place
from pytest_isolate.kernel.cgroup_runs import remove_tree
from pytest_isolate.kernel.cgroup_types import Caps, Group, IoCap
from pytest_isolate.model.errors import MissingCapability, SetupError
from pytest_isolate.model.units import format_size

__all__ = ["V1Hierarchy"]

PERIOD_US: Final = 100_000

_KERNEL_NAME: Final = {"cpu": "cpu", "memory": "memory", "pids": "pids", "io": "blkio"}
"""Ours, which are those of v2, to v1's. `cpuacct` only counts, so it isn't among what can be capped."""

_CAP_FILE: Final = {
    "cpu": ("cpu.cfs_quota_us", "CONFIG_CFS_BANDWIDTH"),
    "memory": ("memory.limit_in_bytes", "CONFIG_MEMCG_V1"),
    "pids": ("pids.max", "CONFIG_CGROUP_PIDS"),
    "blkio": ("blkio.throttle.write_bps_device", "CONFIG_BLK_DEV_THROTTLING"),
}


class V1Hierarchy:
    """The v1 hierarchies that the caller can make directories in. Implements `cgroup_types.Hierarchy`.

    Args:
        places: the caller's own or delegated directory by kernel controller name, of those that are on v1; see
            `cgroup_mounts.place_of`.
        hand_over: the remedy where a directory can't be found or written: `cgroup_mounts.delegation_hint`.
    """

    def __init__(self, places: dict[str, Place], hand_over: str) -> None:
        self._names: Final = {name: kernel_name for name, kernel_name in _KERNEL_NAME.items() if kernel_name in places}
        self._hand_over: Final = hand_over
        self._bases: dict[str, str] = {}
        self._why: dict[str, tuple[str, str]] = {}
        for name, place in places.items():
            if refusal := (place.why, place.hint) if place.why else refused_because(place.directory):
                self._why[name] = refusal[0], refusal[1] or hand_over
            else:
                self._bases[name] = place.directory
        self._run: dict[str, str] = {}
        self._io_counted = False
        self._entered = False

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(name for name, kernel_name in self._names.items() if kernel_name not in self._why)

    @property
    def lacking(self) -> dict[str, MissingCapability]:
        return {
            f"cgroup-{name}": MissingCapability(f"cgroup-{name}", [], *self._why[kernel_name])
            for name, kernel_name in self._names.items()
            if kernel_name in self._why
        }

    @property
    def run_directories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._run.values()))

    @property
    def unified(self) -> bool:
        return False

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
            if (kernel_name := self._names.get(name)) in self._why:
                return MissingCapability(f"cgroup-{name}", keys, *self._why[str(kernel_name)])
        memory = self._run.get("memory", "")
        if caps.swap and memory and not os.path.exists(f"{memory}/memory.memsw.limit_in_bytes"):
            why = f"{memory} has no memory.memsw.limit_in_bytes: the kernel doesn't account swap"
            hint = "boot with swapaccount=1, or leave swap out (0 works)"
            return MissingCapability("cgroup-swap", ["swap"], why, hint)
        return None

    def remove(self, group: Group) -> bool:
        return _remove(group.v1_directories())

    def remove_run(self) -> bool:
        return _remove(self.run_directories)

    def enter(self) -> None:
        """Into the run's subtrees, which become the roots of the sandboxes' cgroup namespaces.

        Only if the way back is open, as the builder must leave to remove them: a delegated directory may let it in but
        not out again.
        """
        if all(os.access(f"{path}/tasks", os.W_OK) for path in self.bases):
            with suppress(OSError):
                _move_self(self.run_directories)
                self._entered = True

    def enter_back(self) -> None:
        if self._entered:
            with suppress(OSError):
                _move_self(self.bases)

    def leave(self) -> None:
        """Nothing else was changed."""


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
    """Those of `caps` whose controllers are on v1; a hybrid host may have the others on v2."""
    if caps.cpu is not None and "cpu" in directories:
        _cap_cpu(directories["cpu"], caps.cpu)
    if caps.memory is not None and "memory" in directories:
        _cap_memory(directories["memory"], caps.memory, caps.swap or 0)
    if caps.pids is not None and "pids" in directories:
        write(f"{directories['pids']}/pids.max", str(caps.pids))
    if "blkio" in directories:
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


def _move_self(directories: Iterable[str]) -> None:
    for directory in directories:
        write(f"{directory}/tasks", "0")


def _create_hint(error: OSError, caps: Caps) -> str:
    name = os.path.basename(str(error.filename or ""))
    if name.startswith("memory.") and caps.memory is not None:
        return f"the kernel refused memory={format_size(caps.memory)}: see the limits of the cgroups above"
    if name.startswith("blkio."):
        return 'the device can\'t be throttled: name a path on a disk in io={"path": "…"}'
    if name.startswith("cpu."):
        return "the quota must be at least 1 ms and no more than that of the cgroups above"
    return "the run's cgroup was removed or taken away; run again" if error.errno == errno.ENOENT else ""
