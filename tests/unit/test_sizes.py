"""What a walk of a writable layer counts, and when it gives up."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_isolate.sandbox.sizes import MOST, size_of


def test_more_entries_than_are_looked_at_are_not_known_and_never_zero(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"0/d{number}").mkdir(parents=True)
        (tmp_path / f"0/d{number}/file").write_bytes(b"x" * 100)
    os.link(tmp_path / "0/d0/file", tmp_path / "0/d1/same")
    one = os.stat(tmp_path / "0/d0/file").st_blocks * 512
    upper = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        assert size_of(upper, ["0", "gone"], 9) == 4 * one
        assert size_of(upper, ["0"], 8) is None
    finally:
        os.close(upper)
    assert MOST == 100_000
