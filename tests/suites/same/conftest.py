import logging
import warnings

import pytest


@pytest.fixture(scope="session")
def session_value():
    print("session out")
    logging.getLogger("wide").warning("session log")
    warnings.warn("session warning")
    yield {"a": 1}
    print("session down")
    logging.getLogger("wide").warning("session down log")


@pytest.fixture(scope="module")
def module_value(session_value):
    print("module out")
    yield session_value
    print("module down")
    logging.getLogger("wide").warning("module down log")


@pytest.fixture
def narrow(module_value):
    print("narrow out")
    logging.getLogger("narrow").warning("narrow log")
    yield module_value
    print("narrow down")
    logging.getLogger("narrow").warning("narrow down log")


@pytest.fixture(scope="session")
def bad_in_conftest(session_value):
    raise RuntimeError("in conftest")


@pytest.fixture(scope="session")
def hidden_bad():
    raise RuntimeError("hidden in conftest")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    setattr(item, "rep_" + report.when, report)
    report.seen_outer = f"{report.outcome} {getattr(item, 'outer', 0)}"
    item.outer = getattr(item, "outer", 0) + 1
    return report
