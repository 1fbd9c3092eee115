"""What the sandbox's network refused is said where a test fails."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import EVERY_WAY, run

TITLE = "isolate: network refused"


@EVERY_WAY
def test_refused_addresses_stand_in_the_failing_report(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(
        """
        import contextlib, os, pytest, socket, subprocess, sys

        ADDRESS = ("192.0.2.1", 80)

        def connect():
            socket.create_connection(ADDRESS, timeout=2).close()

        @pytest.fixture
        def connecting():
            connect()

        @pytest.fixture
        def late():
            yield
            with contextlib.suppress(OSError):
                connect()
            assert 0

        @pytest.mark.isolate
        def test_call():
            socket.getaddrinfo("name.invalid", 443)

        @pytest.mark.isolate
        def test_setup(connecting):
            pass

        @pytest.mark.isolate
        def test_teardown(late):
            pass

        @pytest.mark.isolate
        def test_crash():
            with contextlib.suppress(OSError):
                connect()
            os.abort()

        @pytest.mark.isolate
        def test_subprocess():
            code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=2)"
            subprocess.run([sys.executable, "-c", code], check=True)

        @pytest.mark.isolate
        def test_swallowed():
            with contextlib.suppress(OSError):
                connect()

        @pytest.mark.isolate
        def test_loopback():
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname()).close()
            assert 0

        @pytest.mark.isolate(net="host")
        def test_host():
            socket.getaddrinfo("localhost", 80)
            assert 0
        """
    )
    done = run(pytester, monkeypatch, how=how)
    assert "  name name.invalid port 443" in done.of("test_call", "call").section(TITLE)
    for name, phase in (("test_setup", "setup"), ("test_teardown", "teardown"), ("test_crash", "call")):
        text = done.of(name, phase).section(TITLE)
        assert "  tcp 192.0.2.1:80" in text, done.output
        assert 'remedy: net="host"' in text
    assert "another program inside tried to reach an address" in done.of("test_subprocess", "call").section(TITLE)
    for name in ("test_swallowed", "test_loopback", "test_host"):
        assert done.of(name, "call").section(TITLE) == "", name
    done.result.assert_outcomes(passed=2, failed=5, errors=2)


def test_socket_of_the_host_is_said_to_have_its_listener_outside(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import os, pytest, socket, tempfile

        @pytest.fixture(scope="session")
        def path():
            with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, socket.socket(socket.AF_UNIX) as server:
                server.bind(f"{directory}/host.sock")
                server.listen()
                yield f"{directory}/host.sock"

        @pytest.fixture(scope="session")
        def shared(tmp_path_factory):
            directory = tmp_path_factory.mktemp("s")  # as a path it is too long for an address
            with pytest.MonkeyPatch.context() as patch, socket.socket(socket.AF_UNIX) as server:
                patch.chdir(directory)
                server.bind("ours")
                server.listen()
                patch.undo()
                yield directory

        @pytest.mark.isolate
        def test_it(path):
            socket.socket(socket.AF_UNIX).connect(path)

        @pytest.mark.isolate
        def test_own(tmp_path, shared):
            os.chdir(tmp_path)
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("own")
                server.listen()
                socket.socket(socket.AF_UNIX).connect("own")
            os.chdir(shared)
            socket.socket(socket.AF_UNIX).connect("ours")
            assert 0
        """
    )
    done = run(pytester, monkeypatch)
    report = done.of("test_it", "call")
    assert "ConnectionRefusedError" in report.text
    assert "host.sock (its listener is outside)" in report.section(TITLE)
    assert "writable=" in report.section(TITLE)
    own = done.of("test_own", "call")
    assert "assert 0" in own.longrepr
    assert own.section(TITLE) == ""
