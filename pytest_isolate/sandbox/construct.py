"""Making one sandbox, in the builder: cgroup, mounts, namespaces, init.

The order (see docs/explanation/architecture): a private copy of the builder's mount namespace receives the
root file system while the builder still has its full privileges; init is then cloned into new namespaces,
where that tree is a locked copy that nothing inside can take apart; init's id maps are written; init mounts
what belongs to its own namespaces, pivots and becomes a program of one page.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from pytest_isolate.kernel.capabilities import set_parent_death_signal
from pytest_isolate.kernel.clone import clone, clone_in_network
from pytest_isolate.kernel.namespaces import (
    ALL,
    CLONE_NEWNET,
    CLONE_NEWNS,
    loopback_up,
    write_id_maps,
)
from pytest_isolate.kernel.syscalls import sethostname, setns, unshare
from pytest_isolate.model.errors import IsolateError, SetupError, error_from_json
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs.fuse import stop
from pytest_isolate.rootfs.host import HostRoot
from pytest_isolate.rootfs.plan import UPPER, Operation, Plan
from pytest_isolate.sandbox.identity import Identity
from pytest_isolate.sandbox.init import become_init
from pytest_isolate.sandbox.init_script import InitScript, InitScripts

__all__ = ["Built", "Construction"]

_READY: Final = b"ready"
_END: Final = 5.0
"""Seconds for a killed init to end."""


@dataclass(frozen=True, slots=True)
class Built:
    """A sandbox that waits for its test.

    Attributes:
        init_pid, pidfd: init's.
        upper: descriptor (O_PATH) of its writable layer, which no path of the builder's leads to.
        servers: pidfds of servers that end with it.
        plan: how it is mounted.
    """

    init_pid: int
    pidfd: int
    upper: int
    servers: tuple[int, ...]
    plan: Plan

    def end(self) -> None:
        """Kill it and let go of it; once."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.close(self.pidfd)
        os.close(self.upper)
        for server in self.servers:
            stop(server)


@dataclass(frozen=True, slots=True)
class Construction:
    """What every sandbox of a run is made with.

    Attributes:
        root: the prepared host tree.
        identity: the caller's ids.
        namespace: fd of the builder's mount namespace, to return to.
        program: fd of init's program, or None.
        builder: fd of the builder's own pidfd.
        scripts: how inits are made without a copy of the builder.
    """

    root: HostRoot
    identity: Identity
    namespace: int
    program: int | None
    builder: int
    scripts: InitScripts

    def build(
        self,
        spec: Spec,
        plan: Plan,
        group: str = "",
        network: int | None = None,
        born: Callable[[int], None] = lambda _: None,
        writes: Operation | None = None,
    ) -> Built:
        """One sandbox for `spec`, mounted as `plan` says. Raises SetupError.

        Args:
            group: its directory in the v2 tree, empty if it has none.
            born: called with init's pid as soon as it is there, with its namespaces, and sets itself up.
            network: fd of the network namespace to be in, of a sandbox that exists; None: one of its own, or the builder's.
            writes: what takes its writes, where they go to a disk.
        """
        script = self.scripts.of(spec, plan) if network is None else None
        try:
            return self._build(spec, plan, (group, writes), script, network, born)
        except SetupError:
            if script is None or not script.not_executed:
                raise
        self.scripts.give_up()
        return self._build(spec, plan, (group, writes), None, network, born)

    def _build(
        self,
        spec: Spec,
        plan: Plan,
        own: tuple[str, Operation | None],
        script: InitScript | None,
        network: int | None,
        born: Callable[[int], None],
    ) -> Built:
        with _Pipe() as go, _Pipe() as status:
            built = self._clone_init(spec, plan, own, script, go, status, network)
            try:
                setns(self.namespace, CLONE_NEWNS)
                status.close_write()
                try:
                    self._admit(built.init_pid, spec, go.write)
                    born(built.init_pid)
                except (SetupError, BrokenPipeError):
                    if select.select([status.read], [], [], 0)[0]:  # it has ended before, and says why
                        _await(status.read, script)
                    raise
                _await(status.read, script)
            except BaseException:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(built.pidfd, signal.SIGKILL)
                # Until it has ended it may read the script, which the next one is to write.
                select.select([built.pidfd], [], [], _END)
                built.end()
                raise
        return built

    def _clone_init(
        self,
        spec: Spec,
        plan: Plan,
        own: tuple[str, Operation | None],
        script: InitScript | None,
        go: _Pipe,
        status: _Pipe,
        network: int | None,
    ) -> Built:
        """Init, waiting for `go`; the caller is left in the sandbox's copy of its mount namespace."""
        namespaces = ALL if spec.net.own else ALL & ~CLONE_NEWNET
        servers: list[int] = []
        upper = -1
        try:
            _step("unshare mount namespace", unshare, CLONE_NEWNS)
            servers = self.root.apply_outside(plan, *own)
            upper = os.open(UPPER, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if script is not None:
                pid, pidfd = _step("clone init", script.start, namespaces, go.read, go.write, status.write)
                return Built(pid, pidfd, upper, tuple(servers), plan)
            if network is None:
                pid, pidfd = _step("clone init", clone, namespaces)
            else:
                pid, pidfd = _step("clone init in another sandbox's network", clone_in_network, network, namespaces)
        except BaseException:
            setns(self.namespace, CLONE_NEWNS)
            if upper >= 0:
                os.close(upper)
            for server in servers:
                stop(server)
            raise
        if pid == 0:
            os.close(go.write)
            self._run_init(spec, plan, go.read, status.write)
        return Built(pid, pidfd, upper, tuple(servers), plan)

    def _admit(self, pid: int, spec: Spec, go: int) -> None:
        uids, gids = self.identity.maps(spec)
        try:
            write_id_maps(pid, uids, gids, setgroups=True)
        except OSError as error:
            hint = "give a user id that your user namespace maps (see /proc/self/uid_map)"
            raise SetupError.from_os_error("write id map", error, hint=hint) from None
        os.write(go, b"g")

    def _run_init(self, spec: Spec, plan: Plan, go: int, status: int) -> None:
        """Init's life before exec. Never returns; a failure goes to the builder as JSON."""
        try:
            set_parent_death_signal(signal.SIGKILL)
            if os.read(go, 1) != b"g":
                os._exit(1)
            os.setsid()
            if spec.net.own:
                _step("bring up loopback", loopback_up)
            if spec.hostname is not None:
                _step("sethostname", sethostname, spec.hostname)
            self.root.apply_inside(plan)
            os.write(status, _READY)  # before exec, which can't fail any more: the builder needn't wait for it
            become_init(self.program, self.builder)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the builder must hear of it
            known = error if isinstance(error, IsolateError) else SetupError("start init", detail=repr(error))
            os.write(status, json.dumps(known.to_json()).encode())
        finally:
            os._exit(1)


class _Pipe:
    """pipe(2), both ends closed at the end of the block."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.read)
        self.close_write()

    def close_write(self) -> None:
        if self.write >= 0:
            os.close(self.write)
            self.write = -1


def _step(name: str, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except OSError as error:
        raise SetupError.from_os_error(name, error) from None


def _await(status: int, script: InitScript | None) -> None:
    """Wait for init to be ready, or for its error. Raises SetupError."""
    data = os.read(status, 65536)
    if script is not None:  # at the end of file it has become its program, or failed
        if failure := script.failure():
            raise failure
        return
    if data == _READY:
        return
    while chunk := os.read(status, 65536):
        data += chunk
    if not data:
        raise SetupError("start init", detail="it was killed while it set up its namespaces")
    raise error_from_json(json.loads(data))
