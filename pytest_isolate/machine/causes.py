"""Why the kernel refused, and what to type: from the errno and a `Machine` alone.

Several things answer with the same EPERM; they are told apart by the facts that each of them leaves, the surest first. Where
no fact tells, the cause says so instead of guessing.
"""

from __future__ import annotations

import errno as _errno
import os
from dataclasses import dataclass
from typing import Final

from pytest_isolate.machine.facts import Machine
from pytest_isolate.machine.remedies import container_options, name_of, sysctl

__all__ = [
    "Cause",
    "answer",
    "counters",
    "fresh_proc",
    "joining",
    "mounting",
    "namespace",
    "overlay",
    "subordinate_ids",
    "user_namespace",
]

_UNKNOWN: Final = "run python -m pytest_isolate doctor and report what it prints: this refusal isn't known"


@dataclass(frozen=True, slots=True)
class Cause:
    """Args: a short name, what the machine answered, and what to type."""

    name: str
    why: str
    remedy: str


def answer(call: str, number: int) -> str:
    """``unshare(CLONE_NEWUSER): EPERM (Operation not permitted)``."""
    return f"{call}: {_errno.errorcode.get(number, number)} ({os.strerror(number)})"


def user_namespace(machine: Machine, number: int, call: str = "unshare(CLONE_NEWUSER)") -> Cause:
    """A user namespace, or the first use of its privileges, was refused.

    Args:
        number: the errno; ENOSPC: a limit (user_namespaces(7)), EPERM and EACCES: a policy.
    """
    told = answer(call, number)
    if "wsl1" in machine.places:
        return Cause("wsl1", f"{told}: WSL 1 has no namespaces", "wsl --set-version DISTRIBUTION 2")
    if number in (_errno.ENOSPC, _errno.EUSERS):
        return _limit(machine, told)
    if number in (_errno.EINVAL, _errno.ENOSYS):
        why = f"{told}: kernel {machine.kernel} was built without user namespaces"
        return Cause("no-userns", why, "boot a kernel with CONFIG_USER_NS=y")
    return _policy(machine, told) or Cause("unknown", told, _UNKNOWN)


def _limit(machine: Machine, told: str) -> Cause:
    if machine.max_user_namespaces == 0:
        where = "" if machine.initial_user_namespace else ", in this user namespace"
        why = f"{told}: user.max_user_namespaces is 0{where}"
        return Cause("max-user-namespaces", why, sysctl(machine, "user.max_user_namespaces", 15000))
    why = f"{told}: user.max_user_namespaces is {machine.max_user_namespaces}, here or in a namespace around this one, or 32 are nested"
    return Cause("max-user-namespaces", why, sysctl(machine, "user.max_user_namespaces", 15000))


def _policy(machine: Machine, told: str) -> Cause | None:
    """Who forbids user namespaces, if anything tells."""
    if machine.unshare_errno or (machine.seccomp == 2 and machine.container):
        return _filter(machine, told)
    if machine.userns_clone == 0 and not machine.is_privileged:
        why = f"{told}: kernel.unprivileged_userns_clone is 0 (Debian)"
        return Cause("userns-clone", why, sysctl(machine, "kernel.unprivileged_userns_clone", 1))
    if machine.apparmor_userns == 1 and not machine.is_privileged:
        why = f"{told}: kernel.apparmor_restrict_unprivileged_userns is 1 (Ubuntu 23.10 and later)"
        return Cause("apparmor-userns", why, sysctl(machine, "kernel.apparmor_restrict_unprivileged_userns", 0))
    if machine.chrooted:
        why = f"{told}: in a chroot no user namespace can be made"
        return Cause(
            "chroot", why, "run pytest outside of the chroot, or enter it with pivot_root (systemd-nspawn, podman, bwrap)"
        )
    if machine.confined:
        return _confined(machine, told)
    if machine.seccomp == 2:
        why = f"{told}: a seccomp filter forbids it (Seccomp: 2)"
        return Cause(
            "seccomp", why, "as a systemd service: RestrictNamespaces=no and no SystemCallFilter=~@mount; else start it outside"
        )
    if "selinux" in machine.lsms:
        why = f"{told}: SELinux is active"
        return Cause(
            "selinux", why, "look for a denial: ausearch -m avc -ts recent; then allow user_namespace create for its domain"
        )
    if machine.container:
        return Cause("container", f"{told} in {name_of(machine.container)}", container_options(machine))
    return None


