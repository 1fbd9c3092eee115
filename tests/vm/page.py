"""`docs/reference/support.md`: the table of what was tried where, written from `docs/reference/support.json` between two marks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.vm.releases import VARIANTS
from tests.vm.results import Facts, SuiteResult, VariantResult, load

__all__ = ["DATA", "MARKS", "PAGE", "table", "write"]

_REFERENCE: Final = Path(__file__).parents[2] / "docs/reference"
DATA: Final = _REFERENCE / "support.json"
PAGE: Final = _REFERENCE / "support.md"
MARKS: Final = ("<!-- vm: begin -->", "<!-- vm: end -->")

_USERS: Final = {
    "root": "root",
    "tester": "a user, in a service of the own systemd manager",
    "login": "a user, in a login session",
}


def table(results: Mapping[str, VariantResult]) -> str:
    """The results as Markdown, in the order of `VARIANTS`."""
    ordered = {name: results[name] for name in VARIANTS if name in results}
    lines = [
        "| kernel | userland | cgroups | user | passed | failed | not for this machine | without |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in ordered.values():
        for user, suite in result.suites.items():
            lines.append(f"| {_machine(result.facts)} | {_USERS[user]} | {_figures(suite)} |")
    lines += ["", *_doctor(ordered), "", *_refusals(ordered)]
    return "\n".join(lines).rstrip()


def _kernel(facts: Facts) -> str:
    """Its first two numbers, and the processor where it isn't the usual one."""
    number = ".".join(facts.kernel.split(".")[:2])
    return f"{number}, arm64" if facts.kernel.endswith("-arm64") else number


def _machine(facts: Facts) -> str:
    split = {version: [name for name, at in sorted(facts.controllers.items()) if at == version] for version in ("v1", "v2")}
    layout = facts.layout
    if layout == "hybrid":
        layout += f" (v2: {', '.join(split['v2']) or 'none'})"
    return f"{_kernel(facts)} | {facts.distribution}, systemd {facts.systemd}, Python {facts.python} | {layout}"


def _figures(suite: SuiteResult) -> str:
    failed = ", ".join(f"`{name}`" for name in suite.failed) or ("0" if suite.status == 0 else "did not end")
    return f"{suite.passed} | {failed} | {sum(suite.skipped.values())} | {', '.join(suite.without) or '–'}"


def _doctor(results: Mapping[str, VariantResult]) -> Iterator[str]:
    found = [(result.facts, user, suite.doctor) for result in results.values() for user, suite in result.suites.items()]
    yield "| kernel | cgroups | user | the doctor: weaker | missing | spec keys that it says are weaker or don't work |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for facts, user, doctor in found:
        if doctor:
            kernel, _, layout = _machine(facts).split(" | ")
            weaker, missing = ([n for n, s in doctor.capabilities.items() if s == state] for state in ("weaker", "missing"))
            keys = [name if state == "missing" else f"{name} (weaker)" for name, state in doctor.keys.items()]
            cells = (", ".join(names) or "–" for names in (weaker, missing, keys))
            yield f"| {kernel} | {layout} | {_USERS[user]} | {' | '.join(cells)} |"


def _refusals(results: Mapping[str, VariantResult]) -> Iterator[str]:
    found = [
        (result.facts, name, user, refusal)
        for result in results.values()
        for name, users in result.refusals.items()
        for user, refusal in users.items()
    ]
    if found:
        yield "| kernel | refusal | user | isolation works | as expected | what the doctor says |"
        yield "| --- | --- | --- | --- | --- | --- |"
    for facts, name, user, refusal in found:
        works = "yes" if refusal.isolates else "no"
        remedy = refusal.remedy.replace("|", "\\|") or "–"
        yield f"| {_kernel(facts)} | {name} | {_USERS[user]} | {works} | {refusal.problem or 'yes'} | {remedy} |"


def write() -> None:
    """Put the table of the kept results into the page."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = MARKS
    new = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table(load(DATA))}\n{end}", page, flags=re.DOTALL)
    PAGE.write_text(new, encoding="utf-8")
