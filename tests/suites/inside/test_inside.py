import os

import pytest

SET_UP = []


@pytest.fixture(scope="session")
def s_value():
    SET_UP.append(1)
    yield len(SET_UP), os.readlink("/proc/self/ns/pid")


@pytest.fixture(scope="module", autouse=True)
def m_value(s_value):
    yield


def test_plain(s_value):
    assert s_value == (1, os.readlink("/proc/self/ns/pid"))


@pytest.mark.isolate
def test_shared(s_value):
    assert s_value[0] == 1
    assert s_value[1] != os.readlink("/proc/self/ns/pid")


@pytest.mark.isolate(fixtures="inside")
def test_inside(s_value):
    assert s_value == (2, os.readlink("/proc/self/ns/pid"))


@pytest.mark.isolate(fixtures="inside")
def test_inside_again(s_value):
    assert s_value == (2, os.readlink("/proc/self/ns/pid"))


def test_plain_again(s_value):
    assert s_value == (1, os.readlink("/proc/self/ns/pid"))
