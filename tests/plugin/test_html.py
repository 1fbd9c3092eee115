"""``--isolate-html``: the page of the run's own document, whatever becomes of the run; and an error at the start where there can be none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_isolate.report.html.page import page
from tests.plugin.test_json import checked
from tests.support.capabilities import requires
from tests.support.isolated_runs import run
from tests.support.plugin_runs import Pytest, plugin

__all__ = ["plugin"]

ROOT = Path(__file__).parents[2]

SUITE = """
import pytest, time

@pytest.mark.isolate(memory="256MiB")
def test_passes(): bytearray(20_000_000)

@pytest.mark.isolate(timeout="300ms")
def test_takes_too_long(): time.sleep(60)
"""


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_page_is_made_of_the_document_and_nothing_else(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(test_it=SUITE)
    files = ["out/page.html", "run.json"]
    done = run(pytester, monkeypatch, "--isolate-html=out/page.html", "--isolate-json=run.json", how=how, keep=files)
    document = json.loads(done.files["run.json"])
    assert {test["outcome"] for test in document["tests"]} == {"passed", "failed"}
    assert done.files["out/page.html"] == page(document)


def test_run_without_an_isolated_test_has_a_page_too(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("def test_plain(): pass")
    plugin("--isolate-html=page.html").assert_outcomes(passed=1)
    assert '"plain_tests":1' in (pytester.path / "page.html").read_text()


def test_interrupted_run_has_a_page_of_what_it_has(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import time, pytest
        @pytest.mark.isolate
        def test_first(): pass
        @pytest.mark.isolate
        def test_sleeps(): time.sleep(60)
        """
    )
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    argv = [sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin", "-v", "--isolate-html=page.html"]
    with subprocess.Popen(argv, cwd=pytester.path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"test_first PASSED" in line:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 2
    text = (pytester.path / "page.html").read_text()
    assert '"interrupted":true' in text
    assert "test_it.py::test_first" in text


def test_without_the_extra_the_run_does_not_start_and_says_what_to_type(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, plugin: Pytest
) -> None:
    pytester.makepyfile(test_it="def test(): open('ran', 'w')", no_bokeh="import sys; sys.modules['bokeh'] = None")
    monkeypatch.setenv("PYTHONPATH", f"{pytester.path}:{ROOT}")
    result = plugin("-p", "no_bokeh", "--isolate-html=page.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*command line: --isolate-html: Bokeh isn't installed; to draw the page: python -m pip install 'pytest-isolate-sandbox[[]html]'*"
        ]
    )
    assert not (pytester.path / "ran").exists()
    pytester.makeini("[pytest]\nisolate_html = page.html")
    result = plugin("-p", "no_bokeh", "-p", "xdist", "-n", "1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*tox.ini: isolate_html: Bokeh isn't installed*"])
    assert not (pytester.path / "page.html").exists()
    plugin("-p", "no_bokeh", "--isolate-json=run.json", "-o", "isolate_html=").stderr.fnmatch_lines(
        ["*isolate_html: '' names no file*"]
    )


def test_path_that_cannot_be_written_is_an_error_before_any_test(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("def test(): open('ran', 'w')")
    result = plugin("--isolate-html=/proc/none/page.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--isolate-html: /proc/none/page.html can't be written: No such file*"])
    assert not (pytester.path / "ran").exists()


def test_ini_key_is_relative_to_the_file(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makeini("[pytest]\nisolate_html = reports/page.html")
    (pytester.path / "below").mkdir()
    (pytester.path / "below/test_it.py").write_text("def test(): pass")
    plugin("--rootdir=.", "below")
    assert (pytester.path / "reports/page.html").exists()


def test_listing_tests_writes_nothing(pytester: pytest.Pytester, plugin: Pytest) -> None:
    pytester.makepyfile("def test(): pass")
    plugin("--collect-only", "--isolate-html=page.html")
    assert not (pytester.path / "page.html").exists()


def whole(size: int) -> str:
    """A suite that has everything that a page can show: figures over time, caps, budgets, runs that are repeated, and growth with `size`."""
    return f"""
import time, pytest

def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end: pass

@pytest.mark.isolate(memory="128MiB", budget={{"memory": "100MiB", "wall": "30s"}}, env={{"A": "1"}}, hide=["/usr/share"])
def test_grows():
    held = bytearray(b"x") * ({size} << 20)
    time.sleep(0.15)

@pytest.mark.isolate(budget={{"wall": "50ms", "processes_left": 0}}, net="bridge", bandwidth="10mbit")
def test_takes_longer_than_its_budget(): time.sleep(0.1)

@pytest.mark.isolate(memory="32MiB")
def test_runs_out_of_memory():
    time.sleep(0.05)
    held = bytearray(b"x") * (100 << 20)

@pytest.mark.isolate(cpu="10%", timeout="60s")
def test_is_throttled(): spin(0.03)

def test_plain(): pass
"""


def whole_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """The document and the page of a run of it by two workers, compared with one of a smaller size."""
    common = ["--isolate-repeat=6", "-p", "no:randomly"]
    pytester.makepyfile(test_it=whole(10))
    run(pytester, monkeypatch, *common, "--isolate-save=base", how="xdist")
    pytester.makepyfile(test_it=whole(30))
    done = run(
        pytester, monkeypatch, *common, "--isolate-sample=10ms", "--isolate-compare=base", "--isolate-compare-fail=memory:20%",
        "--isolate-html=page.html", "--isolate-json=run.json", how="xdist", keep=["page.html", "run.json"],
    )  # fmt: skip
    done.result.assert_outcomes(passed=3, failed=2)
    return checked(done.files["run.json"]), done.files["page.html"]


@requires("cgroup-memory", "cgroup-cpu", "bridge")
def test_page_has_samples_budgets_repetitions_and_changes_of_one_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, text = whole_run(pytester, monkeypatch)
    assert text == page(document)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert found is not None
    packed = json.loads(found[1])["document"]
    columns = packed["comparison"]["columns"]
    changes = [dict(zip(columns, row, strict=False)) for row in packed["comparison"]["tests"]]
    tests = {test["nodeid"].partition("::")[2]: (number, test) for number, test in enumerate(packed["tests"])}

    number, grows = tests["test_grows"]
    assert (grows["outcome"], grows["repetitions"]["count"]) == ("passed", 6)
    assert max(row[1] for row in grows["samples"]["rows"]) > 30 << 20
    assert [row[0] for row in grows["budget"]] == ["wall", "memory"]
    exceeded = [(change["nodeid"], change["figure"]) for change in changes if change.get("exceeded")]
    assert exceeded == [(number, "memory")]

    _number, over = tests["test_takes_longer_than_its_budget"]
    assert (over["outcome"], over["budget"][0][3]) == ("failed", "over")
    _number, killed = tests["test_runs_out_of_memory"]
    assert killed["samples"]["rows"][-1][4] == 1
    _number, throttled = tests["test_is_throttled"]
    assert throttled["samples"]["rows"][-1][3] > 0.05
    assert {test["worker"] for _number, test in tests.values()} <= {"gw0", "gw1"}
