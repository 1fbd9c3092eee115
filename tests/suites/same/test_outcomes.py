import pytest


def test_passes():
    pass


def test_fails():
    left, right = {"a": 1, "b": [1, 2, 3]}, {"a": 1, "b": [1, 2, 4]}
    assert left == right


def test_raises_chain():
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("chained") from error


def test_raises_group():
    raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])


class Odd(Exception):
    def __init__(self, a, *, b):
        super().__init__(a)
        self.b = b


def test_raises_odd_exception():
    raise Odd("a", b=object())


def test_system_exit():
    raise SystemExit(3)


def test_fail_call():
    pytest.fail("by hand")


def test_fail_without_trace():
    pytest.fail("by hand", pytrace=False)


@pytest.fixture
def bad_setup():
    raise RuntimeError("set-up")


@pytest.fixture
def bad_teardown():
    yield
    raise RuntimeError("teardown")


def test_setup_error(bad_setup):
    pass


def test_teardown_error(bad_teardown):
    pass


def test_fails_and_teardown_error(bad_teardown):
    assert 0


def test_missing_fixture(nonexistent):
    pass


@pytest.fixture(scope="session")
def bad_session():
    raise RuntimeError("session set-up")


def test_bad_session_1(bad_session):
    pass


def test_bad_session_2(bad_session):
    pass


@pytest.fixture
def knows(request):
    yield
    print("outcome in teardown:", request.node.rep_setup.outcome, request.node.rep_call.outcome)


def test_teardown_knows_outcome(knows):
    assert 0


@pytest.mark.parametrize("text", ["ü", "日本", "a/b", "x y"])
def test_ids(text):
    assert text == "ü"


def test_recursion():
    def deeper():
        return deeper()

    deeper()


def test_bad_in_conftest(bad_in_conftest):
    pass


@pytest.fixture
def hidden_bad(hidden_bad):
    pass


def test_hidden_bad(hidden_bad):
    pass
