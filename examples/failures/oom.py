"""Look for: `OOM: used 64.0 of 64 MiB, killed …` and a normal second test."""

import pytest


@pytest.mark.isolate(memory="64MiB")
def test_eats_too_much():
    bytearray(512 << 20)


def test_next():
    pass
