"""Containers as users have them: Docker's defaults on runc with a bundle made by hand, Podman itself as root and as the user.

Their file system is the machine's own below an overlay (rootless: /usr bound into a skeleton), so nothing is
downloaded and the interpreter, the package and the test's directory are where they are outside. Docker's daemon
doesn't run on every test machine; what it would have runc do by default does, with the profile of moby's
`profiles/seccomp/default.json` reduced to what that refuses to a process without CAP_SYS_ADMIN.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from pytest_isolate.kernel.capabilities import DOCKER_DEFAULT
from tests.support.unprivileged import USER_ID, delegated_cgroup, find_python, run_as_user, user_directory

__all__ = ["Container", "docker", "engine_missing", "podman", "rootless_podman"]

_ROOT: Final = Path(__file__).parents[2]
_NEW_NAMESPACES: Final = 0x7E020000
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CAPABILITIES: Final = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO",
    "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG",
    "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM",
    "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
"""By number (capabilities(7))."""

_REFUSED: Final = (
    "add_key", "bpf", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "keyctl", "mount", "mount_setattr", "move_mount",
    "open_tree", "perf_event_open", "pivot_root", "quotactl", "request_key", "setdomainname", "sethostname", "setns", "swapon",
    "umount2", "unshare",
)  # fmt: skip

DOCKER_SECCOMP: Final[dict[str, Any]] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": [*_REFUSED], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        *(
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 1,
                "args": [{"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}],
            }
            for bit in (1 << number for number in range(32) if _NEW_NAMESPACES >> number & 1)
        ),
    ],
}


class Container:
    """A way to run commands, each in a container of its own.

    Attributes:
        directory: a directory that is at the same place inside, for suites.
        python: the interpreter inside.
    """

    def __init__(self, directory: Path, python: str, command: Callable[[list[str]], subprocess.CompletedProcess[str]]) -> None:
        self.directory, self.python, self._command = directory, python, command

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """A command in the container, in `directory`; output captured, status not checked."""
        return self._command(list(args))

    def doctor(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.python, "-m", "pytest_isolate", "doctor", *args)

    def pytest(self, code: str, *args: str) -> subprocess.CompletedProcess[str]:
        """pytest with the plugin and no other on a module of this `code`."""
        module = self.directory / "test_in_container.py"
        module.write_text(code, encoding="utf-8")
        module.chmod(0o644)
        plugin = ("-p", "pytest_isolate.plugin", "-p", "no:cacheprovider", "-rs")
        return self.run(self.python, "-m", "pytest", *plugin, *args, str(module))


def _environment(directory: Path, packages: Path) -> dict[str, str]:
    return {
        "PATH": _PATH,
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "160",
        "XDG_CACHE_HOME": str(directory / "cache"),
        "PYTHONPATH": str(packages),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


def engine_missing(name: str) -> str:
    """Why an engine (``runc``, ``podman``, ``podman-rootless``) can't be used here, found by running ``true``; empty if it can."""
    program = name.partition("-")[0]
    if os.geteuid() != 0:
        return "the containers' file systems are mounted by root"
    if not shutil.which(program) or not shutil.which("runc"):
        return f"{program} isn't installed (apt install {'runc' if program == 'runc' else 'podman runc'})"
    try:
        with _ENGINES[name]() as container:
            done = container.run("true")
    except (OSError, LookupError, subprocess.SubprocessError) as error:
        return f"{name}: {error}"
    return "" if done.returncode == 0 else f"{name}: {done.stderr.strip() or done.stdout.strip() or done.returncode}"


@contextmanager
def docker(
    *, privileged: bool = False, seccomp: bool = True, unmasked: bool = False, nested: bool = False
) -> Iterator[Container]:
    """As ``docker run`` does it, on runc.

    Args:
        privileged: ``--privileged``.
        seccomp: False: ``--security-opt seccomp=unconfined``.
        unmasked: ``--security-opt systempaths=unconfined``.
        nested: the root is an overlay whose lower directory is an overlay.
    """
    with ExitStack() as stack:
        bundle = stack.enter_context(_directory())
        root = stack.enter_context(_overlay("/", bundle / "outer" if nested else bundle))
        if nested:
            root = stack.enter_context(_overlay(str(root), bundle))
        (root / ".dockerenv").touch()
        config = _config(root, bundle / "work", privileged=privileged, seccomp=seccomp, unmasked=unmasked)
        (bundle / "work").mkdir()
        numbers = iter(range(1000))

        def command(args: list[str]) -> subprocess.CompletedProcess[str]:
            config["process"]["args"] = args
            (bundle / "config.json").write_text(json.dumps(config))
            name = f"isolate-tests-{os.getpid()}-{bundle.name}-{next(numbers)}"
            return _run(["runc", "--root", str(bundle / "state"), "run", "--bundle", str(bundle), name])

        yield Container(bundle / "work", sys.executable, command)


@contextmanager
def podman(*options: str) -> Iterator[Container]:
    """``podman run`` as root, with its own seccomp profile."""
    with ExitStack() as stack:
        place = stack.enter_context(_directory())
        root = stack.enter_context(_overlay("/", place))
        work = place / "work"
        work.mkdir()
        parent = f"isolate-tests-podman-{os.getpid()}"
        stack.callback(_remove_cgroups, parent)
        volumes = [f"--volume={path}:{path}:rw" for path in (work, *_elsewhere())]
        base = [*_podman(place), f"--cgroup-parent=/{parent}", *volumes, f"--workdir={work}", *options]
        env = [f"--env={name}={value}" for name, value in _environment(work, _ROOT).items()]
        yield Container(work, sys.executable, lambda args: _run([*base, *env, "--rootfs", str(root), *args]))


