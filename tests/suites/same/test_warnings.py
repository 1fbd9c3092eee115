import warnings

import pytest


class Own(UserWarning):
    pass


class WithArgs(DeprecationWarning):
    def __init__(self, a, b):
        super().__init__(a, b)
        self.a = a


@pytest.fixture
def warning_fixture():
    warnings.warn("set-up")
    yield
    warnings.warn("teardown", DeprecationWarning)


def test_phases(warning_fixture, session_value):
    warnings.warn("call", FutureWarning)


def test_own():
    warnings.warn(Own("own"))
    warnings.warn(WithArgs("one", "two"))


def test_local_category():
    class Local(RuntimeWarning):
        pass

    warnings.warn("local", Local)


def test_once():
    for _ in range(3):
        warnings.warn("repeated")


def test_recwarn(recwarn):
    warnings.warn("caught")
    assert len(recwarn) == 1


def test_warns():
    with pytest.warns(UserWarning, match="expected"):
        warnings.warn("expected")


@pytest.mark.filterwarnings("error")
def test_as_error():
    warnings.warn("raised")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ignored():
    warnings.warn("not seen")


def test_unraisable():
    class Bad:
        def __del__(self):
            raise ValueError("del")

    Bad()


def test_thread_exception():
    import threading

    def work():
        raise ValueError("in thread")

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    thread.join()


def test_resource():
    open(__file__)


def test_node_warn(request):
    request.node.warn(pytest.PytestWarning("by the node"))
