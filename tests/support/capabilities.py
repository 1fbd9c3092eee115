"""The one way for a test to be skipped: `@requires("cgroup-memory", "root")`.

Each capability has a probe that does the thing in small and says why it doesn't work: for what sandboxes are made of it is the
doctor's (`pytest_isolate.probe`). What is missing skips the
test, by name, so that a run shows what it did not check; `ISOLATE_REQUIRE=all`, or a comma list of names,
turns those skips into failures (CI sets it: a machine that lost a capability is a red build). `all,!root` demands all but that one.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import pytest

from pytest_isolate.kernel import perf_event
from pytest_isolate.kernel.cgroup import IoCap, detect
from pytest_isolate.kernel.mounts import mountinfo
from pytest_isolate.model.errors import IsolateError
from pytest_isolate.probe.capability import Report
from tests.support.unprivileged import USER_ID, find_python, run_as_user

__all__ = ["layout_here", "on_layout", "pytest_configure", "pytest_runtest_setup", "requires", "why_missing"]

_ROOT: Final = Path(__file__).parents[2]


def requires(*names: str) -> pytest.MarkDecorator:
    """Marker of a test that can't run without the capabilities `names`. Raises KeyError for an unknown one."""
    for name in names:
        _PROBES[name]
    return pytest.mark.requires(*names)


def on_layout(*names: str) -> pytest.MarkDecorator:
    """Marker of a test of what only such machines have: ``v1``, ``hybrid``, ``v2``; ``mixed`` is a hybrid with memory on v2.

    Elsewhere it is skipped, whatever ISOLATE_REQUIRE says: no machine has all of them. CI has the machine that it runs on and
    virtual ones (`tox -e vm`).
    """
    return pytest.mark.on_layout(*names)


@cache
def layout_here() -> str:
    """As `on_layout` calls it."""
    layout = detect().layout
    v1 = [line.split(":")[1].split(",") for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return "mixed" if layout == "hybrid" and ["memory"] not in v1 else layout


@cache
def why_missing(name: str) -> str:
    """What the machine answered to the probe of `name`; empty where the capability is there."""
    return _PROBES[name]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "on_layout(*names): only where cgroups are laid out so (tests/support/capabilities.py)")
    config.addinivalue_line("markers", "requires(*names): skip where a capability is missing (tests/support/capabilities.py)")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("on_layout"):
        if (layout := layout_here()) not in mark.args:
            pytest.skip(f"cgroup layout {layout}, and this is about {' and '.join(mark.args)}")
    demanded = os.environ.get("ISOLATE_REQUIRE", "").split(",")
    for name in dict.fromkeys(name for mark in item.iter_markers("requires") for name in mark.args):
        if why := why_missing(name):
            if name in demanded or ("all" in demanded and f"!{name}" not in demanded):
                pytest.fail(f"ISOLATE_REQUIRE demands {name}: {why}", pytrace=False)
            pytest.skip(f"{name}: {why}")


def _root() -> str:
    return "" if os.geteuid() == 0 else f"running as user {os.geteuid()}"


def _unprivileged_user() -> str:
    if os.geteuid() != 0:
        return ""
    return "" if find_python() else f"no Python >= 3.11 that user {USER_ID} can run with this package"


@cache
def _report(*, user: bool = False) -> Report:
    """The doctor's examination of this machine, for us or for the unprivileged user. Raises RuntimeError with what it printed."""
    command = ["-m", "pytest_isolate", "doctor", "--json"]
    uncached = {"XDG_CACHE_HOME": os.devnull}
    if user and os.geteuid() == 0:
        done = run_as_user([str(find_python()), *command], env=uncached)
    else:
        env = {**os.environ, "PYTHONPATH": str(_ROOT), **uncached}
        done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
    try:
        return Report.from_json(json.loads(done.stdout))
    except ValueError:
        raise RuntimeError(done.stdout + done.stderr) from None


def _probed(name: str, *, user: bool = False) -> Callable[[], str]:
    """A capability that the doctor tries; one that works in a weaker way only isn't what a test asks for."""

    def probe() -> str:
        found = _report(user=user)[name]
        return "" if found.state == "works" else found.why

    return probe


def _engine(name: str) -> Callable[[], str]:
    def probe() -> str:
        from tests.support.containers import engine_missing

        return engine_missing(name)

    return probe


