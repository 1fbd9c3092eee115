"""Runs the tests: ``python -m tests [PYTEST ARGUMENTS]``.

First most of them, by more processes than this machine has processors, since tests wait as well. Afterwards, by two processes, those that
hold a figure against time or change what the machine has only once (its network interfaces, the mounts of container engines): the end of
the output is theirs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.bytecode import write_bytecode

QUIET: Final = (
    "tests/contract/test_bridge_outside.py",
    "tests/contract/test_caps.py",
    "tests/contract/test_cgroup_rootless.py",
    "tests/contract/test_cgroup_runs.py",
    "tests/contract/test_cgroup_v1.py",
    "tests/contract/test_cgroups.py",
    "tests/contract/test_containers.py",
    "tests/contract/test_network_faults.py",
    "tests/contract/test_network_parts.py",
    "tests/contract/test_networks_over_time.py",
    "tests/contract/test_uplink.py",
    "tests/plugin/test_ends.py::test_interrupt_ends_the_test_lets_it_tear_down_and_ends_the_session",
    "tests/plugin/test_ends.py::test_interrupt_of_a_test_that_ignores_it_ends_it_after_a_moment",
    "tests/plugin/test_ends.py::test_second_interrupt_ends_it_at_once",
    "tests/plugin/test_run_files.py::test_durations_are_those_of_the_tests",
    "tests/plugin/test_usage_properties.py::test_cpu_seconds_agree_with_the_tests_own_clock",
    "tests/plugin/test_usage_properties.py::test_time_held_back_by_the_cpu_cap_is_throttled_time",
    "tests/plugin/test_usage_properties.py::test_wall_seconds_are_those_of_the_test_and_sleep_costs_no_cpu",
)
"""Files, or single tests of files whose others are run with the rest."""

_NOTHING_COLLECTED: Final = 5
_ROOT: Final = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    """The exit status of the first part that failed."""
    if sys.dont_write_bytecode:
        write_bytecode(sys.executable, _ROOT)
    pytest = [sys.executable, "-m", "pytest", *arguments, "--dist", "worksteal"]
    without = [f"--deselect={name}" if "::" in name else f"--ignore={name}" for name in QUIET]
    together = [*pytest, "-n", str((os.cpu_count() or 1) + 1), *without]
    statuses = [
        subprocess.run(command, cwd=_ROOT, check=False).returncode for command in (together, [*pytest, "-n", "2", *QUIET])
    ]
    return next((status for status in statuses if status not in (0, _NOTHING_COLLECTED)), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
