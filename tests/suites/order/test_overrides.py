"""Overrides that pytest and the plugin set up in the same order: nothing else is narrower and comes first."""

import pytest

isolated = pytest.mark.isolate


@pytest.fixture(scope="module")
def over(over):
    yield over + " module"


@isolated
def test_wide_override(over):
    assert over == "session module"


class TestClass:
    @pytest.fixture(scope="class")
    def over(self, over):
        yield over + " class"

    @isolated
    def test_1(self, over):
        assert over == "session module class"

    def test_2(self, over):
        assert over == "session module class"


class TestNotRequested:
    @pytest.fixture
    def over(self):
        return "own"

    @isolated
    def test_1(self, over):
        assert over == "own"


@isolated
@pytest.mark.parametrize("over", ["direct"])
def test_direct(over):
    assert over == "direct"


@isolated
@pytest.mark.parametrize("number", [1, 2], scope="module")
def test_module_param(number, f_plain):
    pass


@isolated
@pytest.mark.parametrize("m_param", [7, 8], indirect=True)
def test_indirect(m_param):
    assert m_param in (7, 8)
