"""What a test did to the files of its sandbox: asked of the builder when the test asks or fails, told in failing reports."""

from __future__ import annotations

import json
from typing import Final

import pytest

from pytest_isolate.model.changes import Changes
from pytest_isolate.model.errors import IsolateError
from pytest_isolate.plugin.wire import Frame
from pytest_isolate.sandbox import Sandbox

__all__ = ["SECTION", "Written"]

SECTION: Final = "isolate: changed files"
_MOST_SHOWN: Final = 20


class Written:
    """Of one test process.

    Args:
        item: the test.
        box: its sandbox.
    """

    def __init__(self, item: pytest.Item, box: Sandbox) -> None:
        self._item = item
        self._box = box
        self._changes: Changes | IsolateError = Changes()

    def take(self) -> None:
        """Ask, while there is a sandbox."""
        try:
            self._changes = self._box.changes()
        except IsolateError as error:
            self._changes = error

    def told(self) -> Frame:
        """The answer to a test that asks. Text, in which paths that aren't UTF-8 come through."""
        self.take()
        if isinstance(self._changes, IsolateError):
            return {"error": self._changes.to_json()}
        return {"changes": json.dumps(self._changes.to_json())}

    def sections(self) -> list[tuple[str, str]]:
        """For a failing report; none where nothing was changed."""
        found = self._changes
        if isinstance(found, IsolateError):
            return [(SECTION, f"unknown: {found}")]
        if not found:
            return []
        lines = [str(change) for change in found[:_MOST_SHOWN]]
        if (more := len(found) - _MOST_SHOWN) > 0:
            lines.append(f"and {more}{' or more' if found.truncated else ''} others: isolate_box.changes() has them all")
        return [(SECTION, "\n".join(lines))]
