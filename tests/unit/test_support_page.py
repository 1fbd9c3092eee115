"""The reference's table of support is what the virtual machines' results make, and the results are of the variants that there are."""

from __future__ import annotations

from tests.vm.page import DATA, MARKS, PAGE, table
from tests.vm.releases import VARIANTS
from tests.vm.results import SuiteResult, VariantResult, load


def test_page_holds_the_table_of_the_kept_results() -> None:
    begin, end = MARKS
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(begin)[2].partition(end)[0].strip() == table(load(DATA)), "run: python -m tests.vm page"


def test_every_variant_has_results() -> None:
    assert list(load(DATA)) == sorted(VARIANTS)


def test_nothing_failed_where_the_page_says_so() -> None:
    kept = load(DATA)
    line = table({name: _with_a_failure(result) for name, result in kept.items()})
    assert "`tests.made_up::test_it`" in line
    assert "`tests.made_up::test_it`" not in table(kept)


def _with_a_failure(result: VariantResult) -> VariantResult:
    broken = SuiteResult((), 1, 3, ["tests.made_up::test_it"], {"other": 2}, (), 1.0)
    assert not broken.good
    return VariantResult(result.facts, dict.fromkeys(result.suites, broken), result.refusals)
