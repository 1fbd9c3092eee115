"""Run Python as a real unprivileged user, from a test that runs as root.

The interpreter of the venv, or the checkout, may lie where only root can go (`/root`): then another interpreter of
the machine is taken, and the package is copied to a place that everyone can read.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

__all__ = ["USER_ID", "find_python", "run_python"]

USER_ID: Final = 64321
"""A user and group id that nobody has."""

_ROOT: Final = Path(__file__).parents[2]


def _runs(python: str, package_root: str) -> bool:
    code = "import sys; assert sys.version_info >= (3, 11); import pytest_isolate.kernel.cgroup"
    try:
        done = _run([python, "-c", code], package_root, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _run(argv: list[str], package_root: str, **options: Any) -> subprocess.CompletedProcess[str]:
    user = {"user": USER_ID, "group": USER_ID, "extra_groups": []} if os.geteuid() == 0 else {}
    env = {"PYTHONPATH": package_root, "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    return subprocess.run(argv, env=env, cwd="/", text=True, **user, **options)


@cache
def find_python() -> tuple[str, str] | None:
    """An interpreter and the directory to import the package from; None if the user can run none."""
    candidates = [sys.executable, *(f"/usr/bin/python3{minor}" for minor in ("", ".13", ".12", ".11"))]
    for package_root in (lambda: str(_ROOT), _copy):
        for python in candidates:
            if _runs(python, package_root()):
                return python, package_root()
    return None


@cache
def _copy() -> str:
    target = tempfile.mkdtemp(prefix="pytest-isolate-readable-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    os.chmod(target, 0o755)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_ROOT / "pytest_isolate", Path(target) / "pytest_isolate", ignore=ignore)
    return target


def run_python(code: str, *args: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run `code` as the unprivileged user, the package importable; output captured, status not checked."""
    found = find_python()
    assert found, "test lacks requires('unprivileged-user')"
    python, package_root = found
    return _run([python, "-c", code, *args], package_root, capture_output=True, timeout=timeout, check=False)
