"""The fixtures: `isolate_box`, a test's view of its own sandbox, and `isolate_factory`, which makes more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.plugin.marks import spec_key

if TYPE_CHECKING:
    from pytest_isolate.model.changes import Changes
    from pytest_isolate.model.net import Transport
    from pytest_isolate.model.spec import Spec
    from pytest_isolate.model.usage import Usage
    from pytest_isolate.network.attachment import Address
    from pytest_isolate.plugin.child import Child
    from pytest_isolate.plugin.factory import Factory
    from pytest_isolate.plugin.protocol import Protocol

__all__ = ["Box", "factory_key", "host_port", "isolate_box", "isolate_factory", "isolate_layer", "protocol_key"]

protocol_key: Final[pytest.StashKey[Protocol]] = pytest.StashKey()
"""On ``config.stash`` of a run that isolates something."""

factory_key: Final[pytest.StashKey[Factory]] = pytest.StashKey()
"""On ``config.stash`` of a process in which `isolate_factory` was asked for."""


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

    def changes(self) -> Changes:
        """What it did to its files so far, as ``docker diff`` tells it: a list of `Change`, each with `kind` (``A`` added, ``C`` changed, ``D`` deleted), `path` and `size`.

        Its attribute `truncated` says that there was more than a list holds. Raises SetupError, SandboxGone.
        """
        return self._child.changes()

    @property
    def address(self) -> Address | None:
        """Where it is on its bridge network: `ip`, `gateway`, `network` and more. None with another network mode."""
        return self._child.address

    @property
    def ip(self) -> str | None:
        """Its IPv4 address on its bridge network; None with another network mode."""
        return self.address.ip if self.address is not None else None

    def port(self, port: int, protocol: Transport = "tcp") -> int:
        """The host port that a published port of the sandbox has. Raises LookupError if it isn't published."""
        return host_port(self._child.ports, port, protocol)

    def __repr__(self) -> str:
        return f"<Box of {self._child.item.nodeid}>"


def host_port(ports: Mapping[tuple[int, str], tuple[str, int]], port: int, protocol: Transport) -> int:
    """The host port of a published port. Raises LookupError."""
    try:
        return ports[port, protocol][1]
    except KeyError:
        known = ", ".join(f"{inside}/{kind}" for inside, kind in ports) or "none"
        raise LookupError(f'port {port}/{protocol} isn\'t published; published: {known}. Ask for publish=["{port}"]') from None


@pytest.fixture
def isolate_box(request: pytest.FixtureRequest) -> Box | None:
    """This test's sandbox: its spec, and its usage so far. None in a test that isn't isolated (as with --no-isolate)."""
    protocol = request.config.stash.get(protocol_key, None)
    child = protocol.child if protocol is not None else None
    if child is None and spec_key in request.node.stash and not request.config.option.setupplan:
        pytest.fail(
            "isolate_box is the sandbox that the test is going to be in, and isn't there yet: it was asked for by a fixture that "
            "runs in the pytest process, because that one, or one that requests it, asks for isolate_factory"
        )
    return Box(child.spec, child) if child is not None else None


@pytest.fixture(scope="session")
def isolate_layer() -> Callable[..., Any]:
    """Makes layers for rootfs=, as pytest_isolate.isolate_layer does: for fixtures whose layers depend on other fixtures."""
    from pytest_isolate.plugin import recipe

    return recipe.isolate_layer


@pytest.fixture(scope="session")
def isolate_factory(request: pytest.FixtureRequest) -> Iterator[Factory]:
    """Makes more sandboxes: isolate_factory(name="db", net="bridge", memory="256MiB", …). Each ends with the fixture or test that made it."""
    from pytest_isolate.plugin import factory

    made = factory.of_run(request.config)
    made.learn(request)
    yield made
    made.close()
