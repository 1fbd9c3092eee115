"""DESIGN names two differences. First: what is wide and first asked for inside lives inside, for one test."""

import pytest

pytestmark = pytest.mark.isolate


def test_1(request):
    request.getfixturevalue("s_late")


def test_2(request):
    request.getfixturevalue("s_late")
