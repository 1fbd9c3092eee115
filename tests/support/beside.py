"""Tests of our plugin beside another one: what is loaded, and the sentence that the compatibility table makes of it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.capabilities import requires

__all__ = ["PAGE", "Promise", "beside", "promises", "table"]

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/reference/compatibility.md"


class Promise(NamedTuple):
    """One tested sentence about one plugin."""

    plugin: str
    sentence: str
    test: str


def beside(plugin: str, sentence: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a test about `plugin` (its distribution); `sentence` says what it shows, for the documentation."""
    assert sentence.endswith("."), sentence

    return (lambda function: function) if plugin == "pytest" else requires(f"plugin-{plugin}")


def promises() -> Iterator[Promise]:
    """Every use of `beside` in the tests, in their order; read, not imported."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "beside":
                    plugin, sentence = (ast.literal_eval(argument) for argument in decorator.args)
                    yield Promise(plugin, sentence, f"{path.relative_to(ROOT)}::{node.name}")


def table() -> str:
    """The page, as Markdown."""
    rows: dict[str, list[str]] = {}
    for promise in promises():
        rows.setdefault(promise.plugin, []).append(promise.sentence)
    lines = [
        "# Compatibility",
        "",
        "Made from the tests that show it (`python -m tests.support.beside` writes this page); each runs on the oldest and the newest pytest.",
        "",
        "| plugin | what is tested |",
        "| --- | --- |",
        *(f"| {plugin} | {' '.join(sentences)} |" for plugin, sentences in sorted(rows.items(), key=lambda row: row[0].lower())),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(table(), encoding="utf-8")
