"""What the cgroup modules hand one another: caps, the description of a sandbox's group, the interface.

A `Group` is plain data, because its maker and its users are different processes: the builder makes the
directories, the pytest process and the forked test process join them and read from them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytest_isolate.kernel.block import file_system, whole_disk
from pytest_isolate.model.errors import MissingCapability, SetupError
from pytest_isolate.model.spec import Spec

if TYPE_CHECKING:
    from pytest_isolate.model.samples import Row

__all__ = ["Caps", "Group", "GroupEvents", "Hierarchy", "IoCap", "Moment", "OomVictim"]


@dataclass(frozen=True, slots=True)
class IoCap:
    """Throttle of one whole disk, in bytes per second; None: not throttled."""

    major: int
    minor: int
    read: int | None = None
    write: int | None = None

    @classmethod
    def of(cls, path: str, read: int | None, write: int | None) -> IoCap:
        """The throttle of the disk that holds `path`.

        Raises:
            SetupError: `path` can't be looked at.
            MissingCapability: no single block device is behind its file system.
        """
        try:
            number = os.stat(path).st_dev
        except OSError as error:
            raise SetupError("io: stat", path, error.errno or 0, 'name a path that exists: io={"path": "…"}') from None
        device = os.major(number), os.minor(number)
        if device[0] == 0:
            kind = file_system(device)
            why = f"{path} lies on {kind or 'a file system'} without a block device of its own"
            raise MissingCapability("cgroup-io", ["io"], why, _NO_DEVICE.get(kind, _NO_DEVICE[""]))
        return cls(*whole_disk(device), read, write)


_NO_DEVICE = {
    "": 'name a path on ext4 or xfs, as in io={"write": "5MB/s", "path": "/var/tmp"}, or drop io',
    "overlay": "this looks like a container: mount a volume from a disk of the host and name a path on it in "
    'io={"path": "…"}, or drop io',
    "tmpfs": 'nothing reaches a disk here: name a path on a disk in io={"path": "…"}, or drop io',
    "btrfs": 'btrfs spreads over several disks under an anonymous number: name a path on ext4 or xfs in io={"path": "…"}, '
    "or drop io",
}


@dataclass(frozen=True, slots=True)
class Caps:
    """What the kernel enforces on one group; None: no cap. `cpu` in CPUs, sizes in bytes.

    Attributes:
        swap: on top of `memory`; None means 0 where `memory` is set.
    """

    cpu: float | None = None
    memory: int | None = None
    swap: int | None = None
    pids: int | None = None
    io: tuple[IoCap, ...] = ()

    @classmethod
    def of(cls, spec: Spec, cwd: str) -> Caps:
        """The caps of `spec`; `cwd` is what `io` throttles where it names no path.

        Raises:
            SetupError, MissingCapability: see `IoCap.of`.
        """
        io = (IoCap.of(spec.io.path or cwd, spec.io.read, spec.io.write),) if spec.io else ()
        return cls(spec.cpu, spec.memory, spec.swap, spec.pids, io)

    def needs(self) -> dict[str, list[str]]:
        """Spec keys by the controller that enforces them, only those that are asked."""
        asked = {"cpu": ["cpu"], "memory": ["memory", "swap"], "pids": ["pids"], "io": ["io"]}
        found = {name: [key for key in keys if getattr(self, key) not in (None, ())] for name, keys in asked.items()}
        return {name: keys for name, keys in found.items() if keys}


@dataclass(frozen=True, slots=True)
class Group:
    """The cgroup directories of one sandbox.

    Attributes:
        name: the box's name, the same in every hierarchy.
        run: the name of the run's subtree, which is the directories' parent.
        v1: (controller as the kernel spells it, directory); co-mounted controllers share one directory.
        io_counted: whether the v1 kernel counts this group's block I/O (see `cgroup_v1.activate_io_counters`).
        v2: its directory in the v2 tree; empty where none of its controllers is there.
        peak_sampled: memory is on v2 and the kernel keeps no peak of it (before Linux 5.19): `cgroup.memory_now` must be asked
            again and again.
    """

    name: str
    run: str = ""
    v1: tuple[tuple[str, str], ...] = ()
    io_counted: bool = False
    v2: str = ""
    peak_sampled: bool = False

    def file(self, controller: str, name: str) -> str | None:
        """Path of a v1 controller's file; None where the group has no directory there."""
        directory = dict(self.v1).get(controller)
        return directory and f"{directory}/{name}"

    def v2_file(self, name: str) -> str | None:
        """Path of a file in the v2 tree; None where the group has no directory there."""
        return f"{self.v2}/{name}" if self.v2 else None

    def v1_directories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for _controller, path in self.v1))

    def directories(self) -> tuple[str, ...]:
        return (*self.v1_directories(), *filter(None, (self.v2,)))

    def to_json(self) -> dict[str, Any]:
        v1 = [list(pair) for pair in self.v1]
        plain = {"name": self.name, "run": self.run, "io_counted": self.io_counted, "v2": self.v2}
        return {**plain, "v1": v1, "peak_sampled": self.peak_sampled}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Group:
        v1 = tuple((controller, path) for controller, path in data["v1"])
        return cls(data["name"], data["run"], v1, data["io_counted"], data["v2"], data["peak_sampled"])