def _filter(machine: Machine, told: str) -> Cause:
    who = f"the seccomp profile of {name_of(machine.container)}" if machine.container else "a seccomp filter"
    why = f"{told}: {who} forbids it (Seccomp: {machine.seccomp}, no CAP_SYS_ADMIN)"
    remedy = container_options(machine) if machine.container else "start it without the filter (systemd: SystemCallFilter=)"
    return Cause("seccomp", why, remedy)


def _confined(machine: Machine, told: str) -> Cause:
    why = f"{told}: the AppArmor profile {machine.apparmor} forbids it"
    if machine.container:
        return Cause("apparmor-profile", why, container_options(machine))
    # Deny rules are in force in complain mode, too (aa-complain(8)).
    remedy = f"aa-complain {machine.apparmor.split(' ')[0]}; a rule `deny userns` goes on even so: take it out and load the profile anew"
    return Cause("apparmor-profile", why, f"{remedy} (apparmor_parser -r FILE)")


def mounting(machine: Machine, number: int, call: str = "mount") -> Cause:
    """A mount was refused in a mount namespace of the builder's own."""
    told = answer(call, number)
    if number == _errno.ENOSYS:
        why = f"{told}: kernel {machine.kernel} is older than 5.12 (mount_setattr), or a filter hides the call"
        remedy = container_options(machine) if machine.seccomp == 2 and machine.container else "boot Linux 5.12 or later"
        return Cause("old-kernel", why, remedy)
    if number in (_errno.EPERM, _errno.EACCES):
        # Ubuntu lets the namespace be made and takes away what it is for.
        return _policy(machine, told) or Cause("unknown", told, _UNKNOWN)
    if number == _errno.ENOSPC:
        remedy = sysctl(machine, "fs.mount-max", 100000)
        return Cause("mount-max", f"{told}: a limit on mounts or mount namespaces is reached", remedy)
    return Cause("unknown", told, _UNKNOWN)


def namespace(machine: Machine, kind: str, number: int) -> Cause:
    """A namespace other than the user's was refused, `kind` as in /proc/PID/ns."""
    told = answer(f"unshare({kind} namespace)", number)
    if number == _errno.EINVAL:
        return Cause(
            f"no-{kind}-namespace",
            f"{told}: kernel {machine.kernel} was built without it",
            f"boot a kernel with {_CONFIG[kind]}=y",
        )
    if number == _errno.ENOSPC:
        name = f"user.max_{kind}_namespaces"
        return Cause(f"max-{kind}-namespaces", f"{told}: {name} is reached", sysctl(machine, name, 15000))
    return _policy(machine, told) or Cause("unknown", told, _UNKNOWN)


_CONFIG: Final = {
    "pid": "CONFIG_PID_NS", "net": "CONFIG_NET_NS", "uts": "CONFIG_UTS_NS", "ipc": "CONFIG_IPC_NS", "cgroup": "CONFIG_CGROUPS",
    "mnt": "CONFIG_NAMESPACES",
}  # fmt: skip


def fresh_proc(machine: Machine, number: int) -> Cause:
    """A /proc for a PID namespace of its own was refused."""
    told = answer("mount proc", number)
    if number == _errno.EPERM and machine.proc_masks:
        shown = ", ".join(machine.proc_masks[:3]) + (", …" if len(machine.proc_masks) > 3 else "")
        why = f"{told}: parts of /proc are covered ({shown}), and the kernel shows no more of it elsewhere (mount too revealing)"
        remedy = container_options(machine) if machine.container else f"umount {' '.join(machine.proc_masks)}"
        return Cause("masked-proc", why, remedy)
    return mounting(machine, number, "mount proc")


