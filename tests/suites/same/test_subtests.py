import pytest

pytest.importorskip("_pytest.subtests")


def test_mixed(subtests):
    for number in range(4):
        with subtests.test("message", number=number):
            print("sub", number)
            if number == 1:
                assert number == 0
            if number == 2:
                pytest.skip("sub skip")
            if number == 3:
                pytest.xfail("sub xfail")


def test_all_pass(subtests):
    with subtests.test("one"):
        pass


def test_fails_itself_too(subtests):
    with subtests.test("one"):
        assert 0
    assert 1 == 2


def test_next():
    pass
