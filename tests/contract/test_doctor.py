"""`python -m pytest_isolate doctor` as root and as a real unprivileged user: what it finds, where the kernel refuses for real."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_isolate.kernel.cgroup_runs import is_stale
from pytest_isolate.kernel.mounts import mount
from pytest_isolate.kernel.namespaces import CLONE_NEWNS, CLONE_NEWUSER
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.machine.causes import user_namespace
from pytest_isolate.machine.reading import read_machine
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.keys import KEYS
from pytest_isolate.probe.attempt import attempt
from tests.support.callers import Caller, caller
from tests.support.capabilities import requires
from tests.support.pytest_process import run_pytest
from tests.support.refusals import FILTER, NO_NAMESPACES, NO_OPEN_TREE, spoiled

__all__ = ["caller"]

DOCTOR = ("-m", "pytest_isolate", "doctor")

NAMES = [
    "userns", "pid-namespace", "net-namespace", "uts-namespace", "ipc-namespace", "cgroup-namespace", "mounts", "proc", "overlay",
    "pidfd", "subordinate-ids", "cgroup-cpu", "cgroup-memory", "cgroup-pids", "cgroup-io", "cgroup-swap", "kmsg", "instructions",
    "mkfs.ext4", "loop-device", "bridge", "uplink", "tbf", "netem", "sandbox",
]  # fmt: skip

SPOILED = [
    pytest.param(FILTER, "seccomp", "unshare(CLONE_NEWUSER): EPERM", "a seccomp filter forbids it", "SystemCallFilter=", id="filter"),
    pytest.param(
        NO_NAMESPACES, "max-user-namespaces", "ENOSPC", "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000",
        id="max_user_namespaces",
    ),
]  # fmt: skip


def cgroup(caller: Caller) -> list[str]:
    return [f"--cgroup={caller.cgroup}"] if caller.cgroup else []


def environment(caller: Caller) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(caller.directory / "cache"), "COLUMNS": "100"}


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ready"] else 1)
    return found


def by_name(entries: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {entry["name"]: entry for entry in entries}


@requires("cgroup-cpu", "cgroup-memory", "cgroup-pids", "cgroup-io")
def test_everything_that_this_machine_has_is_found_and_json_has_its_form(caller: Caller) -> None:
    found = report(caller.python(*DOCTOR, "--json", *cgroup(caller), env=environment(caller)))
    assert list(found) == ["schema", "ready", "version", "machine", "places", "capabilities", "keys"]
    assert [entry["name"] for entry in found["capabilities"]] == NAMES
    assert all(list(entry) == ["name", "state", "why", "remedy", "cause"] for entry in found["capabilities"])
    assert [entry["name"] for entry in found["keys"]] == list(KEYS)
    assert all(list(entry) == ["name", "state", "why"] for entry in found["keys"])
    capabilities = by_name(found["capabilities"])
    # Each is tried by the contract tests at length; here only that the doctor doesn't see trouble where there is none.
    # /dev/net/tun is root's where no udev runs.
    lacking = {"cgroup-swap", "instructions"} | (set() if caller.is_root else {"uplink", "loop-device"})
    assert {name for name, entry in capabilities.items() if entry["state"] == "missing"} <= lacking
    assert all((entry["cause"] == "") == (entry["state"] == "works") for entry in found["capabilities"])
    assert found["ready"] is True


def test_text_has_a_line_for_each_capability_and_key_and_a_verdict(caller: Caller) -> None:
    done = caller.python(*DOCTOR, *cgroup(caller), env=environment(caller))
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[9:].split()[0] for line in lines if line.startswith(("works ", "weaker ", "missing "))] == NAMES
    table = lines[next(place for place, line in enumerate(lines) if line.startswith("spec key ")) + 1 :]
    assert [line.split()[0] for line in table[: len(KEYS)]] == list(KEYS)
    assert lines[-1] == "a bare @pytest.mark.isolate works"
    assert "\033" not in done.stdout


@pytest.mark.parametrize("settings,coloured", [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)])
def test_colour_is_asked_for_or_forbidden_by_the_environment(caller: Caller, settings: dict[str, str], coloured: bool) -> None:
    done = caller.python(*DOCTOR, env={**environment(caller), **settings})
    assert ("\033[" in done.stdout) is coloured


def test_terminal_that_speaks_ascii_gets_ascii(caller: Caller) -> None:
    caller.python(*DOCTOR, env={**environment(caller), "PYTHONIOENCODING": "ascii"}).stdout.encode("ascii")


def test_nothing_is_left_behind(caller: Caller) -> None:
    before = set(os.listdir("/tmp"))
    caller.python(*DOCTOR, *cgroup(caller), env=environment(caller))
    assert [name for name in set(os.listdir("/tmp")) - before if is_stale(name)] == []
    assert [name for name in set(os.listdir("/tmp")) - before if name.startswith("pytest-isolate-probe-")] == []
    assert "pytest-isolate" not in Path("/proc/self/mountinfo").read_text()
    assert [path for path in Path("/sys/fs/cgroup").rglob("pytest-isolate-*-998.*") if is_stale(path.name)] == []


def test_delegated_directory_that_is_not_there_is_named(caller: Caller) -> None:
    found = report(caller.python(*DOCTOR, "--json", "--cgroup=no/such/directory", env=environment(caller)))
    memory = by_name(found["capabilities"])["cgroup-memory"]
    assert memory["state"] == "missing"
    assert "no/such/directory" in memory["why"]
    assert by_name(found["keys"])["memory"] == {"name": "memory", "state": "missing", "why": "see cgroup-memory"}
    assert found["ready"]


def test_cgroup_that_cannot_be_meant_is_a_usage_error(caller: Caller) -> None:
    done = caller.python(*DOCTOR, "--cgroup=../up", env=environment(caller))
    assert done.returncode == 2
    assert "accepted:" in done.stderr


@pytest.mark.parametrize("prelude,cause,answer,why,remedy", SPOILED)
def test_forbidden_user_namespaces_are_named_with_the_remedy_and_exit_1(
    caller: Caller, prelude: str, cause: str, answer: str, why: str, remedy: str
) -> None:
    found = report(caller.python(*spoiled(prelude, *DOCTOR, "--json"), env=environment(caller)))
    userns = by_name(found["capabilities"])["userns"]
    assert (userns["state"], userns["cause"]) == ("missing", cause)
    assert answer in userns["why"]
    assert why in userns["why"]
    assert remedy in userns["remedy"]
    assert found["ready"] is False
    assert {entry["state"] for entry in found["keys"]} == {"missing"}
    text = caller.python(*spoiled(prelude, *DOCTOR), env=environment(caller))
    assert text.returncode == 1
    assert "no test can be isolated" in text.stdout
    assert f"remedy: {userns['remedy']}" in text.stdout


@pytest.mark.parametrize("prelude,cause,answer,why,remedy", SPOILED)
def test_error_of_a_sandbox_has_the_cause_and_only_its_remedy(
    caller: Caller, prelude: str, cause: str, answer: str, why: str, remedy: str
) -> None:
    done = caller.python(*spoiled(prelude, "-m", "pytest_isolate", "run", "--", "true"), env=environment(caller))
    assert done.returncode == 125
    message, hint = done.stderr.strip().split("\n  remedy: ")
    assert message.startswith("pytest-isolate: the sandbox needs userns: ")
    assert why in message
    assert remedy in hint
    others = {"seccomp": "max_user_namespaces", "max-user-namespaces": "seccomp"}
    assert others[cause] not in hint


def test_kernel_without_open_tree_is_told_from_one_without_namespaces(caller: Caller) -> None:
    found = by_name(report(caller.python(*spoiled(NO_OPEN_TREE, *DOCTOR, "--json"), env=environment(caller)))["capabilities"])
    assert found["userns"]["state"] == "works"
    assert found["proc"]["state"] == "works"
    assert (found["mounts"]["state"], found["mounts"]["cause"]) == ("missing", "old-kernel")
    assert "5.12" in found["mounts"]["remedy"]
    assert found["sandbox"]["cause"] == "mounts"
    if not caller.is_root:  # the filter came with no_new_privs, which takes newuidmap its privileges
        assert found["subordinate-ids"]["state"] == "weaker"
        assert "Operation not permitted" in found["subordinate-ids"]["why"]


@requires("root")
def test_chroot_forbids_user_namespaces_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()

    def inside() -> Any:
        unshare(CLONE_NEWNS)
        mount("none", "/", "", 0x44000)  # MS_REC | MS_PRIVATE
        mount("proc", str(tmp_path / "proc"), "proc")
        os.chroot(tmp_path)
        machine = read_machine()
        try:
            unshare(CLONE_NEWUSER)
        except OSError as error:
            cause = user_namespace(machine, error.errno or 0)
            return [error.errno, cause.name, cause.why]
        return None

    answer = attempt(inside)
    assert answer.error is None
    assert answer.result[:2] == [errno.EPERM, "chroot"]
    assert "in a chroot" in answer.result[2]


def test_attempt_that_is_killed_or_breaks_is_an_answer_too() -> None:
    killed = attempt(lambda: os.kill(os.getpid(), 9))
    assert "signal 9" in str(killed.error)
    refused = attempt(lambda: os.open("/no/such/file", os.O_RDONLY))
    assert isinstance(refused.error, SetupError)
    assert (refused.errno, refused.error.path) == (errno.ENOENT, "/no/such/file")
    assert "ZeroDivisionError" in str(attempt(lambda: 1 // 0).error)
    assert attempt(lambda: os.write(2, b"said\n")).output == "said"


SUITE = """
import pytest

