"""Fixtures of each scope with sandboxes. Each set-up and tear-down writes one line, with the PID namespace it ran in."""

import os

import pytest

LOG = open(os.environ["ORDER_LOG"], "a", buffering=1)
isolated = pytest.mark.isolate if os.environ["ORDER_ISOLATED"] == "1" else pytest.mark.filterwarnings("default")


def log(what):
    LOG.write(f"{what} {os.readlink('/proc/self/ns/pid')}\n")


def pytest_fixture_setup(fixturedef, request):
    if fixturedef.argname.startswith(("s_", "p_", "m_", "c_", "f_")):
        log(f"setup {fixturedef.argname} {getattr(request, 'param', '')} {request.node.nodeid}")


def pytest_fixture_post_finalizer(fixturedef, request):
    if fixturedef.argname.startswith(("s_", "p_", "m_", "c_", "f_")) and fixturedef.cached_result is not None:
        log(f"down {fixturedef.argname} {request.node.nodeid}")


def pytest_runtest_logreport(report):
    log(f"report {report.when} {report.outcome} {report.nodeid}")


def alive(box):
    return box.run(["true"]).returncode == 0


@pytest.fixture(scope="session")
def s_box(isolate_factory):
    box = isolate_factory("session")
    yield box
    log(f"session box alive at its end: {alive(box)}")


@pytest.fixture(scope="package")
def p_box(isolate_factory, s_box):
    assert alive(s_box)
    yield isolate_factory("package")


@pytest.fixture(scope="module", params=["one", "two"])
def m_box(request, isolate_factory):
    box = isolate_factory("module", env={"PARAM": request.param})
    yield box
    log(f"module box alive at its end: {alive(box)}")


@pytest.fixture(scope="module")
def m_plain():
    yield


@pytest.fixture(scope="class")
def c_box(isolate_factory, m_plain):
    yield isolate_factory("class")


@pytest.fixture(scope="session")
def make():
    """A factory of its own kind, which other fixtures call."""
    return []


@pytest.fixture
def f_requested(tmp_path, monkeypatch):
    monkeypatch.setenv("F_REQUESTED", "set")
    yield tmp_path


@pytest.fixture(params=[1, 2])
def f_box(request, isolate_factory, f_requested, s_box):
    assert alive(s_box)
    yield isolate_factory("function", env={"PARAM": str(request.param)})


@pytest.fixture
def f_two(isolate_factory):
    yield [isolate_factory("left"), isolate_factory("right")]


@pytest.fixture
def f_dynamic(request):
    yield request.getfixturevalue("isolate_factory")("dynamic")


@pytest.fixture
def f_bad(isolate_factory):
    isolate_factory("bad")
    raise ValueError("set-up")


@pytest.fixture
def f_bad_end(isolate_factory):
    yield isolate_factory("bad")
    raise ValueError("teardown")


@pytest.fixture
def f_over(isolate_factory):
    yield [isolate_factory("over")]


@pytest.fixture
def f_inside():
    yield
