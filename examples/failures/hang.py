"""Look for: `timeout of 1.00 s in call` and the line where it hung."""

import threading

import pytest


@pytest.mark.isolate(timeout="1s")
def test_waits_for_nobody():
    threading.Event().wait()


def test_next():
    pass
