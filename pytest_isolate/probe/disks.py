"""What a cap on a writable layer on a disk takes: the program that makes its file system, and a loop device to mount it by."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Final

from pytest_isolate.kernel.mounts import MS_PRIVATE, MS_REC, mount
from pytest_isolate.model.errors import MissingCapability
from pytest_isolate.probe.attempt import attempt
from pytest_isolate.probe.capability import Capability
from pytest_isolate.rootfs.plan import UPPER
from pytest_isolate.sandbox.capped import Templates, only_root, program
from pytest_isolate.sandbox.identity import enter_run_namespace

__all__ = ["probe_disks"]

_SIZE: Final = 1 << 20


def probe_disks(*, userns: bool) -> Iterator[Capability]:
    """``mkfs.ext4`` and ``loop-device``: a small file system is made and mounted, in a namespace that ends with it.

    Args:
        userns: user namespaces can be made.
    """
    name = "loop-device"
    try:
        program()
    except MissingCapability as error:
        yield Capability(error.capability, "missing", error.why, error.hint, "no-mkfs")
        yield Capability(name, "missing", "it takes mkfs.ext4", cause="no-mkfs")
        return
    yield Capability("mkfs.ext4", "works")
    if not userns:
        yield Capability(name, "missing", "it takes userns", cause="userns")
        return
    with tempfile.TemporaryDirectory(prefix="pytest-isolate-probe-") as directory:
        os.mkdir(os.path.join(directory, UPPER))
        answer = attempt(lambda: _mounted(directory))
    if (failure := answer.error) is None:
        yield Capability(name, "works")
    else:
        why = failure.why if isinstance(failure, MissingCapability) else failure.message
        yield Capability(name, "missing", why, failure.hint, "no-root" if os.geteuid() else "no-loop-device")


def _mounted(directory: str) -> None:
    if enter_run_namespace().rootless:
        raise only_root()
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    os.chdir(directory)
    with Templates().copied(directory, _SIZE) as capped:
        capped.apply(".")
