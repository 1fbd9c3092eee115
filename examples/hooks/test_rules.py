"""Tests that ask for nothing but a sandbox; `conftest.py` beside them says what that is.

Look for: the caps of 64 and 256 MiB in the table at the end of the output.
"""

import pytest

pytestmark = pytest.mark.isolate


def test_has_the_cap_of_the_hook(isolate_box):
    assert isolate_box.spec.memory == 64 << 20


@pytest.mark.big
def test_may_use_more(isolate_box):
    assert isolate_box.spec.memory == 256 << 20
    assert len(bytearray(100 << 20)) == 100 << 20


@pytest.mark.isolate(memory="32MiB")
def test_keeps_a_cap_of_its_own(isolate_box):
    assert isolate_box.spec.memory == 32 << 20
