"""The builder's error with its cause: which capability the machine lacks, and the remedy that fits it.

Asked when a sandbox couldn't be built, in the process where it failed. An error that tells of something missing becomes a
`MissingCapability`, which ``--isolate-missing`` is about; one with no known cause stays as it is.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from pytest_isolate.machine.causes import Cause, fresh_proc, joining, mounting, namespace, overlay, user_namespace
from pytest_isolate.machine.facts import Machine
from pytest_isolate.machine.reading import read_machine
from pytest_isolate.machine.remedies import cgroup_remedy
from pytest_isolate.model.errors import IsolateError, MissingCapability, SetupError

__all__ = ["explained", "lacks_user_namespaces"]

_NOT_THE_MACHINES: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENOMEM, errno.E2BIG, errno.EEXIST, errno.EBUSY, errno.EROFS, 0}
)
"""What a path of the spec, or a moment, is to blame for."""

_MOUNT_STEPS: Final = ("make mounts private", "prepare workspace", "mount tmpfs", "open_tree", "pivot_root", "bind")


def lacks_user_namespaces(error: OSError, call: str = "unshare(CLONE_NEWUSER)") -> MissingCapability:
    """The error for a refused user namespace."""
    return _missing("userns", user_namespace(read_machine(), error.errno or 0, call))


def explained(error: IsolateError, machine: Callable[[], Machine] = read_machine) -> IsolateError:
    """`error`, or what lies behind it.

    Args:
        machine: gives the facts; called only for an error that they can say something about.
    """
    if isinstance(error, MissingCapability):
        return _placed(error, machine) if error.capability.startswith("cgroup-") else error
    if not isinstance(error, SetupError) or error.errno in _NOT_THE_MACHINES:
        return error
    found = _cause(error, machine)
    if found is None or found[1].name == "unknown":
        return error
    return _missing(*found)


def _cause(error: SetupError, machine: Callable[[], Machine]) -> tuple[str, Cause] | None:
    step, number = error.step, error.errno
    if step == "mount proc":
        return "proc", fresh_proc(machine(), number)
    if step == "mount overlay":
        if number == errno.EINVAL:  # the options, or what lies below, as often as the machine
            return None
        return "overlay", overlay(machine(), number)
    if step == "clone init":
        return "userns", user_namespace(machine(), number, "clone(CLONE_NEWUSER)")
    if step == "unshare mount namespace":
        return "mounts", namespace(machine(), "mnt", number)
    if step in ("join the sandbox", "fork into the sandbox"):
        return "pidfd", joining(machine(), number)
    if step.startswith(("mount ", *_MOUNT_STEPS)):
        return "mounts", mounting(machine(), number, step)
    return None


def _placed(error: MissingCapability, machine: Callable[[], Machine]) -> MissingCapability:
    """The cgroup modules don't know containers."""
    return MissingCapability(error.capability, error.keys, error.why, cgroup_remedy(machine(), error.why, error.hint))


def _missing(capability: str, cause: Cause) -> MissingCapability:
    return MissingCapability(capability, [], cause.why, cause.remedy)