def overlay(machine: Machine, number: int, *, over_root: bool = False) -> Cause:
    """An overlay was refused.

    Args:
        over_root: its lower directory was the machine's root, else a tmpfs.
    """
    told = answer("mount overlay", number)
    if over_root and number == _errno.EINVAL and machine.root_type == "overlay":
        why = f"{told}: / is an overlay on an overlay already, and the kernel stacks no third"
        remedy = (
            "give the container volumes for the project and /tmp (docker run --volume … --tmpfs /tmp), "
            "or keep the engine's images on ext4 or xfs"
        )
        return Cause("nested-overlay", why, remedy)
    if number == _errno.ENODEV:
        where = "on the machine that runs the container: " if machine.container else ""
        return Cause(
            "no-overlay", f"{told}: the kernel has no overlay", f"{where}{'' if machine.uid == 0 else 'sudo '}modprobe overlay"
        )
    if number == _errno.EPERM and not machine.is_privileged:
        policy = _policy(machine, told)
        if policy is not None and policy.name != "container":
            return policy
        why = f"{told}: kernel {machine.kernel} has no overlay in user namespaces (Linux 5.11 has)"
        return Cause("old-kernel", why, "boot Linux 5.11 or later, or run pytest as root")
    return mounting(machine, number, "mount overlay")


def joining(machine: Machine, number: int) -> Cause:
    """A sandbox's namespaces can't be entered by its pidfd."""
    told = answer("setns(pidfd)", number)
    if number == _errno.EINVAL:
        return Cause("old-kernel", f"{told}: kernel {machine.kernel} is older than 5.8", "boot Linux 5.12 or later")
    if number == _errno.ENOSYS and not machine.container:
        return Cause("old-kernel", f"{told}: kernel {machine.kernel} is older than 5.3", "boot Linux 5.12 or later")
    if machine.seccomp == 2:
        return _filter(machine, told)
    return _policy(machine, told) or Cause("unknown", told, _UNKNOWN)


def subordinate_ids(machine: Machine, refused: str) -> Cause:
    """Why only one id can be mapped.

    Args:
        refused: what was answered where nothing lacks.
    """
    if not machine.newuidmap:
        package = {"debian": "apt install uidmap", "ubuntu": "apt install uidmap", "alpine": "apk add shadow-uidmap"}
        install = package.get(machine.distribution.split(" ")[0], "install newuidmap (package uidmap or shadow-utils)")
        return Cause("no-newuidmap", "newuidmap and newgidmap aren't installed", f"as root: {install}")
    if machine.subordinate:
        files = " and ".join(machine.subordinate)
        user = "$USER" if machine.uid else "root"
        remedy = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
        return Cause("no-subuid", f"no range for user {machine.uid} in {files}", remedy)
    remedy = f"as root: chmod u+s {machine.newuidmap}; it can't work below a nosuid mount or under no_new_privs"
    return Cause("newuidmap", f"{machine.newuidmap}: {refused}", remedy)


def counters(machine: Machine, number: int, paranoid: int | None) -> Cause:
    """Instructions can't be counted.

    Args:
        number: the errno; ENODATA: the counter stands still.
        paranoid: kernel.perf_event_paranoid.
    """
    told = answer("perf_event_open(PERF_COUNT_HW_INSTRUCTIONS)", number)
    if number in (_errno.ENOENT, _errno.EOPNOTSUPP, _errno.ENODEV, _errno.ENODATA):
        why = f"{told}: the processor shows no counters, as in most virtual machines"
        return Cause("no-counters", why, "run it on hardware, or let the virtual machine have them (KVM: -cpu host,pmu=on)")
    if number == _errno.ENOSYS and not machine.container:
        return Cause(
            "no-perf-events", f"{told}: kernel {machine.kernel} has no perf events", "boot a kernel with CONFIG_PERF_EVENTS=y"
        )
    if number == _errno.EACCES and paranoid is not None and paranoid > 2:
        why = f"{told}: kernel.perf_event_paranoid is {paranoid}"
        return Cause("perf-event-paranoid", why, sysctl(machine, "kernel.perf_event_paranoid", 2))
    if machine.seccomp == 2:
        why = f"{told}: a seccomp filter forbids it (Seccomp: 2)"
        engine = {"docker": "docker run --cap-add PERFMON", "podman": "podman run --cap-add PERFMON"}
        remedy = engine.get(machine.container, "start it without the filter, or give it CAP_PERFMON")
        return Cause("seccomp", why, remedy)
    return Cause("unknown", told, _UNKNOWN)
