"""Second: what is wide and hidden behind a narrower override is set up before all that is narrow."""

import pytest

pytestmark = pytest.mark.isolate


@pytest.fixture
def f_between(s_late):
    yield s_late


@pytest.fixture
def s_late(f_auto, s_late):
    yield


@pytest.fixture(scope="module")
def over(over, m_auto):
    yield over + " module"


@pytest.fixture
def f_first():
    yield


class TestTwoDeep:
    @pytest.fixture
    def over(self, f_first, over):
        yield over + " function"

    def test_1(self, over):
        assert over == "session module function"

    def test_2(self, over):
        assert over == "session module function"


def test_1(f_first, s_late):
    pass


def test_2(f_first, f_between):
    pass
