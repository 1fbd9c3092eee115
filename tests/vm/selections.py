"""Which tests are run in a machine.

In emulation a contract test takes 3 to 6 seconds, most of it the start of interpreters, so that the whole contract suite is 25 minutes
for root, 11 for a user, and the whole test suite more than an hour. With seven machines and more than a dozen runs, each change gets the
essence on all of them; the rest is for a look at one machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

__all__ = ["SELECTIONS"]

_CAPS: Final = "tests/contract/test_caps.py"
_CGROUPS: Final = "tests/contract/test_cgroups.py"
_V1: Final = "tests/contract/test_cgroup_v1.py"
_V2: Final = "tests/contract/test_cgroup_v2.py"
_ENTERING: Final = "tests/contract/test_entering.py"
_NAMESPACES: Final = "tests/contract/test_namespaces.py"
_PARTS: Final = "tests/contract/test_network_parts.py"
_ROOTFS: Final = "tests/contract/test_rootfs.py"

_ESSENCE: Final = (
    # Every cap in force through a sandbox, from its spec to the figure that is told: 20 % CPU, an OOM, a fork that is refused.
    _CAPS,
    # Each controller on the version of cgroups that it is on here.
    f"{_CGROUPS}::test_oom_of_a_grandchild_leaves_the_child_and_names_the_grandchild",
    f"{_CGROUPS}::test_memory_peak_is_read_back_after_the_process_ended",
    f"{_CGROUPS}::test_pids_cap_refuses_the_fork_and_is_counted",
    f"{_CGROUPS}::test_write_throttle_slows_writes_and_bytes_are_counted",
    f"{_V1}::test_controllers_are_decided_one_by_one",
    f"{_V1}::test_swap_is_capped_on_top_of_memory",
    f"{_V2}::test_swap_is_capped_beside_memory",
    f"{_V2}::test_pressure_is_told_where_the_kernel_measures_it",
    # How the run comes to a cgroup of its own, and that nothing stays of it.
    f"{_V2}::test_pytest_moves_to_a_scope_of_its_own_that_goes_with_it",
    f"{_V2}::test_nothing_is_left_of_a_scope_whose_processes_were_killed",
    f"{_V2}::test_delegated_scope_is_used_and_given_back",
    "tests/contract/test_cgroup_rootless.py",
    # One test for each namespace and for the ids.
    f"{_NAMESPACES}::test_every_namespace_is_new_in_each_sandbox",
    f"{_NAMESPACES}::test_net_none_has_a_working_loopback_and_nothing_else",
    f"{_NAMESPACES}::test_bare_ids_are_the_callers_and_privileges_cannot_grow",
    f"{_NAMESPACES}::test_user_root_is_uid_0_and_can_chown_through_subordinate_ids",
    # Each network mode, the way out of bridges, and what is left when their process is killed.
    "tests/contract/test_network_modes.py",
    "tests/contract/test_bridge.py::test_partition_loses_packets_silently_until_it_is_healed",
    "tests/contract/test_bridge.py::test_ports_are_published_on_the_host",
    "tests/contract/test_bridge.py::test_delay_is_there_or_netem_is_named",
    "tests/contract/test_bridge_outside.py::test_the_world_sees_the_host_s_address",
    "tests/contract/test_network_faults.py::test_nothing_is_left_after_sigkill",
    # Queueing disciplines: netem is a module in Debian's kernels, and in no other that we run on.
    f"{_PARTS}::test_delay_and_jitter_are_added_to_each_packet",
    f"{_PARTS}::test_a_share_of_the_packets_is_lost",
    f"{_PARTS}::test_rate_with_a_delay_is_the_rate",
    # The mounts that differ by kernel, layout and user.
    f"{_ROOTFS}::test_writes_are_seen_inside_and_gone_afterwards",
    f"{_ROOTFS}::test_cgroup_hierarchies_are_the_hosts_read_only",
    f"{_ROOTFS}::test_tree_with_mounts_below_it_is_taken_apart_for_a_user",
    f"{_ROOTFS}::test_rest_of_the_host_is_read_only_for_a_user",
    f"{_ROOTFS}::test_nothing_stays_mounted",
    "tests/contract/test_lives.py::test_killed_caller_leaves_nothing",
    # Instructions where there is a counter of them.
    "tests/contract/test_counting.py",
    "tests/plugin/test_baselines.py::test_instructions_are_counted_where_the_processor_shows_them",
    "tests/plugin/test_baselines.py::test_growth_of_instructions_is_judged_on_a_busy_machine",
    # What is done in machine code.
    f"{_ENTERING}::test_caller_with_one_thread_is_copied_once",
    f"{_ENTERING}::test_refused_step_of_being_born_inside_is_told",
    f"{_ENTERING}::test_libc_knows_the_thread_it_runs_in",
    f"{_ENTERING}::test_restartable_sequences_are_known_where_libc_has_them",
    "tests/contract/test_building.py::test_builder_copies_no_page_for_an_init[root]",
    # Layers without the host and over it, and where writes go to.
    "tests/contract/test_layered_root.py",
)

SELECTIONS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "essence": _ESSENCE,
        "contract": ("tests/contract", "--ignore=tests/contract/test_containers.py"),
        "full": ("tests/unit", "tests/plugin", "tests/contract", "--ignore=tests/contract/test_containers.py"),
    }
)
