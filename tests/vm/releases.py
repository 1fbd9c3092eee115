"""What the machines are made of: kernels and userlands of Debian's releases, and the variants that put them together.

A variant's kernel and userland needn't be of the same release: Linux 5.10 runs below the userland of bookworm, because bullseye's
own Python is too old for the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tests.vm.processors import AMD64, ARM64, Processor

__all__ = ["KERNELS", "PACKAGES", "PYTHONS", "VARIANTS", "Refusal", "Variant"]

KERNELS: Final[Mapping[str, str]] = MappingProxyType({"bullseye": "5.10", "bookworm": "6.1", "trixie": "6.12"})
"""Linux of the release's `linux-image-cloud-*`."""

PYTHONS: Final[Mapping[str, str]] = MappingProxyType({"bookworm": "3.11", "trixie": "3.13"})
"""Python of each release that is a userland."""

PACKAGES: Final = (
    "systemd", "systemd-sysv", "udev", "kmod", "dbus", "dbus-user-session", "libpam-systemd",
    "python3", "python3-venv", "ca-certificates",
    "util-linux", "mount", "passwd", "procps", "iproute2", "git", "strace",
    "uidmap", "fuse-overlayfs", "apparmor", "qemu-user-static", "nftables", "iptables", "passt", "slirp4netns",
)  # fmt: skip
"""Of every userland: a booting system with a user manager, and what the capabilities of our tests need."""


# Container engines are tried on the machine that starts ours.
_ENGINES: Final = ("engine-runc", "engine-podman", "engine-podman-rootless")
# What root alone has anywhere: Debian shows the kernel's log to nobody else.
_PRIVILEGES: Final = ("root", "loop-device", "kmsg")
# QEMU emulates no counters of an x86 processor, and Debian lets users count nothing.
_COUNTERS: Final = ("instructions", "user-counters")
_USER: Final = (*_ENGINES, *_PRIVILEGES, *_COUNTERS)
# Nobody hands a v1 directory down by itself.
_CONTROLLERS: Final = ("cgroup-cpu", "cgroup-memory", "cgroup-pids", "cgroup-io", "cgroup-swap")
_WITHOUT: Final = MappingProxyType({"root": (*_ENGINES, *_COUNTERS), "tester": _USER, "login": _USER})


@dataclass(frozen=True)
class Refusal:
    """Something that an administrator or a distribution sets and that takes user namespaces away.

    Attributes:
        put: shell commands of root's.
        lift: what takes it back.
        says: by user, a regular expression that the doctor's report and the message of a failing test must match; users that aren't
            named aren't affected: isolation works for them.
    """

    name: str
    put: str
    lift: str
    says: Mapping[str, str]


@dataclass(frozen=True)
class Variant:
    """One virtual machine and what is tried in it.

    Attributes:
        kernel: release that the kernel comes from.
        userland: release that everything else comes from.
        command_line: added to the kernel's command line.
        layout: of the cgroup hierarchies: v1, hybrid or v2.
        users: who runs the tests.
        without: capabilities that aren't demanded, by user; why not is said in `VARIANTS`.
        refusals: each in turn, in place of the tests.
        processor: of the machine.
        mended: capabilities that are missing after the boot; what root's doctor tells to type is typed before the tests.
    """

    name: str
    kernel: str
    userland: str
    command_line: str = ""
    layout: str = "v2"
    users: Sequence[str] = ("root", "tester")
    without: Mapping[str, Sequence[str]] = field(default_factory=lambda: _WITHOUT)
    refusals: Sequence[Refusal] = ()
    mended: Sequence[str] = ()
    processor: Processor = AMD64


_PROFILE: Final = r"""
abi <abi/4.0>,
profile vm-refuses-userns /usr/bin/{python3.*,unshare} flags=(attach_disconnected) {
  allow all,
  audit deny userns,
}
"""

REFUSALS: Final = (
    Refusal(
        "user.max_user_namespaces=0",
        "sysctl -qw user.max_user_namespaces=0",
        "sysctl -qw user.max_user_namespaces=7000",
        {"root": r"user\.max_user_namespaces", "tester": r"user\.max_user_namespaces"},
    ),
    Refusal(
        "kernel.unprivileged_userns_clone=0",
        "sysctl -qw kernel.unprivileged_userns_clone=0",
        "sysctl -qw kernel.unprivileged_userns_clone=1",
        {"tester": r"kernel\.unprivileged_userns_clone"},
    ),
    Refusal(
        "AppArmor",
        f"cat >/run/refuse <<'END'{_PROFILE}END\napparmor_parser --replace /run/refuse",
        "apparmor_parser --remove /run/refuse",
        {"root": r"(?i)apparmor", "tester": r"(?i)apparmor"},
    ),
)

VARIANTS: Final[Mapping[str, Variant]] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant("bookworm", "bookworm", "bookworm", users=("root", "tester", "login")),
            Variant("trixie", "trixie", "trixie"),
            Variant("bullseye", "bullseye", "bookworm"),
            Variant(
                "v1",
                "bookworm",
                "bookworm",
                command_line="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1",
                layout="v1",
                without={**_WITHOUT, "tester": (*_USER, *_CONTROLLERS)},
            ),
            Variant(
                "hybrid",
                "bookworm",
                "bookworm",
                command_line="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0 cgroup_no_v1=memory",
                layout="hybrid",
                without={**_WITHOUT, "tester": (*_USER, *_CONTROLLERS)},
                # There systemd leaves the controllers of the v2 tree alone.
                mended=("cgroup-memory",),
            ),
            Variant(
                "arm64",
                "bookworm",
                "bookworm",
                command_line="sysctl.kernel.perf_event_paranoid=2",
                without={"root": (*_ENGINES, "two-cpus"), "tester": (*_ENGINES, *_PRIVILEGES, "two-cpus")},
                processor=ARM64,
            ),
            Variant("refusals", "trixie", "trixie", refusals=REFUSALS),
        )
    }
)
