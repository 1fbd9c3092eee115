"""The code in the documentation does what the text around it says.

What counts is in HTML comments, invisible on the page. Before a ```python block: `<!-- outcomes: passed=1, failed=1 -->` runs it as a
test module, `<!-- pytest: ARGS -->` adds options; `<!-- run -->` runs it as a program. `<!-- file: NAME -->` before a block writes it
beside the next test module of its page; `<!-- output -->` before a block of text: its lines are in the output of the test
module before it, `…` being anything.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.support.capabilities import requires
from tests.support.pytest_process import ROOT, run_pytest

DOCS: Final = ROOT / "docs"
BLOCK: Final = re.compile(r"((?:^<!-- [^\n]* -->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DIRECTIVE: Final = re.compile(r"<!-- (\w+)(?:: (.*?))? -->")


@dataclass
class Example:
    """A test module of a page, and what is expected of it."""

    name: str
    code: str
    arguments: list[str]
    outcomes: str | None
    files: dict[str, str]
    output: list[str] = field(default_factory=list)


def examples(page: Path) -> Iterator[Example]:
    found: list[Example] = []
    files: dict[str, str] = {}
    for comments, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        directives = dict(DIRECTIVE.findall(comments))
        if "file" in directives:
            files[directives["file"]] = text
        elif "output" in directives:
            found[-1].output += [f"*{line.replace('…', '*')}*" for line in text.splitlines()]
        elif language == "python":
            assert directives, f"{page}: a python block that says not what to expect of it:\n{text}"
            name = f"{page.relative_to(DOCS).with_suffix('')}-{len(found) + 1}".replace("/", "-")
            found.append(Example(name, text, shlex.split(directives.get("pytest", "")), directives.get("outcomes"), files))
            files = {}
    yield from found


EXAMPLES: Final = [example for page in sorted(DOCS.rglob("*.md")) for example in examples(page)]


@requires("root", "cgroup-cpu", "cgroup-memory", "cgroup-pids")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_in_the_documentation_does_what_the_page_says(example: Example, tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("page") / "project"
    directory.mkdir()
    for name, text in {"pyproject.toml": "[tool.pytest.ini_options]\n", **example.files, "test_example.py": example.code}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    if example.outcomes is None:
        done = subprocess.run(
            [sys.executable, "test_example.py"],
            cwd=directory,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return
    done = run_pytest(directory, *example.arguments)
    expected = {name: int(count) for name, count in (pair.split("=") for pair in example.outcomes.split(", "))}
    found = pytest.RunResult.parse_summary_nouns(done.stdout.splitlines())
    assert {
        name: count for name, count in found.items() if name in ("passed", "failed", "error", "errors", "skipped")
    } == expected, done.stdout + done.stderr
    pytest.LineMatcher(done.stdout.splitlines()).fnmatch_lines(example.output)


def test_every_toml_block_parses():
    import tomllib

    for page in DOCS.rglob("*.md"):
        for _comments, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language == "toml":
                tomllib.loads(text)


def test_pages_name_no_option_or_key_that_does_not_exist():
    from pytest_isolate.model.keys import KEYS
    from pytest_isolate.plugin.options import OPTIONS

    options = {*(name.removeprefix("--isolate-") for name, _, _ in OPTIONS), "json", "html", *KEYS}
    for page in (*DOCS.rglob("*.md"), ROOT / "README.md"):
        for option in re.findall(r"--isolate-(\w+)", page.read_text(encoding="utf-8")):
            assert option in options | {"KEY"}, f"{page}: --isolate-{option}"
