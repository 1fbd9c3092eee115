import pytest


@pytest.mark.xfail
def test_fails():
    assert 0


@pytest.mark.xfail(reason="passes")
def test_passes():
    pass


@pytest.mark.xfail(strict=True, reason="strict")
def test_strict_passes():
    pass


@pytest.mark.xfail(strict=True)
def test_strict_fails():
    assert 0


@pytest.mark.xfail(raises=KeyError)
def test_raises_other():
    raise ValueError


@pytest.mark.xfail(raises=(KeyError, ValueError), reason="expected")
def test_raises_expected():
    raise ValueError("x")


@pytest.mark.xfail(run=False, reason="not run")
def test_not_run():
    raise AssertionError("ran")


def test_imperative():
    pytest.xfail("by call")


@pytest.fixture
def xfailing():
    pytest.xfail("in fixture")


def test_in_fixture(xfailing):
    pass


def test_mark_added(request):
    request.node.add_marker(pytest.mark.xfail(reason="added", strict=True))
    assert 0


def test_mark_added_by_applymarker(request):
    request.applymarker(pytest.mark.xfail(reason="added"))


@pytest.fixture
def bad():
    yield
    raise RuntimeError("teardown")


@pytest.mark.xfail
def test_teardown(bad):
    pass


@pytest.mark.xfail
def test_skip_inside():
    pytest.skip("skipped")
