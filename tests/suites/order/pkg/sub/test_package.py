import pytest

isolated = pytest.mark.isolate


@isolated
def test_1(p_plain):
    pass


def test_2(p_plain):
    pass


@isolated
def test_3(p_plain, m_param):
    pass
