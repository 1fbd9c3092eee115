import pytest

isolated = pytest.mark.isolate


def test_plain(s_plain, f_plain):
    pass


@isolated
def test_isolated(s_plain, f_plain, p_plain):
    pass


@isolated
def test_param(m_param, f_plain):
    pass


def test_param_plain(m_param):
    pass


@isolated
def test_session_param(s_needs_param, f_plain):
    pass


def test_session_param_plain(s_needs_param):
    pass


@isolated
def test_everything(f_needs_all):
    pass


@isolated
def test_class_fixture_without_class(c_plain, f_plain):
    pass


def test_class_fixture_without_class_plain(c_plain, f_plain):
    pass


@isolated
def test_class_param_without_class(c_param):
    pass


@isolated
def test_first_bad_session(s_bad):
    pass


def test_second_bad_session(s_bad):
    pass


@isolated
def test_third_bad_session(s_bad):
    pass


@isolated
@pytest.mark.skip
def test_skipped(s_late):
    pass


@isolated
@pytest.mark.xfail(run=False)
def test_not_run(s_late):
    pass


@isolated
def test_finalizers(f_finalizers, m_finalizers):
    pass


@isolated
@pytest.mark.usefixtures("c_plain")
class TestClass:
    def test_1(self, f_plain):
        pass

    def test_2(self, f_plain, c_param):
        pass

    def test_3(self, f_bad):
        pass

    def test_4(self, f_bad_end):
        pass


class TestMixed:
    @isolated
    def test_1(self, c_plain):
        pass

    def test_2(self, c_plain):
        pass

    @isolated
    def test_3(self, c_plain, s_late):
        pass
