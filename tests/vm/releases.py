"""What the machines are made of: kernels and userlands of Debian's releases, and the variants that put them together.

A variant's kernel and userland needn't be of the same release: Linux 5.10 runs below the userland of bookworm, because bullseye's
own Python is too old for the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["KERNELS", "PACKAGES", "PYTHONS", "VARIANTS", "Variant"]

KERNELS: Final[Mapping[str, str]] = MappingProxyType({"bullseye": "5.10", "bookworm": "6.1", "trixie": "6.12"})
"""Linux of the release's `linux-image-cloud-amd64`."""

PYTHONS: Final[Mapping[str, str]] = MappingProxyType({"bookworm": "3.11", "trixie": "3.13"})
"""Python of each release that is a userland."""

PACKAGES: Final = (
    "systemd", "systemd-sysv", "udev", "kmod", "dbus", "dbus-user-session", "libpam-systemd",
    "python3", "python3-venv", "ca-certificates",
    "util-linux", "mount", "passwd", "procps", "iproute2", "git", "strace",
    "uidmap", "fuse-overlayfs", "apparmor", "qemu-user-static",
)  # fmt: skip
"""Of every userland: a booting system with a user manager, and what the capabilities of our tests need."""


@dataclass(frozen=True)
class Variant:
    """One virtual machine.

    Attributes:
        kernel: release that the kernel comes from.
        userland: release that everything else comes from.
        command_line: added to the kernel's command line.
        layout: of the cgroup hierarchies, in the words of the documentation.
    """

    name: str
    kernel: str
    userland: str
    command_line: str = ""
    layout: str = "v2"


VARIANTS: Final[Mapping[str, Variant]] = MappingProxyType({
    variant.name: variant
    for variant in (
        Variant("bookworm", "bookworm", "bookworm"),
        Variant("trixie", "trixie", "trixie"),
        Variant("bullseye", "bullseye", "bookworm"),
    )
})
