"""A wide fixture's kernel objects stay in the pytest process; a test that fails for it is told."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import EVERY_WAY, run

TITLE = "isolate: fixtures set up outside"

SUITE = """
import http.server, pytest, socket, subprocess, threading, urllib.request

@pytest.fixture(scope="session")
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, name="serving")
    thread.start()
    yield server.server_address
    server.shutdown()
    thread.join()
    server.server_close()

@pytest.fixture(scope="module")
def client(server):  # holds nothing itself
    return lambda: urllib.request.urlopen(f"http://127.0.0.1:{server[1]}/", timeout=5).status

@pytest.fixture(scope="class")
def worker():
    child = subprocess.Popen(["sleep", "60"])
    yield child
    child.kill()
    child.wait()

def test_plain(client):
    assert client() == 200

@pytest.mark.isolate(forward="none")
def test_refused(client):
    client()

@pytest.mark.isolate(net="host")
def test_host_network(client):
    assert client() == 200

@pytest.mark.isolate(fixtures="inside")
def test_inside(client):
    assert client() == 200

@pytest.mark.isolate(net="host")
def test_host_network_fails(client):
    assert 0

@pytest.mark.isolate(fixtures="inside")
def test_inside_fails(client):
    assert 0

class TestWorker:
    @pytest.mark.isolate
    def test_child(self, worker):
        import os
        os.kill(worker.pid, 0)

@pytest.mark.isolate
def test_other_failure(tmp_path_factory):
    assert 0

@pytest.mark.isolate
def test_passes(server):
    pass
"""


@EVERY_WAY
def test_failing_test_names_fixture_object_and_remedy(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(SUITE)
    done = run(pytester, monkeypatch, how=how)
    assert {name for name, _ in done.failed()} == {
        "test_refused",
        "test_host_network_fails",
        "test_inside_fails",
        "TestWorker::test_child",
        "test_other_failure",
    }, done.output

    refused = done.of("test_refused", "call").section(TITLE)
    assert "session fixture 'server' was set up in the pytest process" in refused
    assert "  thread 'serving'" in refused
    assert "  TCP socket listening on 127.0.0.1:" in refused
    assert 'fixtures="inside"' in refused
    assert 'net="host"' in refused
    assert "'client'" not in refused

    host = done.of("test_host_network_fails", "call").section(TITLE)
    assert "thread 'serving'" in host
    assert "TCP socket" not in host

    child = done.of("TestWorker::test_child", "call").section(TITLE)
    assert "class fixture 'worker'" in child
    assert "child process sleep 60 (pid " in child
    assert "'server'" not in child  # not used by this test, though it was set up before

    assert done.of("test_inside_fails", "call").section(TITLE) == ""
    assert done.of("test_other_failure", "call").section(TITLE) == ""
    assert all(not report.section(TITLE) for report in done if report.outcome != "failed")


def test_fixture_torn_down_is_forgotten_and_one_set_up_again_is_told_anew(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import pytest, socket

        @pytest.fixture(scope="module", params=["one", "two"])
        def port(request):
            if request.param == "two":
                yield 0
                return
            with socket.create_server(("127.0.0.1", 0)) as server:
                yield server.getsockname()[1]

        @pytest.mark.isolate(forward="none")
        def test_it(port):
            assert 0
        """
    )
    done = run(pytester, monkeypatch)
    assert "TCP socket listening" in done.of("test_it[one]", "call").section(TITLE)
    assert done.of("test_it[two]", "call").section(TITLE) == ""


def test_fixture_asked_for_inside_by_name_is_named_if_it_was_set_up_before(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import pytest, socket

        @pytest.fixture(scope="session")
        def server():
            with socket.create_server(("127.0.0.1", 0)) as server:
                yield server

        def test_plain(server):
            pass

        @pytest.mark.isolate
        def test_it(request):
            address = request.getfixturevalue("server").getsockname()
            socket.create_connection(address)  # not known before the fork, so not forwarded
        """
    )
    assert "fixture 'server'" in run(pytester, monkeypatch).of("test_it", "call").section(TITLE)


def test_object_of_a_dynamically_requested_fixture_is_counted_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import pytest, socket

        @pytest.fixture(scope="session")
        def inner():
            with socket.create_server(("127.0.0.1", 0)) as server:
                yield server

        @pytest.fixture(scope="session")
        def outer(request):
            return request.getfixturevalue("inner")

        @pytest.mark.isolate(forward="none")
        def test_it(outer, inner):
            assert 0
        """
    )
    text = run(pytester, monkeypatch).of("test_it", "call").section(TITLE)
    assert "fixture 'inner'" in text
    assert "fixture 'outer'" not in text