def _disk() -> str:
    """The temporary directory lies on a block device."""
    try:
        IoCap.of(os.environ.get("TMPDIR", "/tmp"), None, 1)
    except IsolateError as error:
        return error.message
    return ""


def _fuse_overlay() -> str:
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse"
    return "" if shutil.which("fuse-overlayfs") else "fuse-overlayfs isn't installed"


def _emulator() -> str:
    return "" if shutil.which("qemu-aarch64-static") else "qemu-aarch64-static isn't installed (apt install qemu-user-static)"


def _chromium() -> str:
    for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if missing := _program(program, package)():
            return missing
    return _distribution("selenium")()


def _postgresql() -> str:
    return "" if shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) else "postgresql isn't installed"


def _program(name: str, package: str) -> Callable[[], str]:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return lambda: "" if shutil.which(name, path=path) else f"{name} isn't installed (apt install {package})"


def _nft() -> str:
    """nf_tables in a network namespace of our own, and the program that shows what is there."""
    if os.geteuid() != 0:
        return _root()
    if missing := _program("nft", "nftables")():
        return missing
    command = ["unshare", "-n", "nft", "add table inet tried; list ruleset"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()


def _user_counters() -> str:
    """An unprivileged user counts events of its own processes."""
    paranoid = perf_event.paranoid()
    return "" if paranoid is not None and paranoid <= 2 else f"kernel.perf_event_paranoid is {paranoid}"


def _mmdebstrap() -> str:
    """The program, and packages to be had."""
    if missing := _program("mmdebstrap", "mmdebstrap")():
        return missing
    try:
        socket.create_connection(("deb.debian.org", 80), 10).close()
    except OSError as error:
        return f"no way to deb.debian.org: {error}"
    return ""


def _distribution(name: str) -> Callable[[], str]:
    def probe() -> str:
        try:
            version(name)
        except PackageNotFoundError:
            return "not installed; pip install '.[test]' has it"
        return ""

    return probe


_PLUGINS: Final = (
    "anyio", "hypothesis", "pytest-asyncio", "pytest-benchmark", "pytest-cov", "pytest-django", "pytest-flask", "pytest-html",
    "pytest-json-report",
    "pytest-mock", "pytest-randomly", "pytest-reportlog", "pytest-rerunfailures", "pytest-timeout", "pytest-xdist", "syrupy",
)  # fmt: skip

_PROBED: Final = (
    "pid-namespace", "net-namespace", "mounts", "proc", "overlay", "pidfd", "subordinate-ids", "cgroup-cpu", "cgroup-memory",
    "cgroup-pids", "cgroup-io", "cgroup-swap", "kmsg", "instructions", "loop-device", "bridge", "uplink", "tbf", "netem", "sandbox",
)  # fmt: skip

_PROBES: Final[dict[str, Callable[[], str]]] = {
    **{f"plugin-{name}": _distribution(name) for name in _PLUGINS},
    "root": _root,
    "unprivileged-user": _unprivileged_user,
    # An unprivileged user makes one.
    "userns": _probed("userns", user=True),
    "user-counters": _user_counters,
    **{name: _probed(name) for name in _PROBED},
    **{f"engine-{name}": _engine(name) for name in ("runc", "podman", "podman-rootless")},
    "disk": _disk,
    "qemu-aarch64": _emulator,
    "fuse-overlayfs": _fuse_overlay,
    "nft": _nft,
    "pasta": _program("pasta", "passt"),
    "slirp4netns": _program("slirp4netns", "slirp4netns"),
    "iptables-legacy": _program("iptables-legacy", "iptables"),
    "redis-server": _program("redis-server", "redis-server"),
    "nginx": _program("nginx", "nginx-light"),
    "postgresql": _postgresql,
    "chromium": _chromium,
    **{name: _program(name, name) for name in ("skopeo", "umoci", "buildah", "podman", "zstd")},
    "mmdebstrap": _mmdebstrap,
    "strace": lambda: "" if shutil.which("strace") else "strace isn't installed",
    "cgroup2": lambda: "" if any(mount.fstype == "cgroup2" for mount in mountinfo()) else "no cgroup v2 tree is mounted",
    "two-cpus": lambda: "" if len(os.sched_getaffinity(0)) > 1 else "there is one CPU to run on",
    "machine-code": lambda: "" if platform.machine() in ("x86_64", "aarch64") else f"there is none for {platform.machine()}",
}

if __name__ == "__main__":
    for capability in _PROBES:
        print(f"{capability:20} {why_missing(capability) or 'yes'}")
