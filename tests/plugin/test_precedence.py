"""Which place wins: markers closest first, then the command line, then ini; each key for itself."""

from __future__ import annotations

import pytest

from tests.support.collected import collect

LADDER = """
import pytest
pytestmark = pytest.mark.isolate(hostname="module", {module})

@pytest.mark.isolate(hostname="base", {base})
class Base:
    pass

@pytest.mark.isolate(hostname="derived", {derived})
class TestDerived(Base):
    @pytest.mark.isolate(hostname="outer", {outer})
    @pytest.mark.isolate(hostname="inner", {inner})
    @pytest.mark.parametrize("p", [pytest.param(1, id="p", marks=pytest.mark.isolate(hostname="parameter", {parameter}))])
    def test_it(self, p): pass
"""
RUNGS = ["parameter", "inner", "outer", "derived", "base", "module"]


def ladder(pytester: pytest.Pytester, rungs: list[str], key: str = "pids") -> None:
    """Every rung has a `hostname` of its own; `rungs` alone give `key`, from 1 (closest) upwards."""
    values = {rung: f"{key}={rungs.index(rung) + 1}" if rung in rungs else "" for rung in RUNGS}
    pytester.makepyfile(test_ladder=LADDER.format(**values))


@pytest.mark.parametrize("first", range(len(RUNGS)), ids=RUNGS)
def test_closest_marker_that_gives_a_key_wins_whatever_markers_come_between(pytester: pytest.Pytester, first: int) -> None:
    ladder(pytester, RUNGS[first:])
    found = collect(pytester)["TestDerived::test_it[p]"]
    assert found.spec == {"hostname": "parameter", "pids": 1}


def test_origin_of_each_key_is_known(pytester: pytest.Pytester) -> None:
    ladder(pytester, ["base"])
    found = collect(pytester, "--isolate-cpu=2")["TestDerived::test_it[p]"]
    assert found.place == "marker of parameter set test_ladder.py::TestDerived::test_it[p]"
    assert found.places == {
        "hostname": "marker of parameter set test_ladder.py::TestDerived::test_it[p]",
        "pids": "base class test_ladder.Base",
        "cpu": "--isolate-cpu of command line",
    }


def test_bases_rank_in_the_order_of_pythons_own_look_up(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate(pids=4, cpu=4, memory="4MiB", user=4)
        class Root: pass
        @pytest.mark.isolate(pids=3, cpu=3)
        class Left(Root): pass
        @pytest.mark.isolate(pids=2, memory="2MiB")
        class Right(Root): pass
        class TestDiamond(Left, Right):
            def test_it(self): pass
    """)
    assert collect(pytester)["TestDiamond::test_it"].spec == {"pids": 3, "cpu": 3.0, "memory": 2 << 20, "user": 4}


def test_inner_class_ranks_before_outer_class(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate(pids=2, cpu=2)
        class TestOuter:
            @pytest.mark.isolate(pids=1)
            class TestInner:
                def test_it(self): pass
    """)
    assert collect(pytester)["TestOuter::TestInner::test_it"].spec == {"pids": 1, "cpu": 2.0}


def test_innermost_of_stacked_parameter_sets_wins(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("a", [pytest.param(0, id="a", marks=pytest.mark.isolate(pids=2, cpu=2))])
        @pytest.mark.parametrize("b", [pytest.param(0, id="b", marks=pytest.mark.isolate(pids=1))])
        def test_it(a, b): pass
    """)
    assert collect(pytester)["test_it[b-a]"].spec == {"pids": 1, "cpu": 2.0}


def test_one_marker_object_on_function_and_parameter_ranks_as_the_parameters(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        small = pytest.mark.isolate(pids=1)
        @pytest.mark.isolate(pids=2)
        @small
        @pytest.mark.parametrize("a", [pytest.param(0, id="a", marks=small), pytest.param(0, id="b", marks=pytest.mark.isolate(pids=3))])
        def test_it(a): pass
    """)
    found = collect(pytester)
    assert found["test_it[a]"].spec == {"pids": 1}
    assert found["test_it[b]"].spec == {"pids": 3}


def test_marker_of_a_fixtures_parameter_ranks_as_a_parameters(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.fixture(params=[pytest.param(0, id="a", marks=pytest.mark.isolate(pids=1))])
        def number(request): pass
        @pytest.mark.isolate(pids=2)
        def test_it(number): pass
    """)
    assert collect(pytester)["test_it[a]"].spec == {"pids": 1}


def test_marker_on_a_unittest_class_and_method_counts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest, unittest
        @pytest.mark.isolate(pids=2, cpu=2)
        class TestCase(unittest.TestCase):
            @pytest.mark.isolate(pids=1)
            def test_it(self): pass
    """)
    assert collect(pytester)["TestCase::test_it"].spec == {"pids": 1, "cpu": 2.0}


