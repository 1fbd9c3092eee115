"""The page of a real run in Chromium: what samples, budgets, caps, repetitions and a baseline become in the details of its tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.test_html import whole_run
from tests.support.capabilities import requires

pytestmark = requires("chromium", "cgroup-memory", "cgroup-cpu", "bridge")


def test_details_of_every_test_of_a_real_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.support.browser import chromium

    document, text = whole_run(pytester, monkeypatch)
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    with chromium() as tab:
        tab.open(path)
        shown: dict[str, str] = {}
        for number, test in enumerate(document["tests"]):
            tab.click(f"#rows [data-index='{number}'] .nodeid")
            tab.until(lambda: tab.all("#over-memory canvas, #over-memory .bk-Figure, #over-memory .canvas > *"))
            shown[test["nodeid"].partition("::")[2]] = tab.find("#details").text
        assert "grown beyond their limit" in tab.find("#comparison .legend").text
        assert tab.console() == []

    grows = shown["test_grows"]
    for part in ("Over time", "Budgets", "Change against the baseline", "last of 6 runs", "A=1", "limit 20%", "exceeded"):
        assert part.lower() in grows.lower(), part
    assert "cap 128 mib" in grows.lower()
    over = shown["test_takes_longer_than_its_budget"]
    assert "BUDGET" in over
    asked = over.partition("Asked for")[2].split("\n")
    assert asked[asked.index("net") + 1] == "bridge"
    assert asked[asked.index("bandwidth") + 1] == "rx 10000000 tx 10000000"
    assert "oom kill" in shown["test_runs_out_of_memory"].lower()
    assert "throttled" in shown["test_is_throttled"]
