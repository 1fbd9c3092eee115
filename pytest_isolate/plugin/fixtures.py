"""The fixture `isolate_box`: a test's view of its own sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import pytest

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec
    from pytest_isolate.model.usage import Usage
    from pytest_isolate.network.attachment import Address
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

    @property
    def address(self) -> Address | None:
        """Where it is on its bridge network: `ip`, `gateway`, `network` and more. None with another network mode."""
        return self._child.address

    @property
    def ip(self) -> str | None:
        """Its IPv4 address on its bridge network; None with another network mode."""
        return self.address.ip if self.address is not None else None

    def port(self, port: int, protocol: Literal["tcp", "udp"] = "tcp") -> int:
        """The host port that a published port of the sandbox has. Raises LookupError if it isn't published."""
        try:
            return self._child.ports[port, protocol][1]
        except KeyError:
            known = ", ".join(f"{inside}/{kind}" for inside, kind in self._child.ports) or "none"
            raise LookupError(
                f'port {port}/{protocol} isn\'t published; published: {known}. Ask for publish=["{port}"]'
            ) from None

    def __repr__(self) -> str:
        return f"<Box of {self._child.item.nodeid}>"


@pytest.fixture
def isolate_box(request: pytest.FixtureRequest) -> Box | None:
    """This test's sandbox: its spec, and its usage so far. None in a test that isn't isolated (as with --no-isolate)."""
    protocol = request.config.stash.get(protocol_key, None)
    child = protocol.child if protocol is not None else None
    return Box(child.spec, child) if child is not None else None
