"""What failing tests changed in the files of their sandboxes: the fixture and the section of the report."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import EVERY_WAY, run

SECTION = "isolate: changed files"

SUITE = """
import os
import subprocess
import pytest

pytestmark = pytest.mark.isolate
HERE = os.path.dirname(os.path.abspath(__file__))

def write(name, text="new"):
    with open(os.path.join(os.fsencode(HERE), os.fsencode(name)), "w") as file:
        file.write(text)

def test_passes():
    write("passes")

def test_fails(tmp_path):
    (tmp_path / "kept").write_text("pytest's own place")
    write("data.ini", "longer than it was")
    os.unlink(os.path.join(HERE, "gone.ini"))
    write(b"odd \\xff\\n name")
    assert 0

def test_fails_alone():
    assert 0

def test_changes_much():
    for number in range(45):
        write(f"many{number:02}")
    assert 0

def test_leaves():
    write("left")
    os._exit(3)

@pytest.fixture
def bad_teardown():
    yield
    write("in-teardown")
    assert 0

def test_teardown(bad_teardown):
    write("in-call")

@pytest.mark.isolate(timeout="500ms")
def test_hangs():
    write("hung")
    import time
    time.sleep(100)

@pytest.mark.isolate(leak="fail")
def test_leaks():
    write("leaked")
    subprocess.Popen(["sleep", "100"])

@pytest.mark.isolate(user="root")
def test_as_root():
    write("as-root")
    os.chmod(os.path.join(HERE, "as-root"), 0)
    assert 0

@pytest.mark.isolate(enabled=False)
def test_plain():
    assert 0
"""

FILES = {"data.ini": "short", "gone.ini": "four"}


@EVERY_WAY
def test_failing_reports_say_which_files_were_changed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for name, text in FILES.items():
        (pytester.path / name).write_text(text)
    pytester.makepyfile(SUITE)
    reports = run(pytester, monkeypatch, how=how).reports
    told: dict[str, list[str]] = {}
    for report in reports:
        if text := report.section(SECTION):
            told[f"{report.name} {report.when}"] = [line.replace(f"{pytester.path}/", "") for line in text.splitlines()]
    many = [f"A many{number:02}  3 B" for number in range(20)]
    assert {name: [_without_directory(line) for line in lines] for name, lines in told.items()} == {
        "test_fails call": ["C data.ini  18 B", "D gone.ini  4 B", r"A odd \xff\n name  3 B"],
        "test_changes_much call": [*many, "and 25 others: isolate_box.changes() has them all"],
        "test_leaves call": ["A left  3 B"],
        "test_teardown teardown": ["A in-call  3 B", "A in-teardown  3 B"],
        "test_hangs call": ["A hung  3 B"],
        "test_leaks teardown": ["A leaked  3 B"],
        "test_as_root call": ["A as-root  3 B"],
    }


def _without_directory(line: str) -> str:
    kind, _, rest = line.partition(" ")
    return f"{kind} {rest.rpartition('/')[2]}" if rest.startswith("/") else line


BOX = """
import os
import threading
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))

@pytest.mark.isolate
def test_it(isolate_box, tmp_path):
    assert isolate_box.changes() == []
    (tmp_path / "file").write_text("pytest's own place")
    odd = os.path.join(os.fsencode(HERE), b"odd \\xff\\n")
    with open(odd, "w") as file:
        file.write("new")
    os.mkdir(HERE + "/made")
    os.unlink(HERE + "/gone.ini")
    told = [(change.kind, change.path, change.size) for change in isolate_box.changes()]
    assert told == [("D", HERE + "/gone.ini", 4), ("A", HERE + "/made", 0), ("A", os.fsdecode(odd), 3)]
    assert not isolate_box.changes().truncated

@pytest.mark.isolate
def test_from_threads_and_teardown(isolate_box, request):
    open(HERE + "/new", "w").close()
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(isolate_box.changes())) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert [[change.kind for change in changes] for changes in seen] == [["A"]] * 4
    request.addfinalizer(lambda: isolate_box.changes())

@pytest.mark.isolate(net="none", memory="64MiB")
def test_long_list(isolate_box):
    for number in range(20_000):
        open(f"{HERE}/{number}", "w").close()
    assert len(isolate_box.changes()) == 20_000

@pytest.fixture
def machine(isolate_factory):
    return isolate_factory()

def test_of_factory(machine):
    machine.run(["sh", "-c", "echo new > new; rm gone.ini"], cwd=HERE)
    assert [(change.kind, change.path) for change in machine.changes()] == [("D", HERE + "/gone.ini"), ("A", HERE + "/new")]

@pytest.mark.isolate
def test_of_factory_inside(isolate_factory):
    machine = isolate_factory()
    machine.run(["sh", "-c", "echo new > \\"$(printf 'new\\\\377')\\""], cwd=HERE)
    assert [os.fsencode(change.path) for change in machine.changes()] == [os.fsencode(HERE) + b"/new\\xff"]
"""


@EVERY_WAY
def test_the_box_tells_its_changes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    (pytester.path / "gone.ini").write_text("four")
    pytester.makepyfile(BOX)
    done = run(pytester, monkeypatch, how=how)
    assert (done.failed(), len({report.name for report in done})) == (set(), 5), done.output


def test_killed_builder_leaves_the_failure_as_it_is(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate
        def test_it(isolate_box):
            assert 0, "as it was"
    """)
    pytester.makeconftest("""
        import os, signal, pytest
        from pytest_isolate.plugin import written
        take = written.Written.take
        def killing(self):
            os.kill(self._box._place.entrance.builder.pid, signal.SIGKILL)
            take(self)
        written.Written.take = killing
    """)
    (report,) = [report for report in run(pytester, monkeypatch).reports if report.outcome == "failed" and report.when == "call"]
    assert "as it was" in report.longrepr
    assert report.section(SECTION).startswith("unknown: the builder")
