"""The reference's table of support is what the virtual machines' results make, and the results are of the variants that there are."""

from __future__ import annotations

from dataclasses import asdict

from tests.vm.page import DATA, MARKS, PAGE, table
from tests.vm.releases import VARIANTS
from tests.vm.results import DoctorResult, Facts, SuiteResult, VariantResult, first_told, load


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


def test_what_the_doctor_finds_weaker_or_missing_is_on_the_page() -> None:
    facts = Facts("6.1.0-1-cloud-amd64", "bookworm", "252", "3.11.2", "v1", {"memory": "v1"})
    states = {"works": "userns", "weaker": "kmsg", "missing": "cgroup-memory"}
    keys = [{"name": "memory", "state": "missing"}, {"name": "disk", "state": "weaker"}, {"name": "cpu", "state": "works"}]
    doctor = DoctorResult.of({"capabilities": [{"name": name, "state": state} for state, name in states.items()], "keys": keys})
    suite = SuiteResult((), 0, 1, [], {}, (), 1.0, doctor)
    assert "| 6.1 | v1 | root | kmsg | cgroup-memory | memory, disk (weaker) |" in table(
        {"v1": VariantResult(facts, {"root": suite})}
    )
    assert SuiteResult.of(asdict(suite)) == suite


def test_first_missing_capability_is_told_with_its_remedy() -> None:
    report = """\
works    pidfd
missing  userns            unshare(CLONE_NEWUSER): EPERM (Operation not
                           permitted): it is off
         remedy: turn it on
missing  sandbox           userns: unshare
         remedy: as for userns
"""
    assert first_told(report) == "unshare(CLONE_NEWUSER): EPERM (Operation not permitted): it is off; remedy: turn it on"
    assert first_told("works    pidfd\n") == ""
