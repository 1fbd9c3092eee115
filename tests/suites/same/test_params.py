import pytest

@pytest.fixture(params=["a", "b"], scope="module")
def wide(request):
    print("wide", request.param)
    yield request.param
    print("wide down", request.param)

@pytest.fixture(params=[1, 2])
def narrow_param(request, wide):
    return f"{wide}{request.param}"

def test_first(wide):
    assert wide == "a"

def test_second(narrow_param):
    assert narrow_param == "a1"

@pytest.mark.parametrize("wide", ["indirect"], indirect=True)
def test_indirect(wide):
    assert wide == "a"

@pytest.mark.parametrize("direct", [1, 2], scope="module")
def test_direct_module(direct):
    assert direct == 1

@pytest.fixture
def over():
    return "module"

class TestOver:
    @pytest.fixture
    def over(self, over):
        return over + " class"

    def test_it(self, over):
        assert over == ""

def test_dynamic_missing(request):
    request.getfixturevalue("nothing")
