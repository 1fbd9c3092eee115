"""`report.terminal`: golden renderings, and what holds of every rendering."""

from __future__ import annotations

import random
import unicodedata

import pytest

from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import Usage
from pytest_isolate.report.lines import Style, clip, plain
from pytest_isolate.report.record import Problem, Run, TestRecord
from pytest_isolate.report.table import heaviest
from pytest_isolate.report.terminal import render, title
from pytest_isolate.report.width import cut_middle, printable, width_of, wrap

MIB = 1 << 20


def usage(cpu: float, memory: float, wall: float, pids: int = 1, *, read: float = 0, written: float = 0, disk: float = 0, setup: float = 0.003,
          throttled: float | None = None) -> Usage:  # fmt: skip
    """Sizes in MiB."""
    return Usage(
        cpu_seconds=cpu, memory_peak_bytes=int(memory * MIB), wall_seconds=wall, pids_peak=pids, io_read_bytes=int(read * MIB),
        io_write_bytes=int(written * MIB), disk_written_bytes=int(disk * MIB), setup_seconds=setup, cpu_throttled_seconds=throttled,
    )  # fmt: skip


OOM = Problem("oom", "OOM: used 64.0 of 64 MiB, killed python3 (pid 7)\n12.0 MiB of it are files")
TIMEOUT = Problem("timeout", "timeout of 5.00 s in call")
SEGV = Problem("signal", "signal SIGSEGV in call (Segmentation fault)")
LEAK = Problem("leak", "1 process left behind: sleep (pid 9)", failed=False)


def ci_run() -> Run:
    run = Run([
        TestRecord("tests/test_alloc.py::test_reads_the_whole_file", usage(0.41, 64, 0.52, read=0.004, disk=12), Spec(memory=64 * MIB), (OOM,)),
        TestRecord("tests/test_server.py::TestServer::test_shutdown_waits[graceful]", usage(0.02, 18.4, 5.01, 9), Spec(pids=64), (TIMEOUT,)),
        TestRecord("tests/test_native.py::test_extension", usage(0.01, 6, 0.02), problems=(SEGV,)),
        TestRecord("tests/test_spawn.py::test_worker", usage(0.05, 12, 0.11, 3, setup=0.009), problems=(LEAK,)),
        TestRecord("tests/test_cpu.py::test_primes", usage(0.2, 8.2, 1.01, throttled=0.8), Spec(cpu=0.2)),
        TestRecord("tests/test_db.py::test_文字化け[長い]", usage(1.3, 22, 1.41, 2, read=3, written=48, disk=48), Spec(memory=128 * MIB, disk=64 * MIB)),
    ])  # fmt: skip
    run.add(
        TestRecord(
            "tests/test_x.py::test_weak", Usage(cpu_seconds=0.001), weakened=("memory needs cgroup-memory: no such controller",)
        )
    )
    run.note("2 threads were alive at the fork: monitor, pool-0")
    return run


def shown(run: Run, width: int = 80, verbosity: int = 0, top: int = 5, encoding: str = "utf-8") -> str:
    return "\n".join(plain(line) for line in render(run, Style(width, encoding, verbosity, top)))


