"""A run's document as one HTML file that asks nobody for anything: script, style and data are in it.

The plots are drawn by BokehJS, whose scripts are read out of the installed Bokeh; none of its Python is imported. What is ours
lies beside this module, as files. Whatever comes from the run reaches the page as one JSON text in which no ``<`` is left,
and the page's script makes text nodes of it, never markup. The page's Content-Security-Policy allows the three scripts by their
hashes and no connection at all, so that the browser holds it to both.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final

from pytest_isolate.model.figures import FIGURES
from pytest_isolate.report.html.packing import packed

__all__ = ["INSTALL", "NoBokeh", "missing", "page"]

INSTALL: Final = "python -m pip install 'pytest-isolate-sandbox[html]'"
"""What brings what the page is drawn with."""

_OLDEST: Final = (3, 8)
_NEXT: Final = 4
_LIBRARY: Final = ("bokeh.min.js", "bokeh-api.min.js")
_OWN: Final = (
    "values.js",
    "tests.js",
    "figure.js",
    "plots.js",
    "overtime.js",
    "compared.js",
    "table.js",
    "details.js",
    "page.js",
)


class NoBokeh(Exception):
    """The library that draws the plots isn't there; its text says what is."""


def missing() -> str:
    """Why no page can be made here: what there is instead of a Bokeh that fits. Empty if one can."""
    try:
        _library()
    except NoBokeh as error:
        return str(error)
    return ""


def page(document: Mapping[str, Any]) -> str:
    """The whole file.

    Raises:
        NoBokeh: see `missing`.
        ValueError: there is a number that JSON hasn't, as NaN.
    """
    scripts = [*_library(), _program()]
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    data = {"document": packed(document), "figures": {name: asdict(figure) for name, figure in FIGURES.items()}}
    parts = {
        "policy": f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
        "title": html.escape(_title(document)),
        "style": _own("page.css"),
        "data": _in_script(json.dumps(data, separators=(",", ":"), allow_nan=False)),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _own("page.html"))


def _title(document: Mapping[str, Any]) -> str:
    root = str(document.get("run", {}).get("rootdir", ""))
    return f"Sandboxes of {os.path.basename(root) or root}" if root else "Sandboxes"


def _in_script(text: str) -> str:
    """ASCII, and with nothing in it that ends a script element or opens a comment in it."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _own(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()


def _program() -> str:
    return '(() => {\n"use strict";\n' + "\n".join(map(_own, _OWN)) + "})();\n"


def _library() -> list[str]:
    found = find_spec("bokeh")
    if found is None or found.origin is None:
        raise NoBokeh("Bokeh isn't installed")
    try:
        installed = version("bokeh")
    except PackageNotFoundError:
        raise NoBokeh(f"{found.origin} belongs to no installed Bokeh") from None
    numbers = [int(number) for number in re.findall(r"\d+", installed)[:2]]
    if not _OLDEST <= tuple(numbers) < (_NEXT,):
        raise NoBokeh(
            f"Bokeh {installed} is installed, and the page is made for {'.'.join(map(str, _OLDEST))} up to, but not, {_NEXT}"
        )
    directory = os.path.join(os.path.dirname(found.origin), "server/static/js")
    scripts = []
    for name in _LIBRARY:
        try:
            with open(os.path.join(directory, name), encoding="utf-8", newline="\n") as file:
                script = file.read()
        except OSError as error:
            raise NoBokeh(f"Bokeh {installed} has no {name}: {error.strerror} ({error.filename})") from None
        scripts.append(_embeddable(script))
    return scripts


def _embeddable(script: str) -> str:
    """As the HTML parser will hand it to the engine; its hash is of that."""
    return re.sub(r"</(?=script)", r"<\\/", script.replace("\r\n", "\n").replace("\r", "\n"), flags=re.IGNORECASE)
