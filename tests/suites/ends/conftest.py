import pytest


@pytest.fixture(scope="module")
def wide():
    print("wide up")
    yield
    print("wide down")


@pytest.fixture
def narrow(wide):
    yield
    with open("torn_down", "a") as file:
        file.write("narrow\n")