def golden(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def test_80_columns_keep_cpu_memory_bar_pids_and_wall() -> None:
    assert shown(ci_run()) == golden(r"""
    OOM tests/test_alloc.py::test_reads_the_whole_file
          used 64.0 of 64 MiB, killed python3 (pid 7)
TIMEOUT tests/test_server.py::TestServer::test_shutdown_waits[graceful]
          timeout of 5.00 s in call
 SIGNAL tests/test_native.py::test_extension
          signal SIGSEGV in call (Segmentation fault)
   LEAK tests/test_spawn.py::test_worker
          1 process left behind: sleep (pid 9)

heaviest 5 of 7                    cpu s  memory MiB  of cap        pids  wall s
tests/test…y::test_文字化け[長い]   1.30        22.0  █▍░░░░░░ 128     2    1.41
tests/test…t_reads_the_whole_file   0.41        64.0  ████████ 64      1    0.52
tests/test…utdown_waits[graceful]   0.02        18.4                9/64    5.01
tests/test_spawn.py::test_worker    0.05        12.0                   3    0.11
tests/test_cpu.py::test_primes      0.20         8.2                   1    1.01

weakened: 1 test: memory needs cgroup-memory: no such controller
note:     2 threads were alive at the fork: monitor, pool-0
total:    7 isolated tests, cpu 1.99 s, memory peak 64.0 MiB, pids peak 9,
          read 3.0 MiB, written 48.0 MiB, disk 60.0 MiB, wall 8.08 s
overhead: median 3 ms, p95 9 ms a test, 24 ms in all
""")


def test_120_columns_show_every_figure_that_is_not_zero() -> None:
    assert shown(ci_run(), 120) == golden(r"""
    OOM tests/test_alloc.py::test_reads_the_whole_file  used 64.0 of 64 MiB, killed python3 (pid 7)
TIMEOUT tests/test_server.py::TestServer::test_shutdown_waits[graceful]  timeout of 5.00 s in call
 SIGNAL tests/test_native.py::test_extension  signal SIGSEGV in call (Segmentation fault)
   LEAK tests/test_spawn.py::test_worker  1 process left behind: sleep (pid 9)

heaviest 5 of 7                                          cpu s  memory MiB  of cap        pids  io MiB  disk MiB  wall s
tests/test_db.py::test_文字化け[長い]                     1.30        22.0  █▍░░░░░░ 128     2    51.0      48.0    1.41
tests/test_alloc.py::test_reads_the_whole_file            0.41        64.0  ████████ 64      1    <0.1      12.0    0.52
tests/test_server.…erver::test_shutdown_waits[graceful]   0.02        18.4                9/64     0.0       0.0    5.01
tests/test_spawn.py::test_worker                          0.05        12.0                   3     0.0       0.0    0.11
tests/test_cpu.py::test_primes                            0.20         8.2                   1     0.0       0.0    1.01

weakened: 1 test: memory needs cgroup-memory: no such controller
note:     2 threads were alive at the fork: monitor, pool-0
total:    7 isolated tests, cpu 1.99 s, memory peak 64.0 MiB, pids peak 9, read 3.0 MiB, written 48.0 MiB,
          disk 60.0 MiB, wall 8.08 s
overhead: median 3 ms, p95 9 ms a test, 24 ms in all
""")


def test_40_columns_keep_cpu_and_memory() -> None:
    assert shown(ci_run(), 40, top=3) == golden(r"""
    OOM tests/test…_reads_the_whole_file
          used 64.0 of 64 MiB, killed
          python3 (pid 7)
TIMEOUT tests/test…tdown_waits[graceful]
          timeout of 5.00 s in call
 SIGNAL tests/test…ve.py::test_extension
          signal SIGSEGV in call
          (Segmentation fault)
   LEAK tests/test_spawn.py::test_worker
          1 process left behind: sleep
          (pid 9)

heaviest 3 of 7        cpu s  memory MiB
tests/…文字化け[長い]   1.30        22.0
tests/…the_whole_file   0.41        64.0
tests/…aits[graceful]   0.02        18.4

weakened: 1 test: memory needs
          cgroup-memory: no such
          controller
note:     2 threads were alive at the
          fork: monitor, pool-0
total:    7 isolated tests, cpu 1.99 s,
          memory peak 64.0 MiB,
          pids peak 9, read 3.0 MiB,
          written 48.0 MiB,
          disk 60.0 MiB, wall 8.08 s
overhead: median 3 ms, p95 9 ms a test,
          24 ms in all
""")


def test_verbose_shows_all_columns_below_the_node_ids() -> None:
    assert shown(ci_run(), 120, 1, top=3) == golden(r"""
    OOM tests/test_alloc.py::test_reads_the_whole_file  used 64.0 of 64 MiB, killed python3 (pid 7)
TIMEOUT tests/test_server.py::TestServer::test_shutdown_waits[graceful]  timeout of 5.00 s in call
 SIGNAL tests/test_native.py::test_extension  signal SIGSEGV in call (Segmentation fault)
   LEAK tests/test_spawn.py::test_worker  1 process left behind: sleep (pid 9)

heaviest 3 of 7
  cpu s  throttled s  memory MiB  of cap        pids  read MiB  written MiB  disk MiB  of cap       wall s  setup ms
tests/test_db.py::test_文字化け[長い]
   1.30            -        22.0  █▍░░░░░░ 128     2       3.0         48.0      48.0  ██████░░ 64    1.41       3.0
tests/test_alloc.py::test_reads_the_whole_file
   0.41            -        64.0  ████████ 64      1      <0.1          0.0      12.0                 0.52       3.0
tests/test_server.py::TestServer::test_shutdown_waits[graceful]
   0.02            -        18.4                9/64       0.0          0.0       0.0                 5.01       3.0

weakened: 1 test: memory needs cgroup-memory: no such controller
note:     2 threads were alive at the fork: monitor, pool-0
total:    7 isolated tests, cpu 1.99 s, memory peak 64.0 MiB, pids peak 9, read 3.0 MiB, written 48.0 MiB,
          disk 60.0 MiB, wall 8.08 s
overhead: median 3 ms, p95 9 ms a test, 24 ms in all
""")


def test_quiet_shows_problems_and_one_total_line() -> None:
    assert shown(ci_run(), 120, -1) == golden(r"""
    OOM tests/test_alloc.py::test_reads_the_whole_file  used 64.0 of 64 MiB, killed python3 (pid 7)
TIMEOUT tests/test_server.py::TestServer::test_shutdown_waits[graceful]  timeout of 5.00 s in call
 SIGNAL tests/test_native.py::test_extension  signal SIGSEGV in call (Segmentation fault)
   LEAK tests/test_spawn.py::test_worker  1 process left behind: sleep (pid 9)
isolate: 7 tests, cpu 1.99 s, memory peak 64.0 MiB, overhead 3 ms (p95 9 ms)
""")


def test_ascii_stream_gets_ascii_bars_ellipses_and_escapes() -> None:
    assert shown(ci_run(), 100, encoding="ascii") == golden(r"""
    OOM tests/test_alloc.py::test_reads_the_whole_file  used 64.0 of 64 MiB, killed python3 (pid 7)
TIMEOUT tests/test_server.py::TestServer::test_shutdown_waits[graceful]  timeout of 5.00 s in call
 SIGNAL tests/test_native.py::test_extension  signal SIGSEGV in call (Segmentation fault)
   LEAK tests/test_spawn.py::test_worker  1 process left behind: sleep (pid 9)

heaviest 5 of 7                              cpu s  memory MiB  of cap        pids  disk MiB  wall s
tests/test_db...7\u5316\u3051[\u9577\u3044]   1.30        22.0  #....... 128     2      48.0    1.41
tests/test_al...::test_reads_the_whole_file   0.41        64.0  ######## 64      1      12.0    0.52
tests/test_se...st_shutdown_waits[graceful]   0.02        18.4                9/64       0.0    5.01
tests/test_spawn.py::test_worker              0.05        12.0                   3       0.0    0.11
tests/test_cpu.py::test_primes                0.20         8.2                   1       0.0    1.01

weakened: 1 test: memory needs cgroup-memory: no such controller
note:     2 threads were alive at the fork: monitor, pool-0
total:    7 isolated tests, cpu 1.99 s, memory peak 64.0 MiB, pids peak 9, read 3.0 MiB,
          written 48.0 MiB, disk 60.0 MiB, wall 8.08 s
overhead: median 3 ms, p95 9 ms a test, 24 ms in all
""")


def test_run_without_problems_starts_with_the_table() -> None:
    assert shown(Run([TestRecord("test_a.py::test_b", usage(0.5, 3, 0.6))]), 100) == golden(r"""
1 isolated test    cpu s  memory MiB  pids  wall s
test_a.py::test_b   0.50         3.0     1    0.60

total:    1 isolated test, cpu 500 ms, memory peak 3.0 MiB, pids peak 1, wall 600 ms
overhead: median 3 ms, p95 3 ms a test, 3 ms in all
""")


def test_no_isolated_test_no_lines() -> None:
    run = Run()
    run.note("threads were alive")
    assert render(run, Style()) == []


def test_unknown_figures_are_dashes_and_zeros_are_zeros() -> None:
    run = Run([TestRecord("a.py::known", usage(0, 2, 0, 0)), TestRecord("a.py::unknown", Usage())])
    lines = shown(run, 120, 1).splitlines()
    assert lines[1].split() == ["a.py::known", "0.00", "-", "2.0", "0", "0.0", "0.0", "0.0", "0.00", "3.0"]
    assert lines[2].split() == ["a.py::unknown", *"---------"]


def test_column_that_is_unknown_or_zero_everywhere_needs_verbose() -> None:
    run = Run([TestRecord("a.py::t", usage(0.5, 2, 0.5))])
    assert "io MiB" not in shown(run, 120)
    assert "read MiB" in shown(run, 120, 1)


def test_figures_too_small_for_their_decimals_do_not_look_like_zero() -> None:
    text = shown(Run([TestRecord("a.py::t", usage(0.0001, 0.01, 0.004, disk=0.001))]), 120)
    assert text.splitlines()[1].split() == ["a.py::t", "<0.01", "<0.1", "1", "<0.1", "<0.01"]


def test_machine_without_any_figures_still_renders() -> None:
    assert shown(Run([TestRecord("a.py::t", Usage())])) == golden(r"""
1 isolated test  cpu s  memory MiB  wall s
a.py::t              -           -       -

total:    1 isolated test
""")


def test_bar_of_a_cap_with_unknown_use_is_a_dash() -> None:
    text = shown(Run([TestRecord("a.py::t", Usage(cpu_seconds=1.0), Spec(memory=64 * MIB))]))
    assert text.splitlines()[1].split() == ["a.py::t", "1.00", "-", "-", "64", "-"]


@pytest.mark.parametrize(
    "share,full,empty",
    [(0, "", "░░░░"), (0.0001, "▏", "░░░"), (0.5, "██", "░░"), (0.9999, "███▉", ""), (1, "████", ""), (7, "████", "")],
)
def test_bar_shows_any_use_and_is_full_only_at_the_cap(share: float, full: str, empty: str) -> None:
    assert Style().bar(share, 4) == (full, empty)


@pytest.mark.parametrize("share,bar", [(0, "...."), (0.0001, "#..."), (0.5, "##.."), (0.9999, "###."), (2, "####")])
def test_ascii_bar_shows_any_use_and_is_full_only_at_the_cap(share: float, bar: str) -> None:
    assert "".join(Style(encoding="ascii").bar(share, 4)) == bar


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "iso8859-15", "cp1252"])
def test_stream_that_cannot_say_blocks_gets_text_it_can_encode(encoding: str) -> None:
    shown(ci_run(), 120, 1, 0, encoding).encode(encoding)


