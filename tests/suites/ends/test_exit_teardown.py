import pytest


@pytest.fixture
def leaving():
    yield
    pytest.exit("in teardown", returncode=9)


def test_exit(narrow, leaving):
    pass


def test_never():
    pass