@contextmanager
def rootless_podman(*options: str) -> Iterator[Container]:
    """``podman run`` as the unprivileged user: root of a user namespace with the user's subordinate ids."""
    python, tree = Path(str(find_python())), _tree_of_user()
    with user_directory() as place, delegated_cgroup():
        root, work = place / "rootfs", place / "work"
        # Not the directory that holds the root file system: an unmasked /proc would be in sight below it.
        volumes = {python.parents[1]: "ro", tree: "ro", work: "rw"}
        inside = [root / str(path).lstrip("/") for path in volumes]
        for directory in (work, place / "run", *(root / name for name in _SKELETON), *inside):
            directory.mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (root / name).symlink_to(f"usr/{name}")
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        for entry in (place, *place.rglob("*")):
            os.chown(entry, USER_ID, USER_ID, follow_symlinks=False)
        mounted = [f"--volume={path}:{path}:{mode}" for path, mode in {Path("/usr"): "ro", **volumes}.items()]
        base = [*_podman(place), *mounted, f"--workdir={work}", *options]
        env = [f"--env={name}={value}" for name, value in _environment(work, tree).items()]
        outside = {"HOME": str(place), "XDG_RUNTIME_DIR": str(place / "run")}
        yield Container(
            work, str(python), lambda args: run_as_user([*base, *env, "--rootfs", str(root), *args], cwd=place, env=outside)
        )


_SKELETON: Final = ("dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp")

_ENGINES: Final[dict[str, Callable[[], AbstractContextManager[Container]]]] = {
    "runc": docker,
    "podman": podman,
    "podman-rootless": rootless_podman,
}


def _tree_of_user() -> Path:
    done = run_as_user([str(find_python()), "-c", "import pytest_isolate; print(pytest_isolate.__path__[0])"])
    return Path(done.stdout.strip()).parent


def _podman(place: Path) -> list[str]:
    """Its own storage, and no limit above what the caller may set (a machine without CAP_SYS_RESOURCE)."""
    limits = [("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)]
    hard = {name: min(resource.getrlimit(number)[1], 4096) for name, number in limits}
    return [
        "podman", "--root", str(place / "storage"), "--runroot", str(place / "run"), "--storage-driver=vfs",
        "--cgroup-manager=cgroupfs", "--runtime=runc", "--events-backend=none", "run", "--rm", "--network=none",
        *(f"--ulimit={name}={limit if limit > 0 else 4096}" for name, limit in hard.items()),
    ]  # fmt: skip


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=120)


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory on a tmpfs: an overlay's upper may not lie on an overlay, and the root's own has it as lower."""
    base = Path(f"/run/isolate-tests-{os.getpid()}-{os.urandom(3).hex()}")
    base.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", base], check=True, capture_output=True)
        try:
            yield base
        finally:
            subprocess.run(["umount", "--lazy", base], check=False, capture_output=True)
    finally:
        base.rmdir()


@contextmanager
def _overlay(lower: str, place: Path) -> Iterator[Path]:
    for name in ("upper", "work.overlay", "rootfs"):
        (place / name).mkdir(parents=True)
    root = place / "rootfs"
    options = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work.overlay"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", root], check=True, capture_output=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", "--lazy", root], check=True, capture_output=True)


def _elsewhere() -> list[Path]:
    """What tests need and the overlay of the root doesn't show, because other mounts hold it."""
    device = os.stat("/").st_dev
    paths = {_ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    return [path for path in sorted(paths) if path.stat().st_dev != device and not any(up in paths for up in path.parents)]


def _remove_cgroups(parent: str) -> None:
    for base in Path("/sys/fs/cgroup").glob(f"**/{parent}"):
        for path in sorted((base, *(found for found in base.rglob("*") if found.is_dir())), reverse=True):
            path.rmdir()


def _capability_names(*, privileged: bool) -> list[str]:
    """Docker's default set, or all that this machine lets anybody have."""
    with open("/proc/self/status", encoding="ascii") as file:
        bounding = int(next(line.split()[1] for line in file if line.startswith("CapBnd:")), 16)
    wanted = range(len(_CAPABILITIES)) if privileged else sorted(DOCKER_DEFAULT)
    return [f"CAP_{_CAPABILITIES[number]}" for number in wanted if bounding >> number & 1]


def _config(root: Path, work: Path, *, privileged: bool, seccomp: bool, unmasked: bool) -> dict[str, Any]:
    """config.json of the OCI runtime specification, as Docker fills it in."""
    capabilities = _capability_names(privileged=privileged)
    quiet = ["nosuid", "nodev", "noexec"]
    kernel_options = quiet if privileged else [*quiet, "ro"]
    binds = [(str(path), str(path)) for path in (work, *_elsewhere())]
    open_paths = privileged or unmasked
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "env": [f"{name}={value}" for name, value in _environment(work, _ROOT).items()],
            "cwd": str(work),
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "root": {"path": str(root)},
        "hostname": "container",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": quiet},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*quiet, "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": kernel_options},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": kernel_options},
            *({"destination": to, "type": "bind", "source": source, "options": ["rbind", "rw"]} for source, to in binds),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {} if privileged else {"devices": [{"allow": False, "access": "rwm"}]},
            **({"seccomp": DOCKER_SECCOMP} if seccomp and not privileged else {}),
            "maskedPaths": [] if open_paths else ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": [] if open_paths else ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }  # fmt: skip