@dataclass(frozen=True, slots=True)
class GroupEvents:
    """What ran into a cap; None: this machine doesn't say.

    Attributes:
        oom_kills: processes of the group that the kernel killed for want of memory.
        pids_cap_hits: forks refused by the pids cap.
    """

    oom_kills: int | None = None
    pids_cap_hits: int | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """What a group has at one moment, few enough figures to be read again and again; None: this machine doesn't say.

    Attributes:
        memory_bytes: what is charged now.
        cpu_seconds, cpu_throttled_seconds, oom_kills: so far, as in `Usage`.
    """

    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    cpu_throttled_seconds: float | None = None
    oom_kills: int | None = None

    def row(self, seconds: float) -> Row:
        """The moment `seconds` after a beginning, as one of samples."""
        return seconds, self.memory_bytes, self.cpu_seconds, self.cpu_throttled_seconds, self.oom_kills


@dataclass(frozen=True, slots=True)
class OomVictim:
    """A process killed for want of memory; `pid` is the number in the initial PID namespace, as in dmesg."""

    name: str
    pid: int


class Hierarchy(Protocol):
    """One way of getting cgroups. Lives in the builder; the functions of `cgroup` do the rest from a `Group`.

    Attributes:
        layout: ``v1``, ``hybrid``, ``v2`` or ``none``: what this machine has, for the header line.
    """

    @property
    def layout(self) -> str: ...

    @property
    def controllers(self) -> frozenset[str]:
        """Those of ``cpu``, ``memory``, ``pids`` and ``io`` that can be capped: as far as can be seen, certain after `create_run`."""
        ...

    @property
    def lacking(self) -> dict[str, MissingCapability]:
        """Why not, by capability (``cgroup-cpu``, …), for each of the others."""
        ...

    @property
    def run_directories(self) -> tuple[str, ...]:
        """The run's subtrees: what `cgroup.clean_up` takes when the builder is gone."""
        ...

    @property
    def unified(self) -> bool:
        """Whether groups have a directory in the v2 tree; known after `create_run`."""
        ...

    @property
    def bases(self) -> tuple[str, ...]:
        """The directories that runs make their subtrees in: what `cgroup.sweep_stale` looks through."""
        ...

    def create_run(self, name: str) -> None:
        """Make the run's subtree. Raises nothing: what is refused goes to `lacking`."""
        ...

    def create(self, box: str, caps: Caps) -> Group:
        """Make one sandbox's directories with its caps set.

        Raises:
            SetupError: and nothing is left; MissingCapability where `missing` says so.
        """
        ...

    def missing(self, caps: Caps) -> MissingCapability | None:
        """What `caps` ask and this machine can't enforce: the first of them."""
        ...

    def remove(self, group: Group) -> bool:
        """Remove a sandbox's directories without waiting; False: busy for the moment, ask again later."""
        ...

    def remove_run(self) -> bool:
        """Remove the run's subtree with all that is in it; False: busy for the moment."""
        ...

    def enter(self) -> None:
        """Move the calling builder to where the sandboxes' cgroup namespaces are to begin, if it can come back."""
        ...

    def enter_back(self) -> None:
        """Undo `enter`: before `remove_run`, which can't remove what the builder is in. Raises nothing."""
        ...

    def leave(self) -> None:
        """After `remove_run`: undo whatever else was changed for this run. Raises nothing."""
        ...
