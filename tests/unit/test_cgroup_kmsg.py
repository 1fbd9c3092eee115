"""Victims of a memory cap in the kernel's words (recorded on Linux 6.18 and 5.10)."""

from __future__ import annotations

from pytest_isolate.kernel.cgroup import OomVictim
from pytest_isolate.kernel.kmsg import victims_in

CHOSEN = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg={path},"
    "task_memcg={path},task={name},pid={pid},uid=0"
)
KILLED = (
    "Memory cgroup out of memory: Killed process {pid} ({name}) total-vm:82104kB, anon-rss:22888kB, file-rss:3664kB, "
    "shmem-rss:0kB, UID:0 pgtables:104kB oom_score_adj:0"
)
RUN = "pytest-isolate-10-20-0.4026531836"


def chosen(path: str, name: str, pid: int) -> str:
    return CHOSEN.format(path=path, name=name, pid=pid)


def test_victim_of_the_group_is_found_below_any_prefix() -> None:
    log = ["python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL)", chosen(f"/jobs/x/{RUN}/7", "python3", 45)]
    assert victims_in(log, f"{RUN}/7") == (OomVictim("python3", 45),)


def test_victim_of_a_cgroup_made_inside_counts() -> None:
    assert victims_in([chosen(f"/{RUN}/7/inner", "a", 45)], f"{RUN}/7") == (OomVictim("a", 45),)


def test_victims_of_other_groups_are_left_out() -> None:
    log = [chosen(f"/{RUN}/77", "a", 45), chosen(f"/{RUN}/17", "b", 46), chosen(f"/x{RUN}/7", "c", 47), chosen("/", "d", 48)]
    assert victims_in(log, f"{RUN}/7") == ()


def test_name_with_brackets_and_commas_is_kept_whole() -> None:
    log = [chosen(f"/{RUN}/7", "we)ird,pid=1, x", 45)]
    assert victims_in(log, f"{RUN}/7") == (OomVictim("we)ird,pid=1, x", 45),)


def test_both_lines_of_one_killing_count_once() -> None:
    log = [chosen(f"/{RUN}/7", "python3", 45), KILLED.format(pid=45, name="python3")]
    assert victims_in(log, f"{RUN}/7", known=[45]) == (OomVictim("python3", 45),)


def test_killing_whose_first_line_was_rate_limited_is_found_by_known_pid() -> None:
    log = [KILLED.format(pid=45, name="we)ird"), KILLED.format(pid=46, name="other")]
    assert victims_in(log, f"{RUN}/7") == ()
    assert victims_in(log, f"{RUN}/7", known=[45]) == (OomVictim("we)ird", 45),)


def test_system_wide_oom_of_a_known_process_counts() -> None:
    log = [KILLED.format(pid=45, name="python3").replace("Memory cgroup out", "Out")]
    assert victims_in(log, f"{RUN}/7", known=[45]) == (OomVictim("python3", 45),)
