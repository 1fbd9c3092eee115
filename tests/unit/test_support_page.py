"""The reference's table of support is what the virtual machines' results make, and the results are of the variants that there are."""

from __future__ import annotations

from tests.vm.page import DATA, MARKS, PAGE, table
from tests.vm.releases import VARIANTS
from tests.vm.results import Facts, SuiteResult, VariantResult, load


def test_page_holds_the_table_of_the_kept_results() -> None:
    begin, end = MARKS
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(begin)[2].partition(end)[0].strip() == table(load(DATA)), "run: python -m tests.vm page"


def test_results_are_of_variants_that_there_are() -> None:
    assert set(load(DATA)) <= set(VARIANTS)


def test_failure_is_named_on_the_page() -> None:
    facts = Facts("6.1.0-1-cloud-amd64", "bookworm", "252", "3.11.2", "v2", {"memory": "v2"})
    broken = SuiteResult((), 1, 3, ["tests.made_up::test_it"], {"other": 2}, (), 1.0)
    assert not broken.good
    assert "`tests.made_up::test_it`" in table({"bookworm": VariantResult(facts, {"root": broken}, {})})
    assert "`tests.made_up::test_it`" not in table(load(DATA))
