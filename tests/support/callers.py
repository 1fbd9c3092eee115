"""The two who call the library in contract tests: root, and a real unprivileged user.

A case is a piece of Python, run by a fresh interpreter as the caller, that prints one JSON document. `box`
and `pool` in it are what tests of a sandbox need most; see `PRELUDE`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities import requires
from tests.support.reaper import Reaper
from tests.support.unprivileged import delegated_cgroup, find_python, run_as_user, user_directory

__all__ = ["CALLERS", "Caller", "caller"]

ROOT = Path(__file__).parents[2]

PRELUDE = """
import json, os, signal, socket, subprocess, sys, threading, time
from pytest_isolate.model.errors import *
from pytest_isolate.model.parse import parse_key
from pytest_isolate.model.spec import IoLimit, Spec
from pytest_isolate.sandbox import Pool, Sandbox

CGROUP = os.environ.get("TEST_CGROUP")
PYTHON = sys.executable

def tell(value):
    print(json.dumps(value), flush=True)

def box(name=None, **spec):
    # The keys of networks as they are typed, the rest as the library takes it.
    spec |= {key: parse_key(key, spec[key], "/") for key in ("net", "publish", "bandwidth") if key in spec}
    return Sandbox(Spec(**spec), pool=POOL, name=name)

def inside(code, *args, **spec):
    # what Python code prints inside a sandbox, as JSON
    with box(**spec) as opened:
        done = opened.run([PYTHON, "-I", "-S", "-c", "import json, os, sys\\ndef tell(x): print(json.dumps(x))\\n" + code, *args], timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

POOL = Pool(cgroup=CGROUP, depth=0)
try:
    exec(compile(CODE, 'case', 'exec'), globals())
finally:
    POOL.close()
"""

CALLERS = [
    pytest.param("root", marks=requires("root")),
    pytest.param("user", marks=requires("unprivileged-user", "userns")),
]


class Caller:
    """Runs cases.

    Attributes:
        name: ``root`` or ``user``.
        directory: the working directory of its cases, its own.
        cgroup: a delegated cgroup for the user, None for root.
    """

    def __init__(self, name: str, directory: Path, cgroup: str | None) -> None:
        self.name, self.directory, self.cgroup = name, directory, cgroup

    @property
    def is_root(self) -> bool:
        return self.name == "root"

    def reaper(self) -> Reaper:
        """For one case, whose command is then begun by its `begin`."""
        return Reaper(sys.executable if self.is_root else str(find_python()), self.directory)

    def run(self, code: str, *, env: Mapping[str, str] | None = None, begin: Sequence[str] = ()) -> Any:
        """The JSON document that `code` printed last. Fails the test with its output where it fails."""
        done = self.process(code, env=env, begin=begin)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def process(
        self, code: str, *, env: Mapping[str, str] | None = None, begin: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """`code` in a fresh interpreter, started by the command `begin`, however it ends."""
        whole = {**({"TEST_CGROUP": self.cgroup} if self.cgroup else {}), **(env or {})}
        return self.python("-c", PRELUDE.replace("CODE", repr(code)), env=whole, begin=begin)

    def python(
        self, *args: str, env: Mapping[str, str] | None = None, stdin: str = "", begin: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """An interpreter with the package on its path."""
        if not self.is_root:
            return run_as_user([*begin, str(find_python()), *args], cwd=self.directory, env=env, stdin=stdin)
        whole = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        return subprocess.run(
            [*begin, sys.executable, *args],
            cwd=self.directory,
            env=whole,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Caller]:
    """Each test once as root and once as an unprivileged user with a delegated cgroup."""
    if request.param == "root":
        yield Caller("root", tmp_path, None)
        return
    with ExitStack() as stack:
        directory = stack.enter_context(user_directory())
        cgroup = stack.enter_context(delegated_cgroup()) if os.geteuid() == 0 else os.environ.get("TEST_CGROUP")
        yield Caller("user", directory, cgroup)
