"""Bridge networks in tests: the marker, the box's view, what a report says, one run after the other."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import EVERY_WAY, run

SUITE = """
import socket
import pytest

INTERNAL = {"internal": True}

@pytest.mark.isolate(net=INTERNAL, publish=["8080"])
@pytest.mark.parametrize("n", range(3))
def test_on_a_bridge(isolate_box, n):
    assert isolate_box.ip == isolate_box.address.ip != isolate_box.address.gateway
    assert [name for _, name in socket.if_nameindex()] == ["lo", "eth0"]
    assert isolate_box.port(8080) > 0
    with pytest.raises(LookupError, match=r'port 80/tcp isn.t published; published: 8080/tcp. Ask for publish=\\["80"\\]'):
        isolate_box.port(80)

@pytest.mark.isolate(net={"internal": True, "aliases": ["me"]}, hostname="box")
def test_names(isolate_box):
    assert socket.gethostbyname("me") == isolate_box.ip
    assert socket.gethostbyname("ME.") == isolate_box.ip

@pytest.mark.isolate(net=INTERNAL)
def test_lookup_of_a_stranger_fails_at_once():
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("example.invalid", 80)

@pytest.mark.isolate(net={"internal": True, "network": "fixed", "mac": "02:00:00:00:00:01"})
@pytest.mark.parametrize("n", range(3))
def test_same_hardware_address(isolate_box, n):  # the next sandbox is made while this one is in use
    with open("/sys/class/net/eth0/address") as file:
        assert file.read().strip() == "02:00:00:00:00:01"

@pytest.mark.isolate
def test_none(isolate_box):
    assert isolate_box.address is None
    assert isolate_box.ip is None

def test_plain():
    pass
"""


@EVERY_WAY
def test_marker_and_box(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pytester.makepyfile(SUITE)
    done = run(pytester, monkeypatch, how=how)
    done.result.assert_outcomes(passed=10)
    figures = [report.properties for report in done.reports if report.name.startswith("test_on_a") and report.when == "teardown"]
    assert all(found["isolate.net_tx_packets"] >= 0 for found in figures)
    assert len(figures) == 3
    assert not any("net_rx_bytes" in name for report in done.reports if "none" in report.name for name in report.properties)


def test_failing_test_tells_whom_it_turned_to(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import socket, subprocess, sys
        import pytest

        @pytest.mark.isolate(net={"internal": True})
        def test_it(isolate_box):
            gateway = isolate_box.address.gateway
            code = "import socket, sys; socket.create_connection((sys.argv[1], 81))"
            subprocess.run([sys.executable, "-c", code, gateway], stderr=subprocess.DEVNULL)
            assert False, gateway
        """
    )
    done = run(pytester, monkeypatch)
    done.result.assert_outcomes(failed=1)
    report = next(report for report in done.reports if report.when == "call")
    last = next(report for report in done.reports if report.when == "teardown")
    ((_, gateway, _),) = last.isolate["contacts"]["refused"]
    assert gateway in report.longrepr
    assert last.isolate["contacts"] == {
        "reached": [],
        "refused": [["tcp", gateway, 81]],
        "unanswered": [],
        "more": 0,
        "incomplete": False,
    }
    assert ("isolate: network", f"refused    tcp {gateway}:81") in [*report.sections, *last.sections]


def test_bad_networks_are_told_at_collection(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.isolate(net="bridged")
        def test_mode(): pass

        @pytest.mark.isolate(net="none", publish=["80"])
        def test_port(): pass

        @pytest.mark.isolate(net={"subnet": "10.5.0.0/24", "ip": "10.6.0.1"})
        def test_address(): pass

        @pytest.mark.isolate(publish=["80:x"], net="bridge")
        def test_malformed(): pass
        """
    )
    result = run(pytester, monkeypatch).result
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*test_mode*net: 'bridged' is no network mode*",
            '*test_port*publish=127.0.0.1::80/tcp reaches a sandbox on a bridge, and net is "none"*',
            "*test_address*ip 10.6.0.1 is no host address of the subnet 10.5.0.0/24*",
            "*test_malformed*'x' is not a port*",
        ]
    )


def test_container_that_does_not_exist_fails_that_test_alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.isolate(net="container:db")
        def test_joins(): pass

        @pytest.mark.isolate
        def test_next(): pass
        """
    )
    result = run(pytester, monkeypatch).result
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*container:db*: no sandbox of the run has that name; there: none*"])


def test_a_test_that_ruins_its_interface_ruins_nothing_else(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import ctypes, os, socket, subprocess
        import pytest

        @pytest.mark.isolate(net={"internal": True}, user="root")
        @pytest.mark.parametrize("n", range(3))
        def test_ruins(n):
            # No CAP_NET_ADMIN in the sandbox's own user namespace; in one of the test's own it has none over eth0 either.
            done = subprocess.run(["ip", "link", "set", "eth0", "down"], capture_output=True, text=True)
            assert done.returncode != 0
            assert "eth0" in dict(map(reversed, socket.if_nameindex()))

        @pytest.mark.isolate(net={"internal": True})
        def test_next(isolate_box):
            with socket.socket() as s:
                with pytest.raises(ConnectionRefusedError):
                    s.connect((isolate_box.address.gateway, 9))
        """
    )
    run(pytester, monkeypatch).result.assert_outcomes(passed=4)
