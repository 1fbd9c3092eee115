"""A thread that lives in the host's network namespace, while the hub's main thread lives in the run's.

setns(2) and unshare(2) with CLONE_NEWNET move one thread only. What must happen on the host's side goes through `call`:
opening a netlink socket, writing `/proc/sys/net`, which shows the reader's own namespace, and starting pasta, which keeps
the namespace of the thread that forks it. Rootless, there is no way back to the host's namespace; the thread must then be
started before the hub leaves it.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = ["HostThread", "namespace_of"]

T = TypeVar("T")

_SIOCGSKNS: Final = 0x894C


def namespace_of(route: IPRoute) -> int:
    """A close-on-exec descriptor of the network namespace of a netlink socket (SIOCGSKNS, Linux 4.9).

    Raises:
        OSError: EPERM without CAP_NET_ADMIN there.
    """
    fd: int = fcntl.ioctl(route.fileno(), _SIOCGSKNS)
    os.set_inheritable(fd, False)
    return fd


class HostThread:
    """Runs functions, one at a time, in the network namespace that its maker is in; as a daemon it ends with its process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="isolate-host-net", daemon=True).start()

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises."""
        future: Future[T] = Future()
        self._jobs.put((function, future))
        return future.result()

    def close(self) -> None:
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, future = job
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - the caller's
                future.set_exception(error)
