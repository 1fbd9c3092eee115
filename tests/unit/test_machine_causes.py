"""The causes of a refusal that can't all be provoked on one machine: facts in, cause and remedy out."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from pytest_isolate.machine.causes import (
    counters,
    fresh_proc,
    joining,
    mounting,
    namespace,
    overlay,
    subordinate_ids,
    user_namespace,
)
from pytest_isolate.machine.explain import explained
from pytest_isolate.machine.facts import CAP_SYS_ADMIN, Machine
from pytest_isolate.machine.remedies import advice, cgroup_remedy
from pytest_isolate.model.errors import IsolateError, MissingCapability, SandboxGone, SetupError, SpecError

UBUNTU = Machine(kernel="6.8.0-31-generic", distribution="ubuntu 24.04", apparmor="unconfined", apparmor_userns=1, userns_clone=1)
DEBIAN = Machine(kernel="5.10.0-8-amd64", distribution="debian 11", userns_clone=0)
DOCKER = Machine(
    uid=0, capabilities=0xA80425FB, seccomp=2, unshare_errno=errno.EPERM, container="docker", proc_masks=("/proc/keys",)
)
ROOT = Machine(uid=0, capabilities=(1 << 41) - 1)


@pytest.mark.parametrize(
    "machine,number,name,why,remedy",
    [
        (UBUNTU, errno.EPERM, "apparmor-userns", "apparmor_restrict_unprivileged_userns is 1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        (UBUNTU, errno.EACCES, "apparmor-userns", "EACCES", "apparmor_restrict_unprivileged_userns=0"),
        (DEBIAN, errno.EPERM, "userns-clone", "kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        (Machine(max_user_namespaces=0), errno.ENOSPC, "max-user-namespaces", "user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=15000"),
        (Machine(max_user_namespaces=7), errno.ENOSPC, "max-user-namespaces", "is 7, here or in a namespace around", "user.max_user_namespaces=15000"),
        (replace(ROOT, max_user_namespaces=0), errno.ENOSPC, "max-user-namespaces", "is 0", "sysctl -w user.max_user_namespaces=15000; to keep it: "),
        (DOCKER, errno.EPERM, "seccomp", "seccomp profile of a Docker container", "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined; or"),
        (replace(DOCKER, apparmor="docker-default (enforce)"), errno.EPERM, "seccomp", "Seccomp: 2", "--security-opt apparmor=unconfined"),
        (replace(DOCKER, container="podman"), errno.EPERM, "seccomp", "a Podman container", "podman run --security-opt seccomp=unconfined --security-opt unmask=ALL"),
        (replace(DOCKER, container="kubernetes"), errno.EPERM, "seccomp", "a Kubernetes pod", "securityContext"),
        (replace(DOCKER, places=("gitlab-ci",)), errno.EPERM, "seccomp", "Docker", 'config.toml, below [runners.docker]: security_opt = ["seccomp=unconfined", "systempaths=unconfined"]'),
        (replace(DOCKER, places=("github-actions",)), errno.EPERM, "seccomp", "Docker", "container: options: --security-opt seccomp=unconfined"),
        (replace(UBUNTU, places=("github-actions",)), errno.EPERM, "apparmor-userns", "Ubuntu", "a step before pytest: run: sudo sysctl -w"),
        (Machine(places=("wsl1",)), errno.EINVAL, "wsl1", "WSL 1", "wsl --set-version"),
        (Machine(kernel="5.4.0"), errno.EINVAL, "no-userns", "kernel 5.4.0 was built without", "CONFIG_USER_NS=y"),
        (Machine(chrooted=True), errno.EPERM, "chroot", "in a chroot", "outside of the chroot"),
        (Machine(apparmor="/usr/bin/tool (enforce)"), errno.EACCES, "apparmor-profile", "AppArmor profile /usr/bin/tool", "aa-complain /usr/bin/tool"),
        (Machine(seccomp=2), errno.EPERM, "seccomp", "a seccomp filter", "RestrictNamespaces=no"),
        (Machine(lsms=("lockdown", "selinux")), errno.EACCES, "selinux", "SELinux", "ausearch"),
        (Machine(container="lxc"), errno.EPERM, "container", "an LXC container", "security.nesting true"),
        (Machine(), errno.EPERM, "unknown", "EPERM", "doctor"),
    ],
)  # fmt: skip
def test_refused_user_namespace_has_its_own_cause_and_remedy(
    machine: Machine, number: int, name: str, why: str, remedy: str
) -> None:
    cause = user_namespace(machine, number)
    assert cause.name == name
    assert cause.why.startswith("unshare(CLONE_NEWUSER): " + errno.errorcode[number])
    assert why in cause.why
    assert remedy in cause.remedy


def test_restrictions_of_unprivileged_users_are_not_blamed_for_what_root_is_refused() -> None:
    for machine in (UBUNTU, DEBIAN):
        root = replace(machine, uid=0, capabilities=1 << CAP_SYS_ADMIN)
        assert user_namespace(root, errno.EPERM).name == "unknown"
        # The same set inside a user namespace, as the builder has it, is no privilege over the machine.
        assert user_namespace(replace(root, initial_user_namespace=False), errno.EPERM).name != "unknown"


def test_ubuntu_refuses_the_first_mount_instead_of_the_namespace() -> None:
    inside = replace(UBUNTU, initial_user_namespace=False, capabilities=(1 << 41) - 1)
    error = explained(SetupError("make mounts private", "/", errno.EACCES), lambda: inside)
    assert isinstance(error, MissingCapability)
    assert (error.capability, error.keys) == ("mounts", [])
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in error.hint


def test_masked_proc_is_told_from_other_refusals() -> None:
    masked = Machine(proc_masks=("/proc/acpi", "/proc/bus", "/proc/keys", "/proc/sys"), container="docker")
    cause = fresh_proc(masked, errno.EPERM)
    assert cause.name == "masked-proc"
    assert "/proc/acpi, /proc/bus, /proc/keys, …" in cause.why
    assert "docker run --security-opt systempaths=unconfined" in cause.remedy
    assert fresh_proc(replace(masked, container=""), errno.EPERM).remedy == "umount /proc/acpi /proc/bus /proc/keys /proc/sys"
    assert fresh_proc(UBUNTU, errno.EPERM).name == "apparmor-userns"


@pytest.mark.parametrize(
    "machine,number,over_root,name,remedy",
    [
        (Machine(kernel="5.10.0"), errno.EPERM, False, "old-kernel", "boot Linux 5.11 or later"),
        (ROOT, errno.ENODEV, False, "no-overlay", "modprobe overlay"),
        (replace(DOCKER, unshare_errno=0), errno.ENODEV, False, "no-overlay", "on the machine that runs the container: "),
        (replace(ROOT, root_type="overlay"), errno.EINVAL, True, "nested-overlay", "--tmpfs /tmp"),
        (UBUNTU, errno.EPERM, False, "apparmor-userns", "sysctl"),
    ],
)  # fmt: skip
def test_refused_overlay(machine: Machine, number: int, over_root: bool, name: str, remedy: str) -> None:
    cause = overlay(machine, number, over_root=over_root)
    assert cause.name == name
    assert remedy in cause.remedy


def test_refused_mount_and_namespace_and_setns() -> None:
    assert mounting(Machine(kernel="5.10"), errno.ENOSYS).name == "old-kernel"
    assert mounting(Machine(), errno.ENOSPC).name == "mount-max"
    assert namespace(Machine(), "net", errno.ENOSPC).remedy.startswith("sudo sysctl -w user.max_net_namespaces=")
    assert "CONFIG_PID_NS=y" in namespace(Machine(), "pid", errno.EINVAL).remedy
    assert joining(Machine(kernel="5.4"), errno.EINVAL).name == "old-kernel"
    assert joining(DOCKER, errno.EPERM).name == "seccomp"


def test_subordinate_ids_lack_the_package_the_range_or_the_privilege() -> None:
    assert subordinate_ids(Machine(newuidmap="", distribution="debian 12"), "").remedy == "as root: apt install uidmap"
    assert subordinate_ids(Machine(newuidmap="", distribution="fedora 40"), "").name == "no-newuidmap"
    missing = subordinate_ids(Machine(subordinate=("/etc/subgid",)), "")
    assert missing.name == "no-subuid"
    assert "/etc/subgid" in missing.why
    assert "usermod --add-subuids" in missing.remedy
    assert "chmod u+s /usr/bin/newuidmap" in subordinate_ids(Machine(), "refused").remedy


@pytest.mark.parametrize(
    "error",
    [
        SetupError("writable=", "/no/such", errno.ENOENT, "make it"),
        SetupError("mount tmpfs", "/x", errno.ENOMEM),
        SetupError("start init", detail="it was killed"),
        SandboxGone("gone"),
        SpecError("cpu", "bad", "good"),
        MissingCapability("userns", [], "why", "remedy"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_the_machine_has_no_part_in_stay_as_they_are(error: IsolateError) -> None:
    def never() -> Machine:
        raise AssertionError("facts were read for nothing")

    assert explained(error, never) is error


def test_id_that_cannot_be_mapped_is_not_blamed_on_a_policy() -> None:
    error = SetupError("write id map", "/proc/7/uid_map", errno.EPERM, "give another id")
    assert explained(error, lambda: UBUNTU) is error


def test_refusal_without_a_known_cause_stays_as_it_is() -> None:
    error = SetupError("mount tmpfs", "/x", errno.EPERM, "hint")
    assert explained(error, Machine) is error


def test_read_only_cgroups_are_the_engines_doing() -> None:
    error = MissingCapability("cgroup-memory", ["memory"], "/sys/fs/cgroup is mounted read-only", "something")
    told = explained(error, lambda: replace(DOCKER, container="podman"))
    assert isinstance(told, MissingCapability)
    assert (told.keys, told.why, told.hint) == (["memory"], error.why, "podman run --privileged")
    assert cgroup_remedy(Machine(), "can't be written", "delegate it") == "delegate it"
    assert "sudo podman run" in cgroup_remedy(Machine(container="podman", initial_user_namespace=False), "can't be written", "x")


def test_advice_names_every_place() -> None:
    everywhere = replace(DOCKER, places=("wsl2", "github-actions", "gitlab-ci"))
    told = dict(advice(everywhere, works=False, caps=False))
    assert list(told) == ["WSL 2", "GitHub Actions", "GitLab CI", "a Docker container"]
    assert "/etc/wsl.conf" in told["WSL 2"]
    assert "config.toml" in told["GitLab CI"]
    assert "apparmor_restrict_unprivileged_userns=0" in told["GitHub Actions"]
    assert dict(advice(DOCKER, works=True, caps=False))["a Docker container"].endswith("docker run --privileged")
    assert advice(Machine(), works=True, caps=True) == []


@pytest.mark.parametrize(
    "machine,number,paranoid,name,why,remedy",
    [
        (ROOT, errno.ENOENT, 2, "no-counters", "ENOENT (No such file or directory): the processor shows no counters", "pmu=on"),
        (ROOT, errno.EOPNOTSUPP, 2, "no-counters", "shows no counters", "pmu=on"),
        (ROOT, errno.ENODATA, 2, "no-counters", "ENODATA", "pmu=on"),
        (
            Machine(),
            errno.EACCES,
            4,
            "perf-event-paranoid",
            "kernel.perf_event_paranoid is 4",
            "sudo sysctl -w kernel.perf_event_paranoid=2",
        ),
        (DOCKER, errno.EPERM, 2, "seccomp", "a seccomp filter forbids it", "docker run --cap-add PERFMON"),
        (Machine(seccomp=2), errno.EPERM, 2, "seccomp", "a seccomp filter forbids it", "CAP_PERFMON"),
        (Machine(kernel="6.1"), errno.ENOSYS, None, "no-perf-events", "kernel 6.1 has no perf events", "CONFIG_PERF_EVENTS=y"),
        (Machine(), errno.EBUSY, 2, "unknown", "EBUSY", "report"),
    ],
)
def test_refused_counters(machine: Machine, number: int, paranoid: int | None, name: str, why: str, remedy: str) -> None:
    cause = counters(machine, number, paranoid)
    assert (cause.name, why in cause.why, remedy in cause.remedy) == (name, True, True), cause
