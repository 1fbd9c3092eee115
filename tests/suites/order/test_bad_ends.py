import pytest

pytestmark = pytest.mark.isolate


def test_1(m_bad_end, s_plain):
    pass


class TestClass:
    def test_1(self, c_bad_end):
        pass

    def test_2(self, c_bad_end, f_bad_end):
        pass


def test_without_class(c_bad_end, f_bad_end):
    pass


def test_last(m_bad_end, f_bad_end):
    pass
