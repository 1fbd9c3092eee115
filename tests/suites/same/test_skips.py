import unittest

import pytest


@pytest.mark.skip(reason="by mark")
def test_mark():
    pass


@pytest.mark.skipif(True, reason="by condition")
def test_condition():
    pass


def test_in_call():
    pytest.skip("in call")


@pytest.fixture
def skipping():
    pytest.skip("in set-up")


@pytest.fixture
def skipping_late():
    yield
    pytest.skip("in teardown")


@pytest.fixture(scope="module")
def skipping_module():
    pytest.skip("in module set-up")


def test_in_setup(skipping):
    pass


def test_in_teardown(skipping_late):
    pass


def test_in_module_setup(skipping_module):
    pass


def test_unittest_skip():
    raise unittest.SkipTest("unittest's")


def test_importorskip():
    pytest.importorskip("no_such_module_at_all")


@pytest.mark.parametrize("a", [1, pytest.param(2, marks=pytest.mark.skip(reason="param"))])
def test_param(a):
    pass