def test_top_limits_the_table_and_zero_shows_all() -> None:
    run = Run([TestRecord(f"a.py::t{number}", usage(number, 2, number)) for number in range(9)])
    assert "heaviest 2 of 9" in shown(run, top=2)
    assert "a.py::t0" not in shown(run, top=2)
    assert "9 isolated tests" in shown(run, top=0)
    assert "a.py::t0" in shown(run, top=0)


def test_highest_of_each_resource_is_among_the_first() -> None:
    filler = [TestRecord(f"f{number}", usage(0.5, 30, 9)) for number in range(20)]
    peaks = [TestRecord("cpu", usage(5, 2, 5)), TestRecord("memory", usage(0, 300, 0)), TestRecord("io", usage(0, 2, 0, written=50)),
             TestRecord("disk", usage(0, 2, 0, disk=50)), TestRecord("cap", usage(0, 7.9, 0), Spec(memory=8 * MIB))]  # fmt: skip
    assert {test.nodeid for test in heaviest(Run(filler + peaks), 5)} == {"cpu", "memory", "io", "disk", "cap"}


def test_noise_does_not_make_a_test_heavy() -> None:
    run = Run([TestRecord("noise", usage(0.01, 2, 0, disk=0.004)), TestRecord("real", usage(0.05, 12, 0.1))])
    assert heaviest(run, 1)[0].nodeid == "real"


