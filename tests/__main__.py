"""Runs the tests: ``python -m tests [PYTEST ARGUMENTS]``.

Most of them by two processes at a time. Those that look at the whole machine (what is left on it), change what it has only once (forwarding,
nft tables, mounts of container engines) or hold a figure against time are alone, afterwards: the end of the output is theirs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ALONE: Final = (
    "tests/contract/test_addresses.py",
    "tests/contract/test_bridge_outside.py",
    "tests/contract/test_caps.py",
    "tests/contract/test_cgroup_rootless.py",
    "tests/contract/test_cgroup_runs.py",
    "tests/contract/test_cgroup_v1.py",
    "tests/contract/test_cgroups.py",
    "tests/contract/test_containers.py",
    "tests/contract/test_faults.py",
    "tests/contract/test_fuse_overlay.py",
    "tests/contract/test_images.py",
    "tests/contract/test_lives.py",
    "tests/contract/test_network_faults.py",
    "tests/contract/test_network_parts.py",
    "tests/contract/test_networks_over_time.py",
    "tests/contract/test_pause.py",
    "tests/contract/test_run_command.py",
    "tests/contract/test_uplink.py",
    "tests/plugin/test_sigkill.py",
)

_NOTHING_COLLECTED: Final = 5
_ROOT: Final = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    """The exit status of the first part that failed."""
    pytest = [sys.executable, "-m", "pytest", *arguments]
    together = [*pytest, "-n", "2", "--dist", "worksteal", *(f"--ignore={path}" for path in ALONE)]
    statuses = [subprocess.run(command, cwd=_ROOT, check=False).returncode for command in (together, [*pytest, *ALONE])]
    return next((status for status in statuses if status not in (0, _NOTHING_COLLECTED)), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
