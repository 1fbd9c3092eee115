import pytest


@pytest.fixture
def failing(request):
    yield
    request.session.shouldfail = "too much"


def test_stops(narrow, failing):
    pass


def test_never():
    pass
