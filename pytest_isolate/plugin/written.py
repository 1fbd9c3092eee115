"""What a test did to the files of its sandbox: asked of the builder when the test asks or fails, told in failing reports."""

from __future__ import annotations

import json
from typing import Final

import pytest

from pytest_isolate.model.changes import Changes
from pytest_isolate.model.errors import IsolateError
from pytest_isolate.plugin.keeping import Keeping
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
        keeping: None where nothing is kept.
    """

    def __init__(self, item: pytest.Item, box: Sandbox, keeping: Keeping | None) -> None:
        self._nodeid = item.nodeid
        self._box = box
        self._keeping = keeping
        self._changes: Changes | IsolateError = Changes()
        self._kept = ""

    @property
    def keeps(self) -> bool:
        """Whether its files may have to be kept: then nothing of the test may run on."""
        return self._keeping is not None

    def take(self) -> None:
        """Ask, while there is a sandbox."""
        try:
            self._changes = self._box.changes()
        except IsolateError as error:
            self._changes = error

    def end(self, *, failed: bool) -> None:
        """The test is over, and the sandbox about to be given back. Ends everything inside where files are kept."""
        keeping = self._keeping
        if keeping is None or not (failed or keeping.everything):
            if failed:
                self.take()
            return
        self.take()
        if isinstance(self._changes, IsolateError) or not self._changes:
            return
        directory = keeping.directory(self._nodeid)
        try:
            self._box.keep(directory, keeping.about(self._nodeid))
        except (IsolateError, OSError) as error:
            self._kept = f"not kept: {error}"
            keeping.not_kept(self._nodeid, str(error))
        else:
            self._kept = f"kept in {directory}"
            keeping.kept()

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
        if self._kept:
            lines.append(self._kept)
        elif self._keeping is not None:  # the teardown is still to come
            lines.append(f"kept at the end of the test in {self._keeping.directory(self._nodeid)}")
        return [(SECTION, "\n".join(lines))]
