import pytest


@pytest.fixture
def leaving():
    pytest.exit("in set-up")


def test_exit(narrow, leaving):
    pass


def test_never():
    pass
