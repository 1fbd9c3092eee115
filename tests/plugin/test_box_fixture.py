"""`isolate_box`: a test's view of its sandbox."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import run

SUITE = """
import threading
import pytest

@pytest.fixture
def early(isolate_box):
    return isolate_box

@pytest.mark.isolate(pids=64, timeout="60s")
def test_isolated(early, isolate_box):
    assert early is isolate_box
    assert isolate_box.spec.pids == 64
    before = isolate_box.usage()
    sum(range(10**6))
    later = isolate_box.usage()
    assert later.cpu_seconds > before.cpu_seconds > 0
    assert later.memory_peak_bytes is None or later.memory_peak_bytes > 0

@pytest.mark.isolate
def test_from_threads(isolate_box):
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(isolate_box.usage())) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(seen) == 8

@pytest.mark.isolate
def test_in_teardown(isolate_box, request):
    request.addfinalizer(lambda: isolate_box.usage())

def test_plain(isolate_box):
    assert isolate_box is None
"""


def test_box_tells_spec_and_usage_and_is_none_in_a_plain_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(SUITE)
    run(pytester, monkeypatch).result.assert_outcomes(passed=4)


def test_box_is_none_where_isolation_is_off(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.isolate\ndef test_it(isolate_box): assert isolate_box is None")
    run(pytester, monkeypatch, "--no-isolate").result.assert_outcomes(passed=1)
