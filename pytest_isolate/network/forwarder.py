"""The forwarder: a process of the host's network that answers at addresses inside sandboxes with the host's servers.

A sandbox's test process makes listening sockets in its own network namespace, before any code of the test runs, and sends
them here; this process connects to the same addresses in its own namespace, the one that pytest is in. So a sandbox reaches
what was listed, and nothing else of the host.

It is a fresh interpreter, so that no thread of it is in the pytest process, which forks. It runs in its own session, ignores
a terminal's signals, and ends when pytest does, by SIGKILL too: it polls a pidfd that pytest passed.

Messages in:  {"op": "open", "key", "targets": [[host, port], …]} with a listening socket for each; {"op": "close", "key"}
Messages out: {"ready": true} once; {"closed": key}
"""

from __future__ import annotations

import os
import resource
import select
from contextlib import suppress
from socket import socket

from pytest_isolate.kernel.channel import Channel
from pytest_isolate.kernel.fresh_interpreter import ignore_terminal
from pytest_isolate.network.relay import Relay

__all__ = ["main"]


def serve(channel: Channel, parent: int) -> None:
    """Until pytest closes the channel or ends. Raises OSError when it is gone."""
    relay = Relay()
    relay.start()
    channel.send({"ready": True})
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(parent, select.POLLIN)
    while parent not in {fd for fd, _ in poll.poll()} and (received := channel.receive()) is not None:
        message, fds = received
        if message["op"] == "open":
            for fd, (host, port) in zip(fds, message["targets"], strict=True):
                relay.open(message["key"], socket(fileno=fd), (host, port))
        else:
            relay.close(message["key"])
            channel.send({"closed": message["key"]})


def main(argv: list[str]) -> None:
    """Args: the channel's fd, the pidfd of pytest."""
    ignore_terminal()
    channel, parent = Channel(socket(fileno=int(argv[0]))), int(argv[1])
    os.set_inheritable(channel.fileno(), False)
    os.set_inheritable(parent, False)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(BrokenPipeError, ConnectionResetError):
        serve(channel, parent)
    os._exit(0)  # the kernel closes every socket; taking down the interpreter would only take time
