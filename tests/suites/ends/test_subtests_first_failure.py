import pytest

pytest.importorskip("_pytest.subtests")


def test_many(subtests, narrow):
    for number in range(3):
        with subtests.test(number=number):
            assert number > 5


def test_never():
    pass
