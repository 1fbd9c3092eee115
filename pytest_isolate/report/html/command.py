"""The command line's `report`: the page of a run whose document was kept."""

from __future__ import annotations

import json
import os
from typing import Any, Final

from pytest_isolate.model.errors import SpecError

__all__ = ["add_parser", "make"]

_PLACE: Final = "command line"
_DOCUMENT: Final = "a file that --isolate-json wrote"


def add_parser(commands: Any) -> None:
    """The part of the command line that is about reports."""
    about = "Make the page of --isolate-html from a file that --isolate-json wrote."
    parser = commands.add_parser("report", help="make the HTML page of a run from its JSON", description=about)
    parser.add_argument("document", metavar="RUN.json", help=_DOCUMENT)
    parser.add_argument("-o", "--output", metavar="PAGE.html", required=True, help="where the page goes")


def make(source: str, target: str) -> None:
    """Write the page of the document at `source` to `target`.

    Raises:
        SpecError: for whatever can't be read, drawn or written, with what would be accepted.
    """
    from pytest_isolate.report import files
    from pytest_isolate.report.html.page import INSTALL, missing, page

    if why := missing():
        raise SpecError("report", why, f"the page after {INSTALL}", _PLACE)
    path = os.path.abspath(target)
    if why := files.refusal(path):
        raise SpecError(
            "--output", f"{path} can't be written: {why}", "the path of a file in a directory that you can write", _PLACE
        )
    document = _read(source)
    try:
        text = page(document)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SpecError("report", f"{source} has not the form that its version promises: {error!r}", _DOCUMENT, _PLACE) from error
    try:
        files.write(path, text)
    except OSError as error:
        raise SpecError(
            "--output", f"{path} could not be written: {error.strerror}", "a path on a disk with room", _PLACE
        ) from None


def _read(source: str) -> dict[str, Any]:
    from pytest_isolate.report.document import VERSION

    try:
        with open(source, "rb") as file:
            document = json.load(file)
    except OSError as error:
        raise SpecError("report", f"{source} can't be read: {error.strerror}", _DOCUMENT, _PLACE) from None
    except ValueError as error:
        raise SpecError("report", f"{source} is no JSON, or not all of it: {error}", _DOCUMENT, _PLACE) from None
    if not isinstance(document, dict) or not isinstance(document.get("tests"), list):
        raise SpecError("report", f"{source} has no list of tests", _DOCUMENT, _PLACE)
    if document.get("version") != VERSION:
        problem = f"{source} has version {document.get('version')!r} of the form, and this is a reader of version {VERSION}"
        raise SpecError("report", problem, "a file that --isolate-json of this version of the package wrote", _PLACE)
    return document
