"""Each set-up and tear-down writes one line, through a file opened before any fork, with the PID namespace it ran in."""

import os

import pytest

LOG = open(os.environ["ORDER_LOG"], "a", buffering=1)


def log(what):
    LOG.write(f"{what} {os.readlink('/proc/self/ns/pid')}\n")


@pytest.fixture(scope="session", autouse=True)
def log_to():
    return log


def pytest_fixture_setup(fixturedef, request):
    if fixturedef.argname.startswith(("s_", "p_", "m_", "c_", "f_")):
        log(f"setup {fixturedef.argname} {getattr(request, 'param', '')} {request.node.nodeid}")


def pytest_fixture_post_finalizer(fixturedef, request):
    # pytest 8 calls this again for fixtures that have been torn down.
    if fixturedef.argname.startswith(("s_", "p_", "m_", "c_", "f_")) and fixturedef.cached_result is not None:
        log(f"down {fixturedef.argname} {request.node.nodeid}")


def pytest_runtest_logreport(report):
    log(f"report {report.when} {report.outcome} {report.nodeid}")


@pytest.fixture(scope="session")
def s_plain():
    yield {"value": 1}


@pytest.fixture(scope="session", params=["one", "two"])
def s_param(request):
    yield request.param


@pytest.fixture(scope="session")
def s_needs_param(s_param):
    yield s_param


@pytest.fixture(scope="session")
def s_bad():
    raise RuntimeError("session set-up")


@pytest.fixture(scope="package")
def p_plain(s_plain):
    yield


@pytest.fixture(scope="module", autouse=True)
def m_auto():
    yield


@pytest.fixture(scope="module", params=[1, 2])
def m_param(request, s_plain):
    yield request.param


@pytest.fixture(scope="module")
def m_bad_end():
    yield
    raise RuntimeError("module teardown")


@pytest.fixture(scope="class")
def c_plain(m_auto):
    yield


@pytest.fixture(scope="class", params=["x", "y"])
def c_param(request):
    yield request.param


@pytest.fixture(scope="class")
def c_bad_end():
    yield
    raise RuntimeError("class teardown")


@pytest.fixture(autouse=True)
def f_auto():
    yield


@pytest.fixture
def f_plain(s_plain):
    yield


@pytest.fixture
def f_needs_all(s_needs_param, p_plain, m_param, c_plain, f_plain):
    yield


@pytest.fixture
def f_bad_end():
    yield
    raise ValueError("function teardown")


@pytest.fixture
def f_bad():
    raise ValueError("function set-up")


@pytest.fixture(scope="session")
def s_late():
    yield


@pytest.fixture(scope="session")
def over():
    yield "session"


@pytest.fixture
def f_finalizers(request):
    request.addfinalizer(lambda: log("second finalizer"))
    request.addfinalizer(lambda: log("first finalizer"))
    request.node.addfinalizer(lambda: log("node finalizer"))


@pytest.fixture(scope="module")
def m_finalizers(request):
    request.addfinalizer(lambda: log("module finalizer"))
    request.session.addfinalizer(lambda: log("session finalizer"))
