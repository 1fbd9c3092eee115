import unittest

import pytest
from conftest import log

isolated = pytest.mark.isolate


def setup_module():
    log("setup_module")


def teardown_module():
    log("teardown_module")


def setup_function():
    log("setup_function")


def teardown_function():
    log("teardown_function")


@isolated
def test_isolated():
    pass


def test_plain():
    pass


class TestXunit:
    @classmethod
    def setup_class(cls):
        log("setup_class")
        cls.value = 5

    @classmethod
    def teardown_class(cls):
        log("teardown_class")

    def setup_method(self):
        log("setup_method")

    def teardown_method(self):
        log("teardown_method")

    @isolated
    def test_1(self):
        assert self.value == 5

    def test_2(self):
        assert self.value == 5

    @isolated
    def test_3(self):
        assert 0


class TestUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        log("setUpClass")
        cls.addClassCleanup(log, "class cleanup")

    @classmethod
    def tearDownClass(cls):
        log("tearDownClass")

    def setUp(self):
        log("setUp")
        self.addCleanup(log, "cleanup")

    def tearDown(self):
        log("tearDown")

    @isolated
    def test_1(self):
        pass

    def test_2(self):
        pass

    @isolated
    def test_3(self):
        self.fail()


@isolated
class TestIsolatedUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        log("setUpClass")

    def test_1(self):
        pass

    def test_2(self):
        pass
