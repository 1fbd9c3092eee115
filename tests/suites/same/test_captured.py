import logging
import os
import subprocess
import sys

import pytest

log = logging.getLogger("test")


def test_all_phases(narrow):
    print("call out")
    print("call err", file=sys.stderr)
    os.write(1, b"raw out\n")
    subprocess.run(["echo", "from a child"], check=True)
    log.warning("call log")
    assert 0


def test_passes(narrow):
    print("quiet")


def test_capsys(capsys):
    print("seen")
    assert capsys.readouterr().out == "seen\n"
    print("left")
    assert 0


def test_capfd(capfd, narrow):
    os.write(1, b"raw")
    assert capfd.readouterr().out.endswith("raw")


def test_capsys_disabled(capsys):
    with capsys.disabled():
        print("straight through")
    assert 0


def test_capfdbinary(capfdbinary):
    os.write(1, b"\xff\xfe")
    assert capfdbinary.readouterr().out == b"\xff\xfe"


def test_bytes_that_are_no_text():
    os.write(1, b"\xff\xfe\n")
    sys.stdout.flush()
    assert 0


def test_caplog(caplog, narrow):
    with caplog.at_level(logging.DEBUG):
        log.debug("deep")
    assert [record.message for record in caplog.get_records("setup")][-1] == "narrow log"
    assert caplog.messages == ["deep"]
    assert 0


def test_big():
    print("x" * 300_000)
    assert 0


def test_stdin():
    with pytest.raises(OSError, match="reading from stdin"):
        input()
