import os

import pytest
from conftest import alive, isolated


def test_plain(s_box, c_box, isolate_factory):
    assert alive(s_box)
    assert alive(c_box)
    assert alive(isolate_factory("own"))


@isolated
def test_isolated(s_box, c_box, isolate_factory):
    assert alive(s_box)
    assert alive(c_box)
    assert alive(isolate_factory("own"))


@isolated
def test_param(m_box, request):
    assert m_box.run(["printenv", "PARAM"]).stdout.decode().strip() in request.node.name


def test_param_plain(m_box, request):
    assert m_box.run(["printenv", "PARAM"]).stdout.decode().strip() in request.node.name


@isolated
def test_function(f_box, f_inside, f_requested, tmp_path, request):
    assert f_box.run(["printenv", "PARAM"]).stdout.decode().strip() in request.node.name
    assert f_requested == tmp_path
    assert os.environ["F_REQUESTED"] == "set"
    (tmp_path / "file").write_text("written inside")


def test_function_plain(f_box, f_inside):
    assert alive(f_box)


@isolated
def test_dynamic(f_dynamic):
    assert alive(f_dynamic)


def test_dynamic_plain(f_dynamic):
    assert alive(f_dynamic)


@isolated
def test_bad(f_two, f_bad):
    pass


@isolated
def test_bad_end(f_two, f_bad_end):
    assert all(map(alive, f_two))


@isolated
def test_failing(f_two):
    assert 0


@isolated
@pytest.mark.skip
def test_skipped(f_two):
    pass


@isolated
@pytest.mark.xfail
def test_xfail(f_two):
    assert 0


@pytest.fixture
def f_over(f_over, f_inside):
    yield [*f_over, "more"]


@isolated
def test_overridden(f_over):
    assert alive(f_over[0])
    assert f_over[1] == "more"


class TestClass:
    @isolated
    def test_1(self, c_box):
        assert alive(c_box)

    def test_2(self, c_box, p_box):
        assert alive(c_box)
        assert alive(p_box)

    @isolated
    def test_3(self, c_box, p_box):
        assert alive(p_box)
