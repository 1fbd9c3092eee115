"""Fills in the tables of reference/keys.md from the tables that the plugin itself is made of.

`python docs/generate_reference.py` rewrites the parts between ``<!-- begin: NAME -->`` and ``<!-- end -->``; a test
fails when that changes anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from pytest_isolate.model.keys import KEYS, Key
from pytest_isolate.plugin.options import INI, OPTIONS, everywhere

PAGE = Path(__file__).parent / "reference" / "keys.md"
EXAMPLES = {
    "cpu": 'cpu="20%"',
    "swap": "swap=0",
    "pids": "pids=64",
    "io": 'io={"read": "10MB/s", "write": "5MB/s"}',
    "env": 'env={"TZ": "UTC"}',
    "budget": 'budget={"cpu": "1s", "memory": "64MiB"}',
}
"""Markers' values that aren't the example in quotes or in a list."""


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def marker(key: Key) -> str:
    value = f'["{key.example}"]' if key.many else f'"{key.example}"'
    return EXAMPLES.get(key.name, f"{key.name}={value}")


def keys() -> str:
    rows = [
        (
            code(marker(key)),
            key.help,
            key.default,
            code(f"--isolate-{key.name}={key.example}") if key.everywhere else "",
            code(f"isolate_{key.name} = {key.example}") if key.everywhere else "",
            ", ".join(code(name) for name in key.docker.split(", ") if name),
        )
        for key in KEYS.values()
    ]
    return table(("marker or profile", "meaning", "default", "command line", "ini", "Docker's name"), rows)


def forms() -> str:
    rows = [(code(key.name), code(key.accepted), code(key.form(text=True))) for key in KEYS.values()]
    return table(("key", "in a marker or profile", "on the command line and in ini"), rows)


def options() -> str:
    rows = [(code(f"{name}={metavar}" if metavar else name), text) for name, metavar, text in OPTIONS]
    rows.append((code("--isolate-KEY=VALUE"), f"one for each of {', '.join(code(key.name) for key in everywhere())}"))
    return table(("option", "meaning"), rows)


def ini() -> str:
    rows = [(code(name), kind, re.sub(r"--[\w-]+", lambda option: code(option[0]), text)) for name, kind, text in INI]
    rows.append(
        (
            code("isolate_KEY"),
            "string",
            "as `--isolate-KEY`; `isolate_writable`, `isolate_hide` and `isolate_inputs` args, `isolate_env` linelist",
        )
    )
    return table(("key", "type", "meaning"), rows)


PARTS: dict[str, Callable[[], str]] = {"keys": keys, "forms": forms, "options": options, "ini": ini}


def filled(page: str) -> str:
    """`page` with each part made anew. Raises KeyError for a part that nobody makes."""
    pattern = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