@pytest.mark.isolate
def test_isolated(): pass

def test_plain(): pass
"""


def test_run_that_isolates_nothing_loads_neither_probe_nor_diagnosis(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import sys\ndef pytest_unconfigure():\n"
        "    print([name for name in sys.modules if name.startswith(('pytest_isolate.probe', 'pytest_isolate.machine'))])\n"
    )
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass")
    done = run_pytest(tmp_path, "-s")
    assert done.returncode == 0, done.stdout
    assert "[]" in done.stdout.splitlines()


@requires("sandbox")
def test_run_whose_sandboxes_work_loads_no_diagnosis_in_pytest(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import sys\ndef pytest_unconfigure():\n"
        "    print([name for name in sys.modules if name in ('pytest_isolate.machine.explain', 'pytest_isolate.machine.causes')"
        " or name.startswith('pytest_isolate.probe')])\n"
    )
    (tmp_path / "test_isolated.py").write_text(SUITE)
    done = run_pytest(tmp_path, "-s")
    assert done.returncode == 0, done.stdout
    assert "[]" in done.stdout.splitlines()


@pytest.mark.parametrize(
    "missing,outcomes", [("fail", "1 passed, 1 error"), ("skip", "1 passed, 1 skipped"), ("weaken", "1 passed, 1 error")]
)
def test_isolate_missing_judges_what_the_diagnosis_found(caller: Caller, missing: str, outcomes: str) -> None:
    (caller.directory / "test_both.py").write_text(SUITE)
    command = (
        "-m",
        "pytest",
        "-p",
        "pytest_isolate.plugin",
        "-p",
        "no:cacheprovider",
        "-rs",
        f"--isolate-missing={missing}",
        "test_both.py",
    )
    env = {**environment(caller), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "250"}
    done = caller.python(*spoiled(NO_NAMESPACES, *command), env=env)
    assert outcomes in done.stdout, done.stdout + done.stderr
    assert "the sandbox needs userns: " in done.stdout
    assert "user.max_user_namespaces is 0" in done.stdout
    assert ("remedy: " in done.stdout) is (missing != "skip")
