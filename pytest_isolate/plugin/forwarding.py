"""Forwards of a run and of one test: when the forwarder starts, who sends it what, what is told where it can't be done.

What can't be forwarded doesn't fail the test, which may not need it; if the test fails, its report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pytest_isolate.model.spec import Spec
from pytest_isolate.network.forwarder_process import ForwarderProcess
from pytest_isolate.plugin.servers import Server

__all__ = ["Forwarder", "Forwarding", "forwards"]

TITLE: Final = "isolate: not forwarded"


def forwards(spec: Spec) -> bool:
    """Whether servers of fixtures are to be reachable inside and wouldn't be by themselves."""
    return spec.forward == "fixtures" and spec.fixtures == "shared" and spec.net.mode != "host"


class Forwarder:
    """The run's; its process starts with the first test that needs it, and again if it died."""

    def __init__(self) -> None:
        self._process: ForwarderProcess | None = None

    def begin(self, servers: Sequence[Server]) -> Forwarding | None:
        """For one test, before its fork; None where there is nothing to forward."""
        if not servers:
            return None
        try:
            return Forwarding(servers, *self._with_key())
        except OSError as error:
            return Forwarding(servers, None, "", f"the forwarder could not be started: {error.strerror}")

    def _with_key(self) -> tuple[ForwarderProcess, str]:
        words = ""
        for _ in range(2):
            if self._process is None:
                self._process = ForwarderProcess()
            key = self._process.new_key()
            if self._process.alive:
                return self._process, key
            words = self._process.last_words()
            self.end()
        raise OSError(0, words or "it ended at once")

    def leave(self) -> None:
        """In a test process: nothing of the forwarder stays open in it."""
        if self._process is not None:
            self._process.close_fds()

    def end(self) -> None:
        """End the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.end()


class Forwarding:
    """One test's.

    Args:
        servers: what is to be forwarded.
        process: None where there is none.
        key: of this test, with the forwarder.
        why: nothing can be forwarded.
    """

    def __init__(self, servers: Sequence[Server], process: ForwarderProcess | None, key: str, why: str = "") -> None:
        self._servers = servers
        self._process = process
        self._key = key
        self._refused: dict[int, str] = dict.fromkeys(range(len(servers)), why) if why else {}

    def serve(self) -> list[tuple[int, str]]:
        """In the test process, inside: have everything forwarded. Returns what `refuse` takes."""
        if self._process is None:
            return []
        refused = self._process.serve(self._key, [server.forward for server in self._servers])
        return [(place, refused[server.forward]) for place, server in enumerate(self._servers) if server.forward in refused]

    def refuse(self, refused: Sequence[Sequence[Any]]) -> None:
        """In the pytest process: what the test process could not have."""
        self._refused.update((place, why) for place, why in refused)

    def reached(self) -> list[Server]:
        """What the test could reach."""
        return [server for place, server in enumerate(self._servers) if place not in self._refused]

    def section(self) -> tuple[str, str] | None:
        """Title and text for a failing test; None if everything was forwarded."""
        if not self._refused:
            return None
        lines = [
            f"{server.forward} of {server.fixture.scope} fixture '{server.fixture.argname}': {self._refused[place]}"
            for place, server in enumerate(self._servers)
            if place in self._refused
        ]
        return TITLE, "\n".join(
            [*lines, 'remedy: fixtures="inside" sets it up in the sandbox; net="host" shares the host\'s network']
        )

    def close(self) -> None:
        """The test has ended."""
        if self._process is not None:
            self._process.close(self._key)
