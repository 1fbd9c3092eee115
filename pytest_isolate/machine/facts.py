"""What decides whether this machine gives sandboxes, as plain data.

A fact is read, not judged: `causes` does that, with a `Machine` from the kernel or from a test. The defaults are those of
a machine that forbids nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CAP_SYS_ADMIN", "Machine"]

CAP_SYS_ADMIN = 21


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about the machine, as the calling process sees it.

    Attributes:
        kernel: the release, as ``6.1.0-18-amd64``.
        distribution: ``ID VERSION_ID`` of os-release, as ``ubuntu 24.04``.
        uid: the effective user id.
        capabilities: the effective set as a bit mask (``CapEff``).
        initial_user_namespace: the user namespace is the machine's own.
        mapped_ids: how many user ids the user namespace maps.
        seccomp: mode in /proc/self/status: 0 none, 1 strict, 2 a filter.
        unshare_errno: what ``unshare(0)`` answers, which asks for nothing: 0, or the filter that refuses the call whole.
        apparmor: the process's AppArmor profile, as ``docker-default (enforce)``; empty without AppArmor.
        lsms: the security modules (/sys/kernel/security/lsm), as far as they can be seen.
        max_user_namespaces: user.max_user_namespaces, None where the file isn't there.
        userns_clone: kernel.unprivileged_userns_clone (Debian's), None elsewhere.
        apparmor_userns: kernel.apparmor_restrict_unprivileged_userns (Ubuntu's), None elsewhere.
        container: ``docker``, ``podman``, ``kubernetes``, ``lxc``, ``systemd-nspawn``, ``container`` (some other), or empty.
        places: what else it runs in: ``wsl2``, ``wsl1``, ``github-actions``, ``gitlab-ci``.
        chrooted: the root directory isn't that of the mount namespace.
        proc_masks: mount points that cover parts of /proc.
        root_type: file system of ``/``, as ``overlay``.
        newuidmap: path of newuidmap, empty where it or newgidmap isn't installed.
        subordinate: path by kind (``uid``, ``gid``) of the file that lacks a range of the user's; empty where both are there.
    """

    kernel: str = ""
    distribution: str = ""
    uid: int = 1000
    capabilities: int = 0
    initial_user_namespace: bool = True
    mapped_ids: int = 2**32 - 1
    seccomp: int = 0
    unshare_errno: int = 0
    apparmor: str = ""
    lsms: tuple[str, ...] = ()
    max_user_namespaces: int | None = 15000
    userns_clone: int | None = None
    apparmor_userns: int | None = None
    container: str = ""
    places: tuple[str, ...] = ()
    chrooted: bool = False
    proc_masks: tuple[str, ...] = ()
    root_type: str = "ext4"
    newuidmap: str = "/usr/bin/newuidmap"
    subordinate: tuple[str, ...] = ()

    @property
    def may_administer(self) -> bool:
        """CAP_SYS_ADMIN, in whatever user namespace."""
        return bool(self.capabilities >> CAP_SYS_ADMIN & 1)

    @property
    def is_privileged(self) -> bool:
        """CAP_SYS_ADMIN over the machine itself: what restrictions of unprivileged users spare."""
        return self.may_administer and self.initial_user_namespace

    @property
    def confined(self) -> bool:
        """By an AppArmor profile that can forbid things."""
        return bool(self.apparmor) and not self.apparmor.startswith("unconfined")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
