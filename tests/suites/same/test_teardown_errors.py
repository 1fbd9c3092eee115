import pytest


@pytest.fixture(scope="module")
def bad_module():
    yield
    print("module teardown out")
    raise RuntimeError("module teardown")


@pytest.fixture(scope="class")
def bad_class():
    yield
    raise RuntimeError("class teardown")


class TestClass:
    def test_1(self, bad_class):
        pass

    def test_2(self, bad_class, bad_module):
        print("call out")


def test_function(bad_class):
    assert 0


@pytest.fixture(scope="module")
def skip_late():
    yield
    pytest.skip("late")


def test_last(skip_late, bad_module):
    pass
