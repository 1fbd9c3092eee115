"""A busy loop under `cpu="20%"`.

Look for: both tests spin for one second of wall time. The capped one got about 0.2 seconds of CPU; the table at the end of the
output shows it, and how long it was throttled.
"""

import time

import pytest


def spin(seconds: float) -> float:
    """CPU seconds that a loop got within `seconds` of wall time."""
    start, end = time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return time.process_time() - start


@pytest.mark.isolate(cpu="20%")
def test_a_fifth_of_a_cpu():
    # One period of 100 ms is 20 ms of CPU; the last one may be spent to the full.
    assert 0.1 < spin(1.0) < 0.3


@pytest.mark.isolate
def test_without_a_cap_it_gets_more():
    assert spin(1.0) > 0.3
