from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest

from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import ProcessInfo, Usage
from pytest_isolate.plugin.verdict import DiskWasFull, Ending, Exit, Gone, Leak, OutOfMemory, Signal, Timeout, Verdict, judge

MIB = 1 << 20
SLEEP = ProcessInfo(9, "sleep", "sleep 100")


@dataclass(frozen=True)
class Happened:
    oom_kills: int = 0
    oom_victims: tuple[str, ...] = ()
    pids_cap_hits: int = 0
    disk_full: bool = False


NOTHING = Happened()
BARE = Spec()


def ended(status: int | None, *, happened: Happened = NOTHING, spec: Spec = BARE, **facts: object) -> Verdict:
    return judge(Ending(status, "call", spec, happened, **facts))  # type: ignore[arg-type]


def exited(code: int) -> int:
    return code << 8


def first_line(verdict: Verdict) -> str:
    assert verdict.cause
    return verdict.cause.text().splitlines()[0]


def test_all_reports_given_and_nothing_happened_finds_nothing() -> None:
    verdict = ended(None)
    assert verdict.cause is None
    assert verdict.findings == ()
    assert verdict.sections() == []


def test_signal_names_itself_its_phase_and_its_stack() -> None:
    verdict = ended(signal.SIGSEGV, stack="Current thread (most recent call first):\n  File ...")
    assert isinstance(verdict.cause, Signal)
    assert verdict.cause.text().startswith("signal SIGSEGV in call (Segmentation fault)\nCurrent thread")


def test_segfault_with_a_repeated_frame_is_called_a_stack_overflow() -> None:
    verdict = ended(signal.SIGSEGV, stack="  [the same frame 90 more times]")
    assert "recursion without end" in first_line(verdict)


def test_bus_error_on_a_full_disk_says_so() -> None:
    verdict = ended(signal.SIGBUS, happened=Happened(disk_full=True))
    assert "disk is full" in first_line(verdict)


def test_core_dump_flag_does_not_hide_the_signal() -> None:
    assert first_line(ended(signal.SIGABRT | 0x80)).startswith("signal SIGABRT in call")


def test_real_time_signal_has_a_name() -> None:
    assert first_line(ended(signal.SIGRTMIN + 3)).startswith("signal SIGRTMIN+3 in call")


def test_stack_of_a_forked_child_is_not_taken_for_that_of_a_killed_test() -> None:
    verdict = ended(signal.SIGKILL, stack="Fatal Python error: Segmentation fault")
    assert verdict.cause
    assert "Segmentation" not in verdict.cause.text()


def test_full_disk_with_room_again_is_told_by_the_failure_where_there_is_a_cap() -> None:
    failure = "E  OSError: [Errno 28] No space left on device"
    told = DiskWasFull.told_by(failure, Spec(disk=8 * MIB))
    assert told
    assert "holds 8.0 MiB" in told.text()
    assert DiskWasFull.told_by(failure, BARE) is None
    assert DiskWasFull.told_by("E  assert 0", Spec(disk=8 * MIB)) is None


def test_exit_keeps_its_code_zero_included() -> None:
    assert first_line(ended(exited(3))).startswith("exit status 3 in call: ")
    assert first_line(ended(exited(0))).startswith("exit status 0 in call: ")
    assert isinstance(ended(exited(0)).cause, Exit)


def test_sigkill_with_an_oom_kill_is_out_of_memory_with_cap_and_victim() -> None:
    verdict = ended(
        signal.SIGKILL,
        happened=Happened(oom_kills=1, oom_victims=("python3 (pid 7)",)),
        spec=Spec(memory=64 * MIB),
        usage=Usage(memory_peak_bytes=64 * MIB),
    )
    assert isinstance(verdict.cause, OutOfMemory)
    assert verdict.cause.text() == "OOM: used 64.0 of 64 MiB, killed python3 (pid 7)"
    assert verdict.sections() == []


@pytest.mark.parametrize(
    "peak, cap, kills, text",
    [
        (64 * MIB, 64 * MIB, 2, "OOM: used 64.0 of 64 MiB, killed 2 processes"),
        (3 << 29, 3 << 29, 1, "OOM: used 1.5 of 1.5 GiB, killed 1 process"),
        (None, 64 * MIB, 1, "OOM: used all of 64.0 MiB, killed 1 process"),
        (MIB, None, 1, "OOM: used 1.0 MiB, killed 1 process"),
        (None, None, 1, "OOM: killed 1 process"),
    ],
)
def test_oom_text_says_only_what_is_known(peak: int | None, cap: int | None, kills: int, text: str) -> None:
    assert OutOfMemory(peak, cap, kills).text() == text


