"""Which spec keys will work, from the capabilities that each of them needs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

from pytest_isolate.kernel.cgroup import IoCap
from pytest_isolate.model.errors import IsolateError
from pytest_isolate.model.keys import KEYS
from pytest_isolate.probe.capability import Capability, KeyState, State

__all__ = ["NEEDS", "key_states"]

NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "cpu": ("cgroup-cpu",),
    "memory": ("cgroup-memory",),
    "swap": ("cgroup-memory", "cgroup-swap"),
    "pids": ("cgroup-pids",),
    "io": ("cgroup-io",),
    "disk": ("loop-device",),
    "net": ("bridge", "uplink"),
    "publish": ("bridge",),
    "bandwidth": ("bridge", "tbf", "netem"),
    "rootfs": ("overlay",),
    "user": ("subordinate-ids",),
    "budget": ("cgroup-memory", "cgroup-pids", "cgroup-io"),
}
"""What a key takes besides a sandbox. Keys that aren't here take no more than that."""

_ORDER: Final[tuple[State, ...]] = ("missing", "weaker", "works")


def key_states(capabilities: Iterable[Capability]) -> tuple[KeyState, ...]:
    """Every key of the reference, with the worst of what it needs."""
    known = {capability.name: capability for capability in capabilities}
    return tuple(_key_state(name, known) for name in KEYS)


def _key_state(name: str, known: Mapping[str, Capability]) -> KeyState:
    if known["sandbox"].state == "missing":
        return KeyState(name, "missing", "see sandbox")
    needed = [known[need] for need in NEEDS.get(name, ())]
    worst = min(needed, key=lambda capability: _ORDER.index(capability.state), default=None)
    if name in ("net", "budget", "disk") and worst is not None and worst.state != "works":
        # The other modes and figures, and caps on a tmpfs, take nothing of it.
        return KeyState(name, "weaker", f"see {worst.name}")
    if worst is not None and worst.state != "works":
        return KeyState(name, worst.state, f"see {worst.name}")
    if name == "io" and (refused := _no_device()):
        return KeyState(name, "weaker", f"only with a path on a disk: {refused}")
    return KeyState(name, "works")


def _no_device() -> str:
    """Why the working directory's device can't be throttled; empty if it can."""
    try:
        IoCap.of(os.getcwd(), None, 1)
    except (IsolateError, OSError) as error:
        return getattr(error, "why", "") or str(error)
    return ""
