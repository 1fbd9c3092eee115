"""`--isolate-plan`: every test's sandbox in words, and nothing runs."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import run

DISTRIBUTED = pytest.mark.parametrize("args", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])

SUITE = """
import pytest
print("COLLECTED")

@pytest.fixture(scope="session", autouse=True)
def wide():
    open("ran", "w").close()

@pytest.mark.isolate(cpu="20%", memory="64MiB", io={"read": "1MB/s"}, env={"TZ": "UTC", "X": None}, timeout="2min", writable=["build"])
def test_capped(): open("ran", "w").close()

def test_plain(): open("ran", "w").close()

@pytest.mark.isolate
def test_bare(): open("ran", "w").close()

@pytest.mark.isolate(pids=9)
def test_same_mounts(): open("ran", "w").close()

@pytest.mark.isolate(writable=["nowhere"])
def test_missing_path(): open("ran", "w").close()
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_suite=SUITE)
    pytester.mkdir("build")
    return pytester


def blocks(done: pytest.RunResult) -> dict[str, list[str]]:
    """The plan's lines by test, without their first indent."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in done.outlines:
        if line.startswith("test_suite.py::"):
            current = found[line.partition("::")[2]] = []
        elif line.startswith("  "):
            current.append(line[2:])
        else:
            current = []
    return found


@DISTRIBUTED
def test_plan_shows_values_with_their_origin_and_mounts_and_runs_nothing(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    done = run(suite, monkeypatch, "--isolate-plan", "--isolate-leak=fail", *args)
    assert done.result.ret == pytest.ExitCode.OK
    assert done.reports == []
    assert not (suite.path / "ran").exists()
    found = blocks(done.result)
    assert list(found) == ["test_capped", "test_plain", "test_bare", "test_same_mounts", "test_missing_path"]
    rows = [line.split("  ", 1) for line in found["test_capped"]]
    values = {row[0]: [part.strip() for part in row[1].split("  ") if part.strip()] for row in rows if len(row) > 1 and row[0]}
    origin = "marker of test_suite.py::test_capped"
    assert found["test_capped"][0] == f"asked for by {origin}"
    assert values["cpu"] == ["0.2 CPU (20 %)", origin]
    assert values["memory"] == ["64.0 MiB", origin]
    assert values["io"] == ["read 976.6 KiB/s, of the device of the working directory", origin]
    assert values["env"] == ["TZ=UTC, X unset", origin]
    assert values["timeout"] == ["2 min 00 s", origin]
    assert values["writable"] == [f"{suite.path}/build", origin]
    assert values["net"] == ["none", "default"]
    assert values["leak"] == ["fail", "--isolate-leak of command line"]
    assert f"  bind {suite.path}/build (read-write)" in found["test_capped"]
    assert any(line.startswith("  overlay /") for line in found["test_capped"])
    assert found["test_plain"] == ["no sandbox"]
    assert "mounts     as test_suite.py::test_bare" in found["test_same_mounts"]
    assert any("remedy: make " in line and "nowhere" in line for line in found["test_missing_path"])
    assert "<Function" not in done.output


def test_plan_draws_no_tree_and_is_selected_like_a_run(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, "--isolate-plan", "--isolate-all", "-k", "plain")
    found = blocks(done.result)
    assert list(found) == ["test_plain"]
    assert found["test_plain"][0] == "asked for by --isolate-all"


def test_plan_of_a_run_without_isolation_says_why(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, "--isolate-plan", "--no-isolate")
    assert set(map(tuple, blocks(done.result).values())) == {("no sandbox (--no-isolate)",)}


def test_plan_with_a_bad_marker_is_a_collection_error(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile(test_bad='import pytest\n@pytest.mark.isolate(cpu="x")\ndef test_bad(): pass\n')
    done = run(suite, monkeypatch, "--isolate-plan")
    assert done.result.ret == pytest.ExitCode.INTERRUPTED
    assert "cpu: 'x' is not a quantity" in done.output
    assert len(blocks(done.result)) == 5


def test_plan_works_without_a_terminal(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(suite, monkeypatch, "--isolate-plan", "-p", "no:terminal").result.ret == pytest.ExitCode.OK


def test_networks_are_spelt_out(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.isolate(net={"internal": True, "aliases": ["db"]}, publish=["8080:80", "53/udp"], bandwidth={"rx": "10mbit", "delay": "20ms"})
        def test_bridge(): pass

        @pytest.mark.isolate(net="container:db")
        def test_container(): pass

        @pytest.mark.isolate(net="host")
        def test_host(): pass
        """
    )
    run(pytester, monkeypatch, "--isolate-plan").result.stdout.fnmatch_lines(
        [
            "*::test_bridge", "*namespaces user, PID, mount, network, UTS, IPC, cgroup",
            "*net        bridge,internal=true,alias=db *", "*publish    127.0.0.1:8080:80/tcp, 127.0.0.1::53/udp *",
            "*bandwidth  rx=10000000,delay=0.02 *", "*bind */resolv.conf (read-only)*",
            "*::test_container", "*namespaces user, PID, mount, UTS, IPC, cgroup; network: that of 'db'",
            "*::test_host", "*namespaces user, PID, mount, UTS, IPC, cgroup; network: the host's",
        ]
    )  # fmt: skip