def test_oom_names_the_share_of_files_in_the_tmpfs() -> None:
    assert "48.0 MiB of it are files" in OutOfMemory(64 * MIB, 64 * MIB, 1, (), 48 * MIB).text()


def test_oom_victim_that_is_the_test_itself_is_called_so() -> None:
    happened = Happened(oom_kills=2, oom_victims=("python3 (pid 41 of the host)", "cc1 (pid 4 of the host)"))
    verdict = ended(signal.SIGKILL, happened=happened, pid=41)
    assert first_line(verdict) == "OOM: killed python3 (the test process), cc1 (pid 4 of the host)"


def test_oom_of_a_grandchild_is_beside_the_report_and_not_its_cause() -> None:
    verdict = ended(None, happened=Happened(oom_kills=1, oom_victims=("cc1 (pid 12)",)))
    assert verdict.cause is None
    assert verdict.sections() == [("isolate: out of memory", "OOM: killed cc1 (pid 12)")]
    (problem,) = verdict.problems(failed=False)
    assert (problem.kind, problem.failed) == ("OOM", False)
    assert verdict.problems(failed=True)[0].failed


def test_other_signal_beside_an_oom_kill_keeps_both() -> None:
    verdict = ended(signal.SIGABRT, happened=Happened(oom_kills=1))
    assert [type(finding) for finding in verdict.findings] == [Signal, OutOfMemory]


def test_timeout_wins_over_the_sigkill_it_sent_and_lists_what_ran() -> None:
    verdict = ended(
        signal.SIGKILL,
        spec=Spec(timeout=2.0),
        timed_out=True,
        stack="Current thread",
        running=[SLEEP],
        left=[SLEEP],
    )
    assert isinstance(verdict.cause, Timeout)
    assert verdict.cause.text().splitlines() == [
        "timeout of 2.00 s in call",
        "Current thread",
        "running inside, all killed:",
        "  sleep (pid 9): sleep 100",
    ]
    assert verdict.leak is None


def test_timeout_without_a_stack_says_why_there_is_none() -> None:
    assert "no Python stack" in Timeout(1.0, "setup").text()


def test_sandbox_gone_explains_the_sigkill() -> None:
    verdict = ended(signal.SIGKILL, gone="its builder was killed")
    assert isinstance(verdict.cause, Gone)
    assert first_line(verdict) == "sandbox gone in call: its builder was killed"


def test_pids_cap_and_full_disk_are_told_with_their_caps() -> None:
    verdict = ended(
        None,
        happened=Happened(pids_cap_hits=3, disk_full=True),
        spec=Spec(pids=16, disk=8 * MIB),
        usage=Usage(disk_written_bytes=8 * MIB),
    )
    assert [text for _, text in verdict.sections()] == [
        "pids cap of 16 hit 3 times: a fork or a new thread was refused (EAGAIN)",
        "disk full: 8.0 of 8 MiB written, further writes were refused (ENOSPC)",
    ]


def test_leak_is_a_problem_that_fails_nothing_by_default() -> None:
    verdict = ended(None, left=[SLEEP])
    assert verdict.leak == Leak((SLEEP,))
    assert not verdict.leak_fails
    (problem,) = verdict.problems(failed=True)
    assert (problem.kind, problem.failed) == ("LEAK", False)
    assert problem.text == "1 process left behind: sleep (pid 9)"


def test_leak_fails_where_the_spec_says_so() -> None:
    verdict = ended(None, spec=Spec(leak="fail"), left=[SLEEP] * 5)
    assert verdict.leak_fails
    assert verdict.leak
    assert verdict.leak.text().startswith("5 processes left behind: sleep (pid 9), sleep (pid 9), sleep (pid 9) and 2 more\n")


def test_processes_alive_after_a_crash_are_no_leak() -> None:
    assert ended(signal.SIGSEGV, left=[SLEEP]).leak is None
    assert ended(exited(0), left=[SLEEP]).leak is not None


def test_long_listings_are_cut() -> None:
    text = Leak((ProcessInfo(1, "x", "y" * 500),) * 30).text()
    assert "and 20 more" in text
    assert max(map(len, text.splitlines())) <= 125