@pytest.mark.parametrize("append,pids", [(True, 1), (False, 2)])
def test_marker_that_a_conftest_adds_ranks_as_pytest_says(pytester: pytest.Pytester, append: bool, pids: int) -> None:
    pytester.makeconftest(f"""
        import pytest
        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker(pytest.mark.isolate(pids=2, cpu=2), append={append})
    """)
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate(pids=1)
        def test_marked(): pass
        def test_plain(): pass
    """)
    found = collect(pytester)
    assert found["test_marked"].spec == {"pids": pids, "cpu": 2.0}
    assert found["test_plain"].spec == {"pids": 2, "cpu": 2.0}


@pytest.mark.parametrize("append,pids", [(True, 1), (False, 2)])
def test_marker_that_a_conftest_adds_to_a_class_ranks_as_pytest_says(pytester: pytest.Pytester, append: bool, pids: int) -> None:
    pytester.makeconftest(f"""
        import pytest
        def pytest_collection_modifyitems(items):
            items[0].parent.add_marker(pytest.mark.isolate(pids=2, cpu=2), append={append})
    """)
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate(pids=1)
        class TestMarked:
            def test_it(self): pass
    """)
    assert collect(pytester)["TestMarked::test_it"].spec == {"pids": pids, "cpu": 2.0}


def test_markers_precede_the_command_line_and_that_precedes_ini(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nisolate_pids = 3\nisolate_cpu = 3\nisolate_memory = 3MiB\n")
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate(pids=1)
        def test_it(): pass
    """)
    assert collect(pytester, "--isolate-pids=2", "--isolate-cpu=2")["test_it"].spec == {"pids": 1, "cpu": 2.0, "memory": 3 << 20}


def test_profile_ranks_just_below_the_place_that_names_it(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml("""
        [tool.pytest.ini_options]
        isolate_profile = "of_ini"
        isolate_user = "5"
        [tool.pytest-isolate.profiles.of_function]
        pids = 1
        cpu = 1
        [tool.pytest-isolate.profiles.of_module]
        pids = 2
        memory = "2MiB"
        swap = 2
        [tool.pytest-isolate.profiles.of_option]
        swap = 3
        timeout = 3
        [tool.pytest-isolate.profiles.of_ini]
        user = 4
        timeout = 4
        hostname = "ini"
    """)
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.isolate(profile="of_module", memory="1MiB", cpu=2)
        @pytest.mark.isolate(profile="of_function")
        def test_it(): pass
    """)
    found = collect(pytester, "--isolate-profile=of_option")["test_it"]
    assert found.spec == {"pids": 1, "cpu": 1.0, "memory": 1 << 20, "swap": 2, "timeout": 3.0, "user": 5, "hostname": "ini"}
    assert found.places
    assert found.places["swap"] == "profile 'of_module' of pyproject.toml"


def test_env_of_the_closest_place_replaces_the_others(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nisolate_env =\n  A=1\n  B=2\n")
    pytester.makepyfile("""
        import pytest
        @pytest.mark.isolate(env={"C": None})
        def test_own(): pass
        @pytest.mark.isolate
        def test_bare(): pass
    """)
    found = collect(pytester)
    assert found["test_own"].spec == {"env": (("C", None),)}
    assert found["test_bare"].spec == {"env": (("A", "1"), ("B", "2"))}


MIXED = """
import pytest
def test_plain(): pass
@pytest.mark.isolate
def test_marked(): pass
@pytest.mark.isolate(enabled=False)
def test_out(): pass
@pytest.mark.isolate(enabled=False, pids=3)
class TestOut:
    def test_inherits(self): pass
    @pytest.mark.isolate(pids=4)
    def test_says_nothing(self): pass
    @pytest.mark.isolate(enabled=True)
    def test_in_again(self): pass
"""
NAMES = [
    "test_plain",
    "test_marked",
    "test_out",
    "TestOut::test_inherits",
    "TestOut::test_says_nothing",
    "TestOut::test_in_again",
]


def isolated(pytester: pytest.Pytester, *args: str) -> list[str]:
    pytester.makepyfile(test_mixed=MIXED)
    found = collect(pytester, *args)
    assert list(found) == NAMES
    return [name for name in NAMES if found[name].spec is not None]


def test_only_marked_tests_are_isolated_and_enabled_merges_like_a_key(pytester: pytest.Pytester) -> None:
    assert isolated(pytester) == ["test_marked", "TestOut::test_in_again"]


def test_isolate_all_takes_every_test_but_those_that_opt_out(pytester: pytest.Pytester) -> None:
    assert isolated(pytester, "--isolate-all") == ["test_plain", "test_marked", "TestOut::test_in_again"]


def test_isolate_all_of_ini_does_the_same(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nisolate_all = true\n")
    assert isolated(pytester) == ["test_plain", "test_marked", "TestOut::test_in_again"]


def test_no_isolate_is_stronger_than_everything(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nisolate_all = true\n")
    assert isolated(pytester, "--isolate-all", "--isolate-cpu=2", "--no-isolate") == []


def test_option_of_a_key_alone_isolates_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")
    assert collect(pytester, "--isolate-cpu=2")["test_plain"].spec is None


def test_place_of_an_unmarked_test_is_the_option_or_the_ini_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")
    assert collect(pytester, "--isolate-all")["test_plain"].place == "--isolate-all"
    pytester.makeini("[pytest]\nisolate_all = 1\n")
    assert collect(pytester)["test_plain"].place == "isolate_all of tox.ini"
    assert collect(pytester, "-o", "isolate_all=yes")["test_plain"].place == "isolate_all of command line (-o)"


def test_doctests_are_isolated_by_isolate_all(pytester: pytest.Pytester) -> None:
    pytester.maketxtfile(test_doc=">>> 1\n1\n")
    assert [found.spec for found in collect(pytester, "--isolate-all", "--isolate-pids=9").values()] == [{"pids": 9}]
