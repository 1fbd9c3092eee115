import pytest


class TestLife:
    @classmethod
    def setup_class(cls):
        print("setup_class")
        cls.value = 1

    @classmethod
    def teardown_class(cls):
        print("teardown_class")

    def setup_method(self, method):
        print("setup_method", method.__name__)
        self.own = 2

    def teardown_method(self, method):
        print("teardown_method")

    def test_passes(self):
        assert (self.value, self.own) == (1, 2)

    def test_fails(self, narrow):
        assert self.value == 2


def setup_module(module):
    print("setup_module")


def teardown_module(module):
    print("teardown_module")


def setup_function(function):
    print("setup_function")


def teardown_function(function):
    print("teardown_function")


def test_function():
    assert 0


@pytest.fixture(scope="class")
def class_value(request):
    print("class value for", request.node.name)
    yield 1
    print("class value down")


def test_class_fixture_without_class(class_value):
    assert 0


class TestUsesClassFixture:
    def test_1(self, class_value):
        assert 0

    def test_2(self, class_value):
        assert 0
