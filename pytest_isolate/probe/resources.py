"""What caps, figures and ids are made of: cgroup controllers, the kernel's log, subordinate ids."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

from pytest_isolate.kernel.cgroup import Caps, detect, run_name
from pytest_isolate.machine.causes import subordinate_ids
from pytest_isolate.machine.counters import uncounted
from pytest_isolate.machine.facts import Machine
from pytest_isolate.machine.remedies import cgroup_remedy
from pytest_isolate.probe.attempt import attempt
from pytest_isolate.probe.capability import Capability
from pytest_isolate.sandbox.delegation import obtain
from pytest_isolate.sandbox.identity import enter_run_namespace

__all__ = ["CONTROLLERS", "probe_cgroups", "probe_instructions", "probe_kernel_log", "probe_subordinate_ids"]

CONTROLLERS = ("cpu", "memory", "pids", "io")

_NUMBER = 998
"""Tells the probe's subtree from those of the runs that this process may have."""


def probe_cgroups(machine: Machine, delegated: str | None) -> Iterator[Capability]:
    """``cgroup-cpu`` to ``cgroup-swap``: a run's subtree is made, and removed.

    Args:
        delegated: ``--isolate-cgroup``.
    """
    names = [f"cgroup-{name}" for name in CONTROLLERS]
    answer = attempt(lambda: _cgroups(delegated))
    if answer.error is not None:
        yield from (
            Capability(name, "missing", answer.error.message, answer.error.hint, "cgroup") for name in (*names, "cgroup-swap")
        )
        return
    lacking: dict[str, list[str]] = answer.result["lacking"]
    for name in names:
        if name in lacking:
            why, hint = lacking[name]
            yield Capability(name, "missing", why, cgroup_remedy(machine, why, hint), "cgroup")
        else:
            yield Capability(name, "works", str(answer.result["layout"]))
    if "cgroup-memory" in lacking:
        yield Capability("cgroup-swap", "missing", "it takes cgroup-memory", cause="cgroup")
    elif "cgroup-swap" in lacking:
        why, hint = lacking["cgroup-swap"]
        yield Capability("cgroup-swap", "missing", why, hint, "swap")
    else:
        yield Capability("cgroup-swap", "works")


def _cgroups(delegated: str | None) -> dict[str, Any]:
    # As in a run: where systemd hands out cgroups, this child moves to a scope of its own, which ends with it.
    hierarchy = detect(delegated, refused=obtain((), delegated).refused)
    hierarchy.create_run(run_name(os.getpid(), _NUMBER))
    try:
        lacking = dict(hierarchy.lacking)
        if "cgroup-memory" not in lacking and (missing := hierarchy.missing(Caps(memory=64 << 20, swap=1 << 20))):
            lacking[missing.capability] = missing
        return {
            "layout": f"cgroup {hierarchy.layout}",
            "lacking": {name: [error.why, error.hint] for name, error in lacking.items()},
        }
    finally:
        hierarchy.remove_run()
        hierarchy.leave()


def probe_kernel_log() -> Capability:
    """``kmsg``: names the victims of the memory cap."""
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        why = f"open /dev/kmsg: {error.strerror}: of the victims of an OOM only the test process is named"
        if error.errno == errno.ENOENT:
            return Capability("kmsg", "weaker", why, "in a container: add --device=/dev/kmsg, or leave it so", "no-kmsg")
        return Capability("kmsg", "weaker", why, "as root: sysctl -w kernel.dmesg_restrict=0", "dmesg-restrict")
    return Capability("kmsg", "works")


def probe_instructions(machine: Machine) -> Capability:
    """``instructions``: some are counted."""
    if (cause := uncounted(machine)) is not None:
        return Capability.missing("instructions", cause)
    return Capability("instructions", "works", "counted in user mode")


def probe_subordinate_ids(machine: Machine, *, userns: bool) -> Capability:
    """``subordinate-ids``: more than one id inside, for ``user="root"``.

    Args:
        userns: user namespaces can be made.
    """
    name = "subordinate-ids"
    if not userns:
        return Capability(name, "missing", "it takes userns", cause="userns")
    if machine.is_privileged:
        return Capability(name, "works", "root maps every id")
    answer = attempt(_mapped_ids)
    if answer.error is None and answer.result > 1:
        return Capability(name, "works", f"{answer.result} ids")
    cause = subordinate_ids(machine, _first_line(answer.output) or "the range was refused")
    why = f'{cause.why}: user="root" has one id inside, and chown to others fails'
    return Capability(name, "weaker", why, cause.remedy, cause.name)


def _first_line(text: str) -> str:
    return text.partition("\n")[0].removeprefix("newuidmap: ").removeprefix("newgidmap: ")


def _mapped_ids() -> int:
    identity = enter_run_namespace()
    return 1 + (identity.subordinate_uids[1] if identity.subordinate_uids else 0)
