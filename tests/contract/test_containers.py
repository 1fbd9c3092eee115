"""Inside containers, real ones: the doctor, an isolated test, and what `--isolate-missing` makes of a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.support.capabilities import requires
from tests.support.containers import Container, docker, podman, rootless_podman

SUITE = """
import os
import socket
import pytest

@pytest.mark.isolate
def test_bare():
    assert os.getpid() != 1
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    open("/tmp/written-inside", "w").close()

def test_plain():
    assert not os.path.exists("/tmp/written-inside")
"""

UNMASKED = ("--security-opt", "unmask=ALL")


def doctor(container: Container) -> dict[str, Any]:
    """The report, once its exit status is what it says."""
    done = container.doctor("--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if report["ready"] else 1), done.stderr
    return report


def capability(report: dict[str, Any], name: str) -> dict[str, str]:
    found: dict[str, str] = next(entry for entry in report["capabilities"] if entry["name"] == name)
    return found


@pytest.fixture(scope="module")
def default_docker() -> Iterator[Container]:
    with docker() as container:
        yield container


@requires("engine-runc")
def test_docker_default_is_named_by_the_doctor_which_exits_1(default_docker: Container) -> None:
    report = doctor(default_docker)
    userns = capability(report, "userns")
    assert (userns["state"], userns["cause"]) == ("missing", "seccomp")
    assert "unshare(CLONE_NEWUSER): EPERM" in userns["why"]
    assert "seccomp profile of a Docker container" in userns["why"]
    assert "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined" in userns["remedy"]
    assert [place["name"] for place in report["places"]] == ["a Docker container"]
    assert {key["state"] for key in report["keys"]} == {"missing"}


@requires("engine-runc")
def test_docker_default_fails_an_isolated_test_with_the_remedy_and_runs_a_plain_one(default_docker: Container) -> None:
    done = default_docker.pytest(SUITE)
    assert done.returncode == 1
    assert "1 passed, 1 error" in done.stdout
    assert "the sandbox needs userns: unshare(CLONE_NEWUSER): EPERM (Operation not permitted): the seccomp profile" in done.stdout
    assert "remedy: docker run --security-opt seccomp=unconfined" in done.stdout


@requires("engine-runc")
def test_docker_default_skips_an_isolated_test_if_the_run_says_so(default_docker: Container) -> None:
    done = default_docker.pytest(SUITE, "--isolate-missing=skip")
    assert done.returncode == 0
    assert "1 passed, 1 skipped" in done.stdout
    assert "isolate: the sandbox needs userns: " in done.stdout


@requires("engine-runc")
def test_docker_default_never_runs_a_test_outside_for_want_of_a_sandbox(default_docker: Container) -> None:
    done = default_docker.pytest(SUITE, "--isolate-missing=weaken")
    assert done.returncode == 1
    assert "1 passed, 1 error" in done.stdout


@requires("engine-runc")
def test_header_says_what_the_doctor_found(default_docker: Container) -> None:
    assert "but none can be" not in default_docker.pytest(SUITE, "--isolate-all").stdout
    # The cache counts for the namespaces that it was made in, and every `run` has its own: both in one.
    python = f"{default_docker.python} -m"
    done = default_docker.run(
        "sh", "-c", f"{python} pytest_isolate doctor > /dev/null; {python} pytest -p pytest_isolate.plugin --isolate-all"
    )
    assert "isolate: all tests; but none can be: userns: unshare(CLONE_NEWUSER): EPERM" in done.stdout


@requires("engine-runc")
def test_docker_with_its_remedy_taken_isolates() -> None:
    """Root without CAP_SYS_ADMIN, a user namespace allowed."""
    with docker(seccomp=False, unmasked=True) as container:
        report = doctor(container)
        assert report["ready"]
        assert capability(report, "cgroup-memory")["remedy"] == "docker run --privileged"
        done = container.pytest(SUITE)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@requires("engine-runc")
def test_docker_with_half_of_the_remedy_names_the_other_half() -> None:
    with docker(seccomp=False) as container:
        report = doctor(container)
    proc = capability(report, "proc")
    assert (proc["state"], proc["cause"]) == ("missing", "masked-proc")
    assert capability(report, "userns")["state"] == "works"
    assert "mount too revealing" in proc["why"]
    assert proc["remedy"].startswith("docker run --security-opt systempaths=unconfined; or ")
    assert capability(report, "sandbox")["cause"] == "proc"


@requires("engine-runc")
def test_privileged_docker_on_an_overlay_root_isolates_with_caps() -> None:
    capped = SUITE.replace("@pytest.mark.isolate", '@pytest.mark.isolate(memory="64MiB", pids=20, cpu="50%")')
    with docker(privileged=True) as container:
        report = doctor(container)
        done = container.pytest(capped)
    states = {entry["name"]: entry["state"] for entry in report["capabilities"]}
    # /dev/kmsg and /dev/loop-control aren't in the bundle, and virtual machines have no counters.
    assert {name for name, state in states.items() if state != "works"} <= {"kmsg", "loop-device", "netem", "instructions"}
    assert report["machine"]["root_type"] == "overlay"
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@requires("engine-runc")
def test_overlay_on_an_overlay_is_weaker_and_still_isolates() -> None:
    with docker(privileged=True, nested=True) as container:
        report = doctor(container)
        # /tmp is part of the container's root; the suite's directory is a volume.
        done = container.pytest(SUITE.replace("/tmp/written", "written"))
    overlay = capability(report, "overlay")
    assert (overlay["state"], overlay["cause"]) == ("weaker", "nested-overlay")
    assert "/tmp is read-only inside" in overlay["why"]
    assert "--tmpfs /tmp" in overlay["remedy"]
    assert report["ready"]
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def _podman(kind: str, *options: str) -> AbstractContextManager[Container]:
    return podman(*options) if kind == "root" else rootless_podman(*options)


PODMAN = pytest.mark.parametrize(
    "kind",
    [pytest.param("root", marks=requires("engine-podman")), pytest.param("rootless", marks=requires("engine-podman-rootless"))],
)


@PODMAN
def test_podman_default_names_the_mask_over_proc(kind: str) -> None:
    with _podman(kind) as container:
        report = doctor(container)
        done = container.pytest(SUITE, "--isolate-missing=skip")
    proc = capability(report, "proc")
    assert (proc["state"], proc["cause"]) == ("missing", "masked-proc")
    # Podman's seccomp profile lets namespaces be made: nothing is advised that isn't needed.
    assert proc["remedy"].startswith("podman run --security-opt unmask=ALL; or ")
    assert [place["name"] for place in report["places"]] == ["a Podman container"]
    assert "1 passed, 1 skipped" in done.stdout, done.stdout + done.stderr


@PODMAN
def test_podman_with_its_remedy_taken_isolates(kind: str) -> None:
    with _podman(kind, *UNMASKED) as container:
        report = doctor(container)
        done = container.pytest(SUITE)
    assert report["ready"]
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@PODMAN
def test_privileged_podman_isolates(kind: str) -> None:
    with _podman(kind, "--privileged") as container:
        report = doctor(container)
        done = container.pytest(SUITE)
    assert report["ready"]
    assert report["machine"]["initial_user_namespace"] is (kind == "root")
    assert "2 passed" in done.stdout, done.stdout + done.stderr
