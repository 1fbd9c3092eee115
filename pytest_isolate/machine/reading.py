"""The facts of `Machine` from /proc, /sys and the environment: a handful of reads, about a millisecond.

Nothing is made and nothing changes; ``unshare(0)`` asks for no namespace and tells whether a filter refuses the call.
Markers of containers count only where a PID or UTS namespace isn't the machine's own: images that became virtual machines
still carry a /.dockerenv.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from pytest_isolate.kernel.mounts import Mount, mountinfo
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.machine.facts import Machine
from pytest_isolate.machine.subordinate import find_program, subordinate_range

__all__ = ["container_of", "places_of", "read_machine"]

_INITIAL: Final = {"uts": 0xEFFFFFFE, "pid": 0xEFFFFFFC, "user": 0xEFFFFFFD}
"""Inode numbers of the machine's own namespaces (include/linux/proc_ns.h)."""


def read_machine() -> Machine:
    """This machine, as it is now. Raises nothing: what can't be read is left at what forbids nothing."""
    status = dict(line.split(":", 1) for line in _text("/proc/self/status").splitlines() if ":" in line)
    mounts = _mounts()
    root = next((mount for mount in reversed(mounts) if mount.point == "/"), None)
    uid = os.geteuid()
    return Machine(
        kernel=_text("/proc/sys/kernel/osrelease").strip(),
        distribution=_distribution(_text("/etc/os-release")),
        uid=uid,
        capabilities=int(status.get("CapEff", "0").strip() or "0", 16),
        initial_user_namespace=_is_initial("user"),
        mapped_ids=sum(int(line.split()[2]) for line in _text("/proc/self/uid_map").splitlines()),
        seccomp=int(status.get("Seccomp", "0")),
        unshare_errno=_unshare_nothing(),
        apparmor=(_text("/proc/self/attr/apparmor/current") or _apparmor(_text("/proc/self/attr/current"))).strip("\0\n "),
        lsms=tuple(filter(None, _text("/sys/kernel/security/lsm").strip().split(","))),
        max_user_namespaces=_number("/proc/sys/user/max_user_namespaces"),
        userns_clone=_number("/proc/sys/kernel/unprivileged_userns_clone"),
        apparmor_userns=_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        container="" if _is_initial("pid") and _is_initial("uts") else _container(),
        places=places_of(os.environ, _text("/proc/sys/kernel/osrelease")),
        chrooted=bool(mounts) and root is None,
        proc_masks=tuple(dict.fromkeys(mount.point for mount in mounts if mount.point.startswith("/proc/"))),
        root_type=root.fstype if root else "",
        newuidmap=find_program("newuidmap") and find_program("newgidmap") and find_program("newuidmap"),
        subordinate=tuple(path for path in ("/etc/subuid", "/etc/subgid") if subordinate_range(path, uid) is None),
    )


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _mounts() -> list[Mount]:
    try:
        return mountinfo()
    except OSError:
        return []


def _is_initial(kind: str) -> bool:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino == _INITIAL[kind]
    except OSError:
        return True


def _unshare_nothing() -> int:
    try:
        unshare(0)
    except OSError as error:
        return error.errno or 0
    return 0


def _apparmor(current: str) -> str:
    """`/proc/self/attr/current` is AppArmor's only where its text looks like it: SELinux writes user:role:type."""
    return current if re.fullmatch(r"\S+( \(\w+\))?\s*\0?", current) and ":" not in current else ""


def _distribution(release: str) -> str:
    fields = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    return " ".join(fields[name].strip('"') for name in ("ID", "VERSION_ID") if name in fields)


def _container() -> str:
    environment = _text("/proc/1/environ").split("\0")
    told = next((entry.partition("=")[2] for entry in environment if entry.startswith("container=")), "")
    return container_of(
        told=told or _text("/run/systemd/container").strip() or os.environ.get("container", ""),  # noqa: SIM112 - its name
        containerenv=os.path.exists("/run/.containerenv"),
        dockerenv=os.path.exists("/.dockerenv"),
        kubernetes="KUBERNETES_SERVICE_HOST" in os.environ,
        cgroups=_text("/proc/self/cgroup"),
    )


def container_of(*, told: str, containerenv: bool, dockerenv: bool, kubernetes: bool, cgroups: str) -> str:
    """Which engine made the container, by what it left; empty where nothing tells of one.

    Args:
        told: ``container=`` in init's environment (systemd's container interface: podman, lxc, systemd-nspawn).
        containerenv: /run/.containerenv is there, Podman's.
        dockerenv: /.dockerenv is there.
        kubernetes: a pod's service variables are set.
        cgroups: /proc/self/cgroup.
    """
    if kubernetes or "/kubepods" in cgroups:
        return "kubernetes"
    if containerenv or told == "podman" or "/libpod" in cgroups:
        return "podman"
    if dockerenv or told == "docker" or "/docker/" in cgroups:
        return "docker"
    if told.startswith("lxc") or "/lxc" in cgroups:
        return "lxc"
    return told if told in ("", "systemd-nspawn") else "container"


def places_of(environment: Mapping[str, str], release: str) -> tuple[str, ...]:
    """WSL by the kernel's release (WSL 1 ends in ``-Microsoft``), continuous integration by its variables."""
    wsl = ("wsl2" if "microsoft-standard" in release or "WSL2" in release else "wsl1") if "microsoft" in release.lower() else ""
    github = "github-actions" if environment.get("GITHUB_ACTIONS") == "true" else ""
    gitlab = "gitlab-ci" if environment.get("GITLAB_CI") == "true" else ""
    return tuple(filter(None, (wsl, github, gitlab)))