def test_title_counts_problems_and_is_red_only_for_failures() -> None:
    assert title(ci_run()) == ("isolate: 4 problems in 7 tests", ("red",))
    assert title(Run([TestRecord("t", Usage(), problems=(LEAK,))])) == ("isolate: 1 problem in 1 test", ("yellow",))
    assert title(Run([TestRecord("t", Usage())])) == ("isolate: 1 test", ())


def test_many_reported_problems_are_counted_unless_verbose() -> None:
    run = Run([TestRecord(f"a.py::t{number}", Usage(), problems=(LEAK,)) for number in range(50)])
    run.add(TestRecord("a.py::died", Usage(), problems=(SEGV,)))
    assert shown(run).splitlines()[0].startswith("SIGNAL a.py::died")
    assert shown(run).count(" LEAK ") == 20
    assert "and 30 more that failed no test (-v lists them)" in shown(run)
    assert shown(run, verbosity=1).count(" LEAK ") == 50


def test_long_sentence_is_cut_to_three_lines_unless_verbose() -> None:
    run = Run([TestRecord("a.py::t", Usage(), problems=(Problem("oom", "word " * 100),))])
    below = [line for line in shown(run).splitlines() if "word" in line]
    assert len(below) == 3
    assert below[-1].endswith("…")
    assert shown(run, verbosity=1).count("word") == 100


def test_control_characters_and_bidi_marks_reach_no_terminal() -> None:
    problem = Problem("oom", "killed \x1b[2Jevil\x9b31m\u202e (pid 7)")
    text = shown(Run([TestRecord("a.py::t[\x1b]0;x\x07\udcff]", Usage(), problems=(problem,))]), 120)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "\\x1b" in text


