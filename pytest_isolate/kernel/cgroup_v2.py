"""Cgroup v2, also as the v2 half of a hybrid host: one directory per sandbox, all its controllers in it.

Kernel document: Documentation/admin-guide/cgroup-v2.rst. Making room for the run's subtree is `cgroup_v2_base`,
reading figures `cgroup_v2_usage`, names and removal `cgroup_runs`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from pytest_isolate.kernel.cgroup_files import read, refusal, write
from pytest_isolate.kernel.cgroup_mounts import Place
from pytest_isolate.kernel.cgroup_runs import remove_tree
from pytest_isolate.kernel.cgroup_types import Caps, Group, IoCap
from pytest_isolate.kernel.cgroup_v2_base import enable, give_back, locked, make_room
from pytest_isolate.kernel.cgroup_v2_place import hand_down_hint
from pytest_isolate.model.errors import MissingCapability, SetupError
from pytest_isolate.model.units import format_size

__all__ = ["V2Hierarchy"]

PERIOD_US: Final = 100_000

_CAP_FILE: Final = {
    "cpu": ("cpu.max", "CONFIG_CFS_BANDWIDTH"),
    "memory": ("memory.max", "CONFIG_MEMCG"),
    "pids": ("pids.max", "CONFIG_CGROUP_PIDS"),
    "io": ("io.max", "CONFIG_BLK_DEV_THROTTLING"),
}


class V2Hierarchy:
    """The part of the v2 tree that the caller can work in. Implements `cgroup_types.Hierarchy`.

    Args:
        place: the base, see `cgroup_mounts.unified_place_of`, or why there is none.
        wanted: the controllers that v1 hierarchies don't have.
        hand_over: the remedy where the base can't be used.
    """

    def __init__(self, place: Place, wanted: Collection[str], hand_over: str) -> None:
        self._hand_over: Final = hand_over
        self._wanted: Final = [name for name in _CAP_FILE if name in wanted]
        self._why: dict[str, tuple[str, str]] = {}
        self._base = ""
        self._run = ""
        self._enabled: list[str] = []
        self._peak_sampled = False
        if not self._wanted:
            return
        if refused := (place.why, place.hint) if place.why else refusal(place.directory):
            self._refuse(self._wanted, refused[0], refused[1])
            return
        self._base = place.directory
        self._find_controllers()

    def _refuse(self, names: Collection[str], why: str, hint: str = "") -> None:
        for name in names:
            self._why.setdefault(name, (why, hint or self._hand_over))

    def _find_controllers(self) -> None:
        try:
            there = read(f"{self._base}/cgroup.controllers").split()
        except OSError as error:
            self._refuse(self._wanted, f"{self._base}/cgroup.controllers: {error.strerror}")
            return
        for name in self._wanted:
            if name not in there:
                has = f"has only {' '.join(there)}" if there else "is empty"
                why = f"{self._base}/cgroup.controllers {has}: {name} isn't handed down to it"
                self._refuse([name], why, hand_down_hint(self._base, name))

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(name for name in self._wanted if name not in self._why)

    @property
    def lacking(self) -> dict[str, MissingCapability]:
        return {f"cgroup-{name}": MissingCapability(f"cgroup-{name}", [], *why) for name, why in self._why.items()}

    @property
    def run_directories(self) -> tuple[str, ...]:
        return (self._run,) if self._run else ()

    @property
    def unified(self) -> bool:
        return bool(self._run)

    @property
    def bases(self) -> tuple[str, ...]:
        return (self._base,) if self._base else ()

    def create_run(self, name: str) -> None:
        if not (wanted := sorted(self.controllers)):
            return
        run = f"{self._base}/{name}"
        try:
            with locked(self._base):
                before = read(f"{self._base}/cgroup.subtree_control").split()
                if new := [controller for controller in wanted if controller not in before]:
                    make_room(self._base)
                    enable(self._base, new)
                    self._enabled = new
                os.mkdir(run)
                self._run = run
                enable(run, wanted)
        except OSError as error:
            self._refuse(wanted, f"{error.filename or self._base}: {error.strerror}")
            self.remove_run()
            self.leave()
            return
        self._peak_sampled = "memory" in wanted and not os.path.exists(f"{run}/memory.peak")
        for controller in wanted:
            file, config = _CAP_FILE[controller]
            if not os.path.exists(f"{run}/{file}"):
                why = f"{run} has no {file}: this kernel was built without {config}"
                self._refuse([controller], why, f"boot a kernel with {config}=y, or leave the cap out")

    def create(self, box: str, caps: Caps) -> Group:
        if error := self.missing(caps):
            raise error
        if not self._run:
            return Group(box)
        directory = f"{self._run}/{box}"
        try:
            os.mkdir(directory)
        except OSError as refused:
            raise SetupError.from_os_error("set up cgroup", refused, hint=_create_hint(refused, caps)) from None
        try:
            self._set_caps(directory, caps)
        except OSError as refused:
            remove_tree(directory)
            raise SetupError.from_os_error("set up cgroup", refused, hint=_create_hint(refused, caps)) from None
        return Group(box, os.path.basename(self._run), v2=directory, peak_sampled=self._peak_sampled)

    def _set_caps(self, directory: str, caps: Caps) -> None:
        ours = self.controllers
        if caps.cpu is not None and "cpu" in ours:
            write(f"{directory}/cpu.max", f"{round(caps.cpu * PERIOD_US)} {PERIOD_US}")
        if caps.memory is not None and "memory" in ours:
            write(f"{directory}/memory.max", str(caps.memory))
            # Without this one a test swaps instead of dying. There is no such file where the kernel accounts no swap.
            with suppress(FileNotFoundError):
                write(f"{directory}/memory.swap.max", str(caps.swap or 0))
        if caps.pids is not None and "pids" in ours:
            write(f"{directory}/pids.max", str(caps.pids))
        if "io" in ours:
            for cap in caps.io:
                write(f"{directory}/io.max", _io_max(cap))

    def missing(self, caps: Caps) -> MissingCapability | None:
        for name, keys in caps.needs().items():
            if name in self._why:
                return MissingCapability(f"cgroup-{name}", keys, *self._why[name])
        if caps.memory is not None and "memory" in self.controllers and self._run:
            return self._missing_swap(caps.swap or 0)
        return None

    def _missing_swap(self, swap: int) -> MissingCapability | None:
        """A cap on memory is none while the test can swap instead, and the kernel doesn't account that."""
        if os.path.exists(f"{self._run}/memory.swap.max") or not (swap or _has_swap()):
            return None
        why = f"{self._run} has no memory.swap.max: the kernel doesn't account swap"
        hint = "boot with swapaccount=1, or leave swap out (0 works without swap space: swapoff -a)"
        return MissingCapability("cgroup-swap", ["swap"] if swap else ["memory", "swap"], why, hint)

    def remove(self, group: Group) -> bool:
        return not group.v2 or remove_tree(group.v2)

    def remove_run(self) -> bool:
        return not self._run or remove_tree(self._run)

    def enter(self) -> None:
        """The builder stays where it is: a run's directory that hands controllers down can't hold processes."""

    def enter_back(self) -> None:
        """See `enter`."""

    def leave(self) -> None:
        if self._base:
            with suppress(OSError):
                give_back(self._base, self._enabled)


def _has_swap() -> bool:
    try:
        return len(read("/proc/swaps").splitlines()) > 1
    except OSError:
        return False


def _io_max(cap: IoCap) -> str:
    rates = [f"{key}={rate}" for key, rate in (("rbps", cap.read), ("wbps", cap.write)) if rate is not None]
    return f"{cap.major}:{cap.minor} {' '.join(rates)}"


def _create_hint(error: OSError, caps: Caps) -> str:
    name = os.path.basename(str(error.filename or ""))
    if name.startswith("memory.") and caps.memory is not None:
        return f"the kernel refused memory={format_size(caps.memory)}: see the limits of the cgroups above"
    if name == "io.max":
        return 'the device can\'t be throttled: name a path on a disk in io={"path": "…"}'
    if name == "cpu.max":
        return "the quota must be at least 1 ms"
    return "the run's cgroup was removed or taken away; run again" if error.errno == errno.ENOENT else ""
