import pytest


def test_before():
    pass


def test_exit(narrow):
    pytest.exit("enough", returncode=7)


def test_never():
    pass
