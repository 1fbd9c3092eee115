"""The hub seen from the builder: a forked child, its channel, and questions that are answered one at a time."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from pytest_isolate.kernel.channel import Channel, pair
from pytest_isolate.model.errors import SetupError, error_from_json

__all__ = ["HubProcess"]

_GOODBYE: Final = 5.0


class HubProcess:
    """Forks the hub, and waits until it is ready.

    Args:
        run: the run's name.
        rootless: the caller's capabilities hold in a user namespace only.
        uplink: how to reach the outside.
        libraries: directories to find pyroute2 and filelock in, which the builder itself has no use for.
        builder: the caller's pidfd.

    Raises:
        SetupError, MissingCapability: it could not start.
    """

    def __init__(self, run: str, *, rootless: bool, uplink: str, libraries: Sequence[str], builder: int) -> None:
        self._channel, theirs = pair()
        pid = os.fork()
        if pid == 0:
            _live(theirs.fileno(), builder, run, rootless=rootless, uplink=uplink, libraries=libraries)
        theirs.close()
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        try:
            self.answer()
        except BaseException:
            self.close()
            raise

    def ask(self, message: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Send and wait for the answer. Raises as `answer`."""
        self.tell(message, fds)
        return self.answer()

    def tell(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send; wait for nothing. Silent if the hub is gone: the next answer says so."""
        with suppress(OSError):
            self._channel.send(message, tuple(fds))

    @property
    def alive(self) -> bool:
        return not select.select([self._pidfd], [], [], 0)[0]

    def answer(self) -> dict[str, Any]:
        """The answer to the oldest question. Raises what the hub answers with, or SetupError if it is gone."""
        if (received := self._channel.receive()) is None:
            select.select([self._pidfd], [], [], _GOODBYE)  # it closes its files a moment before it is dead
            raise SetupError(
                "wire a network", detail=f"the process that holds the networks (pid {self.pid}) ended: it was killed",
                hint="the next test with a bridge network starts another",
            )  # fmt: skip
        if "error" in received[0]:
            raise error_from_json(received[0]["error"])
        return received[0]

    def close(self) -> None:
        """End it and its namespace; SIGKILL if it takes long."""
        self._channel.close()
        if not select.select([self._pidfd], [], [], _GOODBYE)[0]:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            select.select([self._pidfd], [], [], _GOODBYE)
        os.close(self._pidfd)


def _live(channel: int, builder: int, run: str, *, rootless: bool, uplink: str, libraries: Sequence[str]) -> None:
    """In the fork. Never returns."""
    import socket

    # Whatever else the builder has open is its own: pytest must see the end of its channel when it dies.
    kept = sorted({0, 1, 2, channel, builder})
    for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)
    sys.path += [path for path in libraries if path not in sys.path]
    from pytest_isolate.network.hub import run_hub

    run_hub(Channel(socket.socket(fileno=channel)), builder, run, rootless=rootless, uplink=uplink)