def test_styles_are_names_that_pytests_terminal_writer_knows() -> None:
    from _pytest._io.terminalwriter import TerminalWriter

    names = {name for line in render(ci_run(), Style(200, verbosity=1)) for _text, styles in line for name in styles}
    assert names
    assert names <= set(TerminalWriter._esctable)


def random_text(rng: random.Random) -> str:
    alphabet = "abcXYZ_:/[].  \t文字化けé\u0301\u200d👩🏽‍\x1b\udc80ｱ"
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 120)))


def random_run(rng: random.Random) -> Run:
    def maybe(value: float) -> float | None:
        return None if rng.random() < 0.3 else value

    run = Run()
    for _ in range(rng.randrange(1, 8)):
        size = 10.0 ** rng.randrange(13)
        figures = Usage(maybe(size / 1e6), None, None, maybe(0.1), maybe(int(size)), maybe(rng.randrange(9999)), maybe(int(size)),
                        maybe(0), maybe(int(size)), maybe(size / 1e6), maybe(0.004))  # type: ignore[arg-type]  # fmt: skip
        spec = Spec(cpu=maybe(0.2), memory=maybe(1 << 26), pids=maybe(64), disk=maybe(1 << 20))  # type: ignore[arg-type]
        problems = tuple(
            Problem(rng.choice(["oom", "leak", "文字"]), random_text(rng), rng.random() < 0.5) for _ in range(rng.randrange(3))
        )
        run.add(TestRecord(random_text(rng), figures, spec, problems, (random_text(rng),), (random_text(rng),)))
    return run


@pytest.mark.parametrize("seed", range(25))
def test_no_line_is_wider_than_the_terminal_nor_ends_in_space(seed: int) -> None:
    rng = random.Random(seed)
    run = random_run(rng)
    for width in (1, 2, 5, 16, 20, 39, 40, 41, 80, 120, 200):
        for verbosity in (-1, 0, 1):
            for encoding in ("utf-8", "ascii"):
                for line in render(run, Style(width, encoding, verbosity, rng.choice([0, 3]))):
                    text = plain(line)
                    assert width_of(text) <= width, (width, verbosity, text)
                    assert text == text.rstrip()
                    assert "\n" not in text
                    text.encode(encoding)


@pytest.mark.parametrize("seed", range(20))
def test_table_columns_end_at_the_same_cell_in_every_row(seed: int) -> None:
    rng = random.Random(seed)
    run = Run([TestRecord("n" * rng.randrange(1, 90) + "文" * rng.randrange(9), usage(rng.random() * 9, rng.random() * 99, rng.random()))
               for _ in range(6)])  # fmt: skip
    rows = shown(run, rng.choice([40, 60, 80, 100]), top=0).split("\n\n")[0].splitlines()
    assert len({width_of(row) for row in rows}) == 1


@pytest.mark.parametrize("text,width", [("abc", 3), ("文字", 4), ("e\u0301", 1), ("👩", 2), ("ｱ", 1), ("", 0)])
def test_width_counts_cells(text: str, width: int) -> None:
    assert width_of(text) == width


@pytest.mark.parametrize(
    "text,width,expected",
    [("abcdefghijkl", 12, "abcdefghijkl"), ("abcdefghijkl", 10, "abc…ghijkl"), ("文字化け文字化け", 10, "文…字化け"),
     ("abcdef", 3, "ab…"), ("abcdef", 1, "…"), ("abcdef", 0, "")],
)  # fmt: skip
def test_cut_in_the_middle_keeps_more_of_the_end(text: str, width: int, expected: str) -> None:
    assert width_of(expected) <= width
    assert cut_middle(text, width, "…") == expected


def test_cut_parts_no_combining_character_from_its_letter() -> None:
    cut = cut_middle("a" * 10 + "e\u0301" * 10, 9, "…")
    kept = cut.partition("…")[2]
    assert not unicodedata.combining(kept[0])


def test_wrap_breaks_words_only_where_they_are_longer_than_a_line() -> None:
    assert wrap("a bc def", 4) == ["a bc", "def"]
    assert wrap("abcdefghij k", 4) == ["abcd", "efgh", "ij k"]
    assert wrap("", 4) == [""]


def test_printable_collapses_white_space_and_escapes() -> None:
    assert printable(" a\n\tb\x00é", "ascii") == "a b\\x00\\xe9"


def test_clip_drops_trailing_space_and_what_does_not_fit() -> None:
    assert clip((("ab ", ("red",)), ("  ", ())), 80, "…") == (("ab", ("red",)),)
    assert clip((("abc", ("red",)), ("def", ())), 4, "…") == (("abc", ("red",)), ("…", ()))
