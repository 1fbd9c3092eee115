"""What to type so that it works, for one machine, in the place where it runs."""

from __future__ import annotations

from typing import Final

from pytest_isolate.machine.facts import Machine

__all__ = ["advice", "cgroup_remedy", "container_options", "name_of", "sysctl"]

_NAMES: Final = {
    "docker": "a Docker container",
    "podman": "a Podman container",
    "kubernetes": "a Kubernetes pod",
    "lxc": "an LXC container",
    "systemd-nspawn": "a systemd-nspawn container",
    "container": "a container",
    "wsl2": "WSL 2",
    "wsl1": "WSL 1",
    "github-actions": "GitHub Actions",
    "gitlab-ci": "GitLab CI",
}


def name_of(place: str) -> str:
    """A container or place of `Machine` in words."""
    return _NAMES.get(place, place)


def sysctl(machine: Machine, name: str, value: int) -> str:
    """The command that sets a sysctl, and where it has to be typed."""
    if "github-actions" in machine.places and not machine.container:
        return f"a step before pytest: run: sudo sysctl -w {name}={value}"
    command = f"sysctl -w {name}={value}"
    if machine.container:
        return f"on the machine that runs the container, as root: {command}"
    keep = f"; to keep it: echo '{name}={value}' > /etc/sysctl.d/60-pytest-isolate.conf"
    return f"{command if machine.uid == 0 else f'sudo {command}'}{keep if machine.uid == 0 else ''}"


def container_options(machine: Machine) -> str:
    """How to start the container so that it lets sandboxes be built: everything that is refused now, and the short way."""
    masked = bool(machine.proc_masks)
    # A filter that lets unshare(2) pass (Podman's) is in nobody's way, unless nothing else is.
    filtered = bool(machine.unshare_errno) or (machine.seccomp == 2 and not masked)
    if machine.container == "kubernetes":
        return (
            "in the pod's container: securityContext: {privileged: true}; or, with a user namespace of the pod's own "
            "(hostUsers: false): seccompProfile: {type: Unconfined}, appArmorProfile: {type: Unconfined}, procMount: Unmasked"
        )
    if machine.container == "lxc":
        return "on the host: lxc config set NAME security.nesting true, then restart the container"
    if machine.container == "systemd-nspawn":
        return "start it with: SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 systemd-nspawn …"
    podman = machine.container == "podman"
    options = ["seccomp=unconfined"] if filtered else []
    if machine.confined:
        options.append("apparmor=unconfined")
    if masked:
        options.append("unmask=ALL" if podman else "systempaths=unconfined")
    if "gitlab-ci" in machine.places:
        listed = ", ".join(f'"{option}"' for option in options)
        lines = f"security_opt = [{listed}], or " if options else ""
        return f"in the runner's config.toml, below [runners.docker]: {lines}privileged = true, which allows caps too"
    if "github-actions" in machine.places:
        return f"in the job: container: options: {_joined(options) or '--privileged'} (or --privileged, which allows caps too)"
    program = "podman run" if podman else "docker run"
    if not options:
        return f"{program} --privileged"
    return f"{program} {_joined(options)}; or {program} --privileged, which allows caps too"


def _joined(options: list[str]) -> str:
    return " ".join(f"--security-opt {option}" for option in options)


def advice(machine: Machine, *, works: bool, caps: bool) -> list[tuple[str, str]]:
    """Each place that the machine is recognised as, and a sentence on what is special there.

    Args:
        works: a bare sandbox does.
        caps: every cap can be set.
    """
    found = []
    for place in filter(None, (*machine.places, machine.container)):
        text = _SPECIAL.get(place, "")
        if place in ("docker", "podman", "kubernetes", "lxc", "systemd-nspawn", "container"):
            text = _in_container(machine, works=works, caps=caps)
        found.append((name_of(place), text))
    return found


def _in_container(machine: Machine, *, works: bool, caps: bool) -> str:
    if not works:
        return "as it was started, no sandbox can be built in it"
    if not caps:
        return f"caps need cgroups that can be written: {_writable_cgroups(machine)}"
    return "it lets sandboxes and caps be made"


def cgroup_remedy(machine: Machine, why: str, remedy: str) -> str:
    """`remedy`, or in a container the one for its engine.

    Args:
        why: what the cgroup modules found; a hierarchy that is ``read-only`` is the engine's doing.
    """
    if machine.container and ("read-only" in why or not machine.initial_user_namespace):
        return _writable_cgroups(machine)
    return remedy


def _writable_cgroups(machine: Machine) -> str:
    command = _PRIVILEGED.get(machine.container, "run the container privileged")
    if machine.initial_user_namespace:
        return command
    return f"sudo {command}; or without sudo where the machine is on cgroup v2 with systemd, which gives the user a cgroup"


_PRIVILEGED: Final = {
    "docker": "docker run --privileged",
    "podman": "podman run --privileged",
    "kubernetes": "securityContext: {privileged: true}",
}

_SPECIAL: Final = {
    "wsl2": "caps need cgroups that you may write: put systemd=true below [boot] in /etc/wsl.conf, then wsl --shutdown; "
    "keep the project in the Linux file system, not below /mnt/c",
    "wsl1": "there is no Linux kernel under it, so no namespaces: wsl --set-version DISTRIBUTION 2",
    "github-actions": "ubuntu-24.04 and later forbid unprivileged user namespaces until a step says "
    "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; caps: sudo loginctl enable-linger $USER, then "
    "XDG_RUNTIME_DIR=/run/user/$(id -u) systemd-run --user --scope -p Delegate=yes pytest …",
    "gitlab-ci": "jobs of the Docker executor are containers: what they may do is in the runner's config.toml, below [runners.docker]; "
    "jobs of the shell executor run on the machine itself",
}
