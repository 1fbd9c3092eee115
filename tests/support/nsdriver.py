"""Builds real sandbox trees with `rootfs.host`, as root and as an unprivileged user, and runs code in them.

`run_inside` starts a fresh interpreter (this file as a script), which plays the builder: private mounts,
`HostRoot.prepare`, per box a copy of the mount namespace, `apply_outside`, a clone into all new namespaces,
`apply_inside`, the given code. Nothing it mounts outlives it. It leaves out cgroups and the rest of the builder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import traceback
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

from pytest_isolate.kernel.clone import clone
from pytest_isolate.kernel.mounts import MS_PRIVATE, MS_REC, mount
from pytest_isolate.kernel.namespaces import ALL, CLONE_NEWNET, CLONE_NEWNS, write_id_maps
from pytest_isolate.kernel.syscalls import prctl, setns, unshare
from pytest_isolate.model.errors import IsolateError, error_from_json
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs.foreign import prepare
from pytest_isolate.rootfs.host import HostRoot
from pytest_isolate.rootfs.plan import Plan
from pytest_isolate.sandbox.identity import Identity, drop_privileges, enter_run_namespace

__all__ = ["Inside", "run_inside"]

_PR_SET_DUMPABLE = 4


@dataclass(frozen=True)
class Inside:
    """What came back: `results` of the code per box, the builder's figures, or the error's JSON."""

    results: list[Any]
    plan: list[str]
    notes: list[str]
    disk_path: str
    rootless: bool
    error: dict[str, Any] | None
    after: Any
    times: dict[str, list[float]]

    @property
    def result(self) -> Any:
        assert self.error is None, self.error
        return self.results[0]


def run_inside(
    code: str,
    *,
    user: int | None = None,
    spec: dict[str, Any] | None = None,
    places: tuple[str, ...] = (),
    trees: tuple[str, ...] = (),
    host: str = "",
    between: str = "",
    after: str = "",
    boxes: int = 1,
    workspace: str | None = None,
    as_root: bool = False,
) -> Inside:
    """Run Python `code`, which assigns `result`, in a sandbox's tree.

    Args:
        user: play the builder as this unprivileged user; None: as the caller.
        spec: `Spec`, as JSON.
        host: code run first, as the caller, in a private mount namespace: makes the host that is captured. It may
            set `workspace`.
        between: code run by the builder between `prepare` and the first box.
        after: code run by the builder at the end; it sees the captured host and assigns `after`.
        boxes: run the code in that many sandboxes, one after the other.
        workspace: an existing directory of the builder's user; None: a temporary one.
        as_root: call `HostRoot.prepare` with rootless=False even in a user namespace.
    """
    job = {
        "code": textwrap.dedent(code),
        "user": user,
        "spec": spec or {},
        "places": places,
        "trees": trees,
        "host": textwrap.dedent(host),
        "between": textwrap.dedent(between),
        "finally": textwrap.dedent(after),
        "after": None,
        "boxes": boxes,
        "as_root": as_root,
    }
    made = workspace is None
    job["workspace"] = workspace = workspace or tempfile.mkdtemp(prefix="pytest-isolate-tree ")
    try:
        if user is not None and made:
            os.chown(workspace, user, user)
        done = subprocess.run(
            [_python(user), os.path.abspath(__file__), json.dumps(job)],
            env={"PYTHONPATH": _root(), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
            capture_output=True, text=True, timeout=20, check=False, cwd="/",
        )  # fmt: skip
    finally:
        if made:
            os.rmdir(workspace)
    assert done.returncode == 0, done.stderr + done.stdout
    return Inside(**json.loads(done.stdout.splitlines()[-1]))


@cache
def _python(user: int | None) -> str:
    """An interpreter whose standard library `user` can read (a venv's may lie in /root)."""
    candidates = [sys.executable, *(f"/usr/bin/python3{minor}" for minor in ("", ".13", ".12", ".11"))]
    for python in candidates:
        if user is None:
            return python
        try:
            code = "import sys; assert sys.version_info >= (3, 11)"
            subprocess.run([python, "-Ic", code], user=user, capture_output=True, check=True, cwd="/")
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    raise LookupError(f"no Python >= 3.11 that user {user} can run")


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _main(job: dict[str, Any]) -> None:
    if os.geteuid() == 0:
        unshare(CLONE_NEWNS)
        mount("none", "/", "", MS_REC | MS_PRIVATE)
        exec(job["host"], job)
    if job["user"] is not None:
        os.setgroups([])
        os.setresgid(*[job["user"]] * 3)
        os.setresuid(*[job["user"]] * 3)
        prctl(_PR_SET_DUMPABLE, 1)  # as after an exec: the user may write its own id maps
    identity = enter_run_namespace()
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    report: dict[str, Any] = {
        "results": [],
        "plan": [],
        "notes": [],
        "disk_path": "",
        "rootless": False,
        "error": None,
        "after": None,
        "times": {},
    }
    try:
        rootless = identity.rootless and not job["as_root"]
        root = HostRoot.prepare(job["workspace"], rootless=rootless, places=job["places"], trees=job["trees"])
        report["notes"], report["disk_path"], report["rootless"] = list(root.notes), root.disk_path, root.rootless
        exec(job["between"], job)
        for box in range(job["boxes"]):
            _box(job, root, identity, str(box), report)
        os.chdir("/")
        exec(job["finally"], job)
        report["after"] = job["after"]
    except IsolateError as error:
        report["error"] = {**error.to_json(), "text": str(error)}
    print(json.dumps(report))


def _box(job: dict[str, Any], root: HostRoot, identity: Identity, box: str, report: dict[str, Any]) -> None:
    def timed(name: str, start: float) -> None:
        report["times"].setdefault(name, []).append(perf_counter() - start)

    spec = Spec.from_json(job["spec"])
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    start = perf_counter()
    prepare(root, spec)
    plan = root.plan(spec)
    timed("plan", start)
    report["plan"] = plan.describe()
    start = perf_counter()
    unshare(CLONE_NEWNS)
    timed("unshare", start)
    start = perf_counter()
    root.apply_outside(plan)
    timed("outside", start)
    go, reports = os.pipe(), os.pipe()
    start = perf_counter()
    pid, _pidfd = clone(ALL & ~CLONE_NEWNET if not spec.net.own else ALL)
    if pid == 0:
        os.close(go[1])
        os.close(reports[0])
        _inside(job, root, plan, go[0], reports[1])
    timed("clone", start)
    os.close(reports[1])
    setns(home, CLONE_NEWNS)
    uids, gids = identity.maps(spec)
    write_id_maps(pid, uids, gids, setgroups=True)
    os.write(go[1], b"g")
    with os.fdopen(reports[0]) as file:
        told = json.loads(file.read())
    os.waitpid(pid, 0)
    if "error" in told:
        raise error_from_json(told["error"])
    if "trace" in told:
        raise AssertionError(told["trace"])
    report["results"].append(told["result"])
    report["times"].setdefault("inside", []).append(told["time"])


def _inside(job: dict[str, Any], root: HostRoot, plan: Plan, go: int, report: int) -> None:
    told: dict[str, Any] = {}
    try:
        os.read(go, 1)
        start = perf_counter()
        root.apply_inside(plan)
        told["time"] = perf_counter() - start
        drop_privileges(Spec.from_json(job["spec"]), rootless=root.rootless)
        # The code runs as PID 2 of the sandbox, as a test would; PID 1 collects it.
        reading, writing = os.pipe()
        if os.fork() == 0:
            names: dict[str, Any] = {"result": None}
            try:
                exec(job["code"], names)
                os.write(writing, json.dumps({"result": names["result"]}).encode())
            except BaseException:
                os.write(writing, json.dumps({"trace": traceback.format_exc()}).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as file:
            told.update(json.loads(file.read()))
        os.wait()
    except IsolateError as error:
        told["error"] = error.to_json()
    except BaseException:
        told["trace"] = traceback.format_exc()
    os.write(report, json.dumps(told).encode())
    os._exit(0)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
