"""What a run's figures depend on beside the tests: machine, kernel, versions, commit. Plain data, for documents and baselines."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from typing import Any, Final

from pytest_isolate.kernel.cgroup import detect
from pytest_isolate.machine.reading import read_machine

__all__ = ["commit_of", "machine"]

_COMMITS: Final = ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT")
"""Variables of GitHub Actions, GitLab and Jenkins."""


def machine(delegated: str | None = None) -> dict[str, Any]:
    """This machine: name, processor, memory, kernel, cgroup layout, interpreter.

    Args:
        delegated: ``--isolate-cgroup``.
    """
    found = read_machine()
    hierarchy = detect(delegated)
    return {
        "name": platform.node(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": found.kernel,
        "distribution": found.distribution,
        "container": found.container,
        "cgroup_layout": hierarchy.layout,
        "controllers": sorted(hierarchy.controllers),
        "uid": found.uid,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return ""


def commit_of(directory: str, environment: Mapping[str, str]) -> str:
    """The commit that is tested, as the CI system or git(1) names it; empty where neither does."""
    for name in _COMMITS:
        if environment.get(name):
            return environment[name]
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=directory,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
