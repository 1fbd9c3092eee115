"""Look for: `signal SIGSEGV in call`, the line that crashed, and a normal second test."""

import ctypes

import pytest


@pytest.mark.isolate
def test_reads_address_zero():
    ctypes.string_at(0)


def test_next():
    pass
