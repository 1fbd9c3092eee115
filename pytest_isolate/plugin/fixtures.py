"""The fixture `isolate_box`: a test's view of its own sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec
    from pytest_isolate.model.usage import Usage
    from pytest_isolate.plugin.child import Child
    from pytest_isolate.plugin.protocol import Protocol

__all__ = ["Box", "isolate_box", "protocol_key"]

protocol_key: Final[pytest.StashKey[Protocol]] = pytest.StashKey()
"""On ``config.stash`` of a run that isolates something."""


class Box:
    """The sandbox that the running test is in.

    Attributes:
        spec: what it was asked to be, after weakening.
    """

    def __init__(self, spec: Spec, child: Child) -> None:
        self.spec = spec
        self._child = child

    def usage(self) -> Usage:
        """What it has used so far, read outside by the pytest process."""
        return self._child.usage()

    def __repr__(self) -> str:
        return f"<Box of {self._child.item.nodeid}>"


@pytest.fixture
def isolate_box(request: pytest.FixtureRequest) -> Box | None:
    """This test's sandbox: its spec, and its usage so far. None in a test that isn't isolated (as with --no-isolate)."""
    protocol = request.config.stash.get(protocol_key, None)
    child = protocol.child if protocol is not None else None
    return Box(child.spec, child) if child is not None else None
