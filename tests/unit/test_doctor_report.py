"""The doctor's report: as JSON and back, as lines, and kept in the cache."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_isolate.machine.facts import Machine
from pytest_isolate.model.keys import KEYS
from pytest_isolate.probe import cache
from pytest_isolate.probe.capability import Capability, KeyState, Place, Report
from pytest_isolate.probe.keys import NEEDS, key_states
from pytest_isolate.report.doctor import painted, render_doctor
from pytest_isolate.report.lines import Style, plain
from pytest_isolate.report.width import width_of
from tests.support.capabilities import requires

REMEDY = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 # a line that is longer than any of the terminals below"
CAPABILITIES = (
    Capability("userns", "works"),
    Capability(
        "overlay", "weaker", "größer → nicht: only the user's directories can be written inside, as it happens", "mend it", "x"
    ),
    Capability("subordinate-ids", "works"),
    Capability("cgroup-cpu", "missing", "no", REMEDY, "cgroup"),
    Capability("cgroup-memory", "missing", "no either", REMEDY, "cgroup"),
    Capability("cgroup-pids", "works"),
    Capability("cgroup-io", "works"),
    Capability("cgroup-swap", "missing", "it takes cgroup-memory", cause="cgroup"),
    Capability("loop-device", "works"),
    Capability("bridge", "works"),
    Capability("uplink", "works"),
    Capability("tbf", "works"),
    Capability("netem", "works"),
    Capability("sandbox", "works"),
)
REPORT = Report("1.0", Machine().to_json(), (Place("WSL 2", "some advice"),), CAPABILITIES, key_states(CAPABILITIES))
REFUSED = replace(REPORT, capabilities=(*CAPABILITIES[:-1], Capability("sandbox", "missing", "userns: no", REMEDY, "userns")))


def test_json_gives_the_same_report() -> None:
    data = json.loads(json.dumps(REPORT.to_json()))
    assert (data["schema"], data["ready"]) == (1, True)
    assert json.loads(json.dumps(Report.from_json(data).to_json())) == data
    assert REFUSED.to_json()["ready"] is False


@pytest.mark.parametrize(
    "change", [{"schema": 2}, {"capabilities": [{"name": "x"}]}, {"keys": [{"name": "x", "state": "maybe"}]}]
)
def test_json_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Report.from_json({**json.loads(json.dumps(REPORT.to_json())), **change})


def test_every_key_has_a_state_and_every_need_is_a_key() -> None:
    states = {key.name: key for key in REPORT.keys}
    assert list(states) == list(KEYS)
    assert set(NEEDS) <= set(KEYS)
    assert states["cpu"] == KeyState("cpu", "missing", "see cgroup-cpu")
    assert states["rootfs"] == KeyState("rootfs", "weaker", "see overlay")
    assert states["pids"] == KeyState("pids", "works")
    without = key_states((*CAPABILITIES[:-1], Capability("sandbox", "missing", "no")))
    assert {key.state for key in without} == {"missing"}


@pytest.mark.parametrize("width", [160, 80, 40])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_lines_fit_and_remedies_stay_whole(width: int, encoding: str) -> None:
    lines = [plain(line) for line in render_doctor(REFUSED, Style(width, encoding))]
    "\n".join(lines).encode(encoding)
    remedies = [line for line in lines if "remedy: " in line]
    assert [line.strip() for line in remedies] == [
        "remedy: mend it",
        f"remedy: {REMEDY}",
        "remedy: as for cgroup-cpu",
        "remedy: as for cgroup-cpu",
        f"remedy: {REMEDY}",
    ]
    assert [line for line in lines if line not in remedies and width_of(line) > width] == []
    assert not any(line != line.rstrip() for line in lines)


def test_each_capability_has_a_line_and_the_columns_are_aligned() -> None:
    lines = [plain(line) for line in render_doctor(REPORT, Style(100))]
    for capability in CAPABILITIES:
        line = next(line for line in lines if line[9:].split("  ")[0] == capability.name)
        assert line.startswith(capability.state)
    assert "cpu        no      see cgroup-cpu" in lines
    assert "rootfs     weaker  see overlay" in lines
    assert "pids       yes" in lines
    assert lines[-1] == "a bare @pytest.mark.isolate works"
    assert plain(render_doctor(REFUSED, Style(100))[-2]).startswith("no test can be isolated")


def test_colour_is_only_where_it_is_wanted() -> None:
    line = render_doctor(REPORT, Style(100))[-1]
    assert painted(line, colour=True) == "\033[1;32ma bare @pytest.mark.isolate works\033[0m"
    assert painted(line, colour=False) == "a bare @pytest.mark.isolate works"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.store(REFUSED, cache.key_of())
    return tmp_path / "pytest-isolate" / "doctor.json"


def test_cache_gives_what_was_kept(kept: Path) -> None:
    assert kept.stat().st_mode & 0o777 == 0o600
    assert cache.load() == replace(REFUSED, machine=json.loads(json.dumps(REFUSED.machine)))
    assert cache.known_refusal() is not None
    assert [path.name for path in kept.parent.iterdir()] == ["doctor.json"]
    cache.store(REPORT, cache.key_of())
    assert cache.load() is not None
    assert cache.known_refusal() is None


@pytest.mark.parametrize(
    "name,value",
    [("boot", "another"), ("version", "0"), ("uid", 12345), ("cgroup", "0::/x"), ("namespaces", []), ("machine", {})],
)
def test_cache_of_another_machine_or_boot_or_user_does_not_count(kept: Path, name: str, value: object) -> None:
    data = json.loads(kept.read_text())
    data["key"][name] = value
    kept.write_text(json.dumps(data))
    assert cache.load() is None
    assert cache.known_refusal() is None


def test_cache_is_for_one_delegated_cgroup(kept: Path) -> None:
    assert cache.load("ci/isolate") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"key": 1}', '{"report": {"ready": false}, "key": {}}', '{"report": 7}'])
def test_broken_cache_is_no_cache(kept: Path, text: str) -> None:
    kept.write_text(text)
    assert cache.load() is None
    assert cache.known_refusal() is None


def test_cache_that_others_may_write_is_not_read(kept: Path) -> None:
    kept.chmod(0o622)
    assert cache.load() is None


@requires("root")
def test_cache_of_somebody_else_is_not_read(kept: Path) -> None:
    os.chown(kept, 12345, 12345)
    assert cache.load() is None


def test_cache_behind_a_link_is_not_read(kept: Path) -> None:
    kept.rename(kept.with_name("elsewhere"))
    kept.symlink_to("elsewhere")
    assert cache.load() is None


def test_no_cache_where_none_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.store(REPORT, cache.key_of())
    assert cache.load() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_path() == str(tmp_path / ".cache/pytest-isolate/doctor.json")
