"""The builder's part in bridge networks: it starts the hub when the first sandbox wants one, and asks it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_isolate.model.errors import IsolateError
from pytest_isolate.model.net import Net
from pytest_isolate.model.spec import Spec

if TYPE_CHECKING:
    from pytest_isolate.network.hub_process import HubProcess

__all__ = ["Networks", "network_namespace"]


class Networks:
    """The bridge networks of one run.

    Args:
        run: its name.
        workspace: where the files that name the gateways go.
        rootless: the builder works in a user namespace of the run.
        uplink: how to reach the outside.
        libraries: directories of the libraries that the hub needs.
        builder: the builder's own pidfd.
    """

    def __init__(self, run: str, workspace: str, *, rootless: bool, uplink: str, libraries: Sequence[str], builder: int) -> None:
        self._run, self._workspace, self._rootless = run, workspace, rootless
        self._uplink, self._libraries, self._builder = uplink, libraries, builder
        self._hub: HubProcess | None = None
        self._resolvers: dict[str, str] = {}
        self._notes: list[str] = []
        self._attached: set[int] = set()
        self._begun: int | None = None

    def _running(self) -> HubProcess:
        """The hub, started when it is first wanted. Raises SetupError, MissingCapability."""
        if self._hub is not None and not self._hub.alive:
            self.close()
        if self._hub is None:
            from pytest_isolate.network.hub_process import HubProcess

            self._hub = HubProcess(
                self._run, rootless=self._rootless, uplink=self._uplink, libraries=self._libraries, builder=self._builder
            )
        return self._hub

    def resolver(self, net: Net) -> str:
        """Make sure that the network is there. Returns the name, in the workspace, of a resolv.conf(5) that leads to it.

        Raises:
            SetupError, MissingCapability
        """
        if net.mode != "bridge":
            return ""
        hub = self._running()
        key = json.dumps(net.to_json(), sort_keys=True)
        if key not in self._resolvers:
            answer = hub.ask({"op": "network", "net": net.to_json()})
            self._notes += answer["notes"]
            name = f"resolv.{net.network}"
            with open(os.path.join(self._workspace, name), "w", encoding="ascii") as file:
                file.write(f"nameserver {answer['gateway']}\n")
            os.chmod(os.path.join(self._workspace, name), 0o644)
            self._resolvers[key] = name
        return self._resolvers[key]

    def begin(self, number: int, spec: Spec, init: int) -> None:
        """Have a sandbox linked whose init has just been born, unless an address of its can be another's until it is handed out (`activate`).

        The hub works while init sets itself up; `finish` waits for it. Raises SetupError, MissingCapability.
        """
        if spec.net.mode == "bridge" and spec.net.ip is None and spec.net.mac is None:
            self.give_up()
            self._attach(number, spec, init)

    def _attach(self, number: int, spec: Spec, init: int) -> None:
        quality = spec.to_json().get("bandwidth")
        hub = self._running()
        namespace = network_namespace(init)
        try:
            hub.tell({"op": "attach", "n": number, "net": spec.net.to_json(), "bandwidth": quality}, (namespace,))
        finally:
            os.close(namespace)
        self._begun = number

    def finish(self) -> dict[str, Any]:
        """Where the sandbox is that was begun, nothing if none was. Raises SetupError, MissingCapability."""
        if self._begun is None or self._hub is None:
            return {}
        number, self._begun = self._begun, None
        answer = self._hub.answer()
        self._attached.add(number)
        return {**answer, "hub": self._hub.pid}

    def give_up(self) -> None:
        """The sandbox that was begun comes to nothing; it may be begun once more, under its number."""
        if (number := self._begun) is not None:
            with suppress(IsolateError):
                self.finish()
            self._release(number, delete=True)

    @property
    def lost(self) -> bool:
        """Whether the hub was killed, so that what came to nothing may work with another one."""
        return self._hub is not None and not self._hub.alive

    def activate(self, number: int, spec: Spec, init: int, asked: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
        """The sandbox is handed out: link it if it isn't yet, and give it its names and ports. Raises SetupError, MissingCapability."""
        answer = {}
        if number not in self._attached:
            self._attach(number, spec, init)
            answer = self.finish()
        self._running().ask({"op": "activate", "n": number, "names": asked["names"], "ports": asked["ports"]}, fds)
        return answer

    def ask(self, operation: str, number: int) -> dict[str, Any]:
        """``contacts``: which remote addresses it reached, or was refused; ``unpublish``: close its ports on the host. Raises SetupError."""
        if self._hub is None:
            raise KeyError(number)
        return self._hub.ask({"op": operation, "n": number})

    def partition(self, operation: str, one: tuple[int, int], other: tuple[int, int]) -> dict[str, Any]:
        """``cut`` or ``mend`` the way between two sandboxes, each given by number and init. Raises SetupError, OSError.

        Where one of them is dead the other is mended all the same: the address may be another sandbox's next.
        """
        namespaces: list[int] = []
        peers: list[int] = []
        try:
            for (_number, init), (peer, _init) in ((one, other), (other, one)):
                try:
                    namespaces.append(network_namespace(init))
                except OSError:
                    if operation == "cut":
                        raise
                else:
                    peers.append(peer)
            return self._running().ask({"op": operation, "n": one[0], "m": other[0], "from": peers}, namespaces)
        finally:
            for namespace in namespaces:
                os.close(namespace)

    def notes(self) -> list[str]:
        """What the user should know of the networks, a sentence each, since the last call."""
        notes, self._notes = self._notes, []
        return list(dict.fromkeys(notes))

    def release(self, number: int) -> None:
        """A sandbox's processes are dead."""
        self._release(number, delete=False)

    def _release(self, number: int, *, delete: bool) -> None:
        if number in self._attached:
            self._attached.discard(number)
            if self._hub is not None:
                self._hub.tell({"op": "release", "n": number, "delete": delete})

    def close(self) -> None:
        """End the hub."""
        if self._hub is not None:
            self._hub.close()
            self._hub = None
        self._resolvers.clear()
        self._attached.clear()
        self._begun = None


def network_namespace(init: int) -> int:
    """fd of the network namespace of a sandbox. Raises OSError."""
    return os.open(f"/proc/{init}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
