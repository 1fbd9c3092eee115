"""The builder: a small process of its own that makes sandboxes ahead of need and removes what they leave.

It is a fresh interpreter, not a fork of pytest, so that its forks are cheap and no test code or thread is
in it. It runs in its own session, ignores SIGINT, and watches pytest through a pidfd that pytest itself
passed: when pytest ends, by SIGKILL too, it kills every init, removes the cgroups and its directory, and
exits. Its own death ends every sandbox, because each init watches it; what it can't remove then, pytest
does (see `Pool.close`), or the next run (`sweep`).

Messages in:  {"op": "setup", …} once; {"op": "build", "n", "spec", "join", "kept"}; {"op": "release", "n"}; {"op": "ask", "a", "what", "n", …};
              {"op": "sample", "n", "since", "interval"} with the file for the rows
Messages out: {"hello": facts} or {"error"}; per build {"n", "init", "group"} with init's pidfd, or {"n", "error", "again"}; per question {"a", …}, descriptors beside it
"""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_isolate.kernel.cgroup import Caps, Group, Hierarchy, detect, sweep_stale
from pytest_isolate.kernel.channel import Channel
from pytest_isolate.kernel.fresh_interpreter import ignore_terminal
from pytest_isolate.kernel.mounts import MS_PRIVATE, MS_REC, mount
from pytest_isolate.kernel.namespaces import NAMES
from pytest_isolate.model.errors import IsolateError, SetupError
from pytest_isolate.model.net import Net
from pytest_isolate.model.spec import Spec
from pytest_isolate.rootfs.foreign import plan_of, prepare
from pytest_isolate.rootfs.host import HostRoot
from pytest_isolate.rootfs.plan import Plan
from pytest_isolate.sandbox.construct import Built, Construction
from pytest_isolate.sandbox.identity import Identity, enter_run_namespace
from pytest_isolate.sandbox.init import open_program
from pytest_isolate.sandbox.init_script import InitScripts
from pytest_isolate.sandbox.networks import Networks, network_namespace
from pytest_isolate.sandbox.paths import Files, files_of
from pytest_isolate.sandbox.scratch import Scratch, remove
from pytest_isolate.sandbox.workspace import Workspace, sweep_workspaces

if TYPE_CHECKING:
    from pytest_isolate.sandbox.sampler import Sampler

__all__ = ["main"]

_REMOVAL_PAUSE: Final = 0.02
_LAST_REMOVALS: Final = 5.0
_MOST_DOOMED: Final = 32
"""Sandboxes whose cgroups may wait for a moment without messages, which a run of very short tests doesn't have."""
_JOIN: Final = "join the network of another sandbox"


class _Live(NamedTuple):
    """A sandbox in use; `net` is whose network it is in: its own, or that of the sandbox that it joined."""

    built: Built
    group: Group
    spec: Spec
    net: Net


class Builder:
    """One run's sandboxes.

    Args:
        channel: to pytest.
        parent: pidfd of pytest.
        setup: the first message: run, tmp, cwd, cgroup, command, refused, places, trees, uplink, libraries.
    """

    def __init__(self, channel: Channel, parent: int, setup: dict[str, Any]) -> None:
        self._channel = channel
        self._cwd: str = setup["cwd"]
        self._live: dict[int, _Live] = {}
        self._doomed: deque[tuple[Group, str]] = deque()  # and the directory of what it wrote to a disk
        self._scratch = Scratch(setup["run"])
        self._sampler: Sampler | None = None
        self._plans: dict[str, tuple[Spec, Caps, Plan, Files]] = {}
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._poll.register(parent, select.POLLIN)
        self._parent = parent
        self._hierarchy: Hierarchy = detect(setup["cgroup"], setup["command"], setup["refused"])
        self._workspace = Workspace(setup["tmp"], setup["run"])
        try:
            self._hierarchy.create_run(setup["run"])
            self._hierarchy.enter()
            self._construction = self._prepare(setup["places"], setup["trees"])
            self._scratch = Scratch(setup["run"], rootless=self._construction.identity.rootless)
            self._networks = Networks(
                setup["run"], self._workspace.path, rootless=self._construction.identity.rootless, uplink=setup["uplink"],
                libraries=setup["libraries"], builder=self._construction.builder,
            )  # fmt: skip
        except BaseException:
            self._clean_up()
            raise
        sweep_stale(self._hierarchy.bases)
        sweep_workspaces(setup["tmp"])

    def _prepare(self, places: list[str], trees: list[str]) -> Construction:
        identity = enter_run_namespace()
        _step("make mounts private", mount, "none", "/", "", MS_REC | MS_PRIVATE)
        root = HostRoot.prepare(
            self._workspace.path, rootless=identity.rootless, places=places, trees=trees, unified=self._hierarchy.unified
        )
        self._hello(identity, root)
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        program, own = open_program(), os.pidfd_open(os.getpid())
        return Construction(root, identity, namespace, program, own, InitScripts(self._workspace.path, program, own))

    def _hello(self, identity: Identity, root: HostRoot) -> None:
        hierarchy = self._hierarchy
        facts = {
            "mode": "rootless" if identity.rootless else "root",
            "controllers": sorted(hierarchy.controllers),
            "cgroup": hierarchy.layout,
            "namespaces": list(NAMES),
            "missing": {name: error.why for name, error in hierarchy.lacking.items()},
            "remedies": {name: error.hint for name, error in hierarchy.lacking.items()},
        }
        remains = {"workspace": self._workspace.path, "cgroups": hierarchy.run_directories}
        self._channel.send({"hello": facts, "disk_path": root.disk_path, "remains": remains})

    def serve(self) -> None:
        """Until pytest closes the channel or ends."""
        with suppress(BrokenPipeError, ConnectionResetError):
            while (received := self._receive()) is not None:
                message, fds = received
                match message["op"]:
                    case "build":
                        self._build(message["n"], message["spec"], message.get("join"), message.get("kept"))
                    case "release":
                        self._release(message["n"])
                    case "ask":
                        self._ask(message, fds)
                    case "sample":
                        self._sample(message, fds[0])
                    case _:
                        return

    def _receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message; cgroups of released sandboxes are removed while there is none, and samples taken."""
        while not (ready := self._poll.poll(self._pause())):
            self._remove_doomed()
        if any(fd == self._parent for fd, _ in ready):
            return None
        return self._channel.receive()

    def _pause(self) -> float | None:
        """How long a message may be waited for, in milliseconds."""
        pause = _REMOVAL_PAUSE if self._doomed else None
        if self._sampler is not None and (due := self._sampler.step()) is not None:
            pause = due if pause is None else min(due, pause)
        return None if pause is None else pause * 1000

    def _sample(self, message: dict[str, Any], file: int) -> None:
        if self._sampler is None:
            from pytest_isolate.sandbox.sampler import Sampler

            self._sampler = Sampler()
        if (live := self._live.get(message["n"])) is None:
            os.close(file)
        else:
            self._sampler.begin(message["n"], live.group, file, since=message["since"], interval=message["interval"])

    def _build(self, number: int, described: dict[str, Any], join: int | None, kept: str | None) -> None:
        group = None
        built = None
        try:
            owner = self._owner(join)
            spec, caps, _plan = self._planned(described, owner)
            group = self._hierarchy.create(str(number), caps)
            built = self._construct(
                described, (number, group, kept), owner, lambda init: self._networks.begin(number, spec, init)
            )
            wired = {**self._networks.finish(), **_capped(built, spec)}
        except (IsolateError, OSError) as error:
            self._networks.give_up()
            if built is not None:
                built.end()
            if group is not None:
                self._doomed.append((group, ""))
            self._channel.send({"n": number, "error": _known(error, "build").to_json(), "again": self._networks.lost})
            return
        self._live[number] = _Live(built, group, spec, owner.net if owner is not None else spec.net)
        answer = {"n": number, "init": built.init_pid, "group": group.to_json(), "notes": self._networks.notes(), **wired}
        self._channel.send(answer, (built.pidfd,))

    def _owner(self, number: int | None) -> _Live | None:
        """The sandbox whose network is to be joined, None if none is. Raises SetupError."""
        if number is None:
            return None
        if number not in self._live:
            raise SetupError(_JOIN, detail="it has ended")
        return self._live[number]

    def _construct(
        self, described: dict[str, Any], own: tuple[int, Group, str | None], owner: _Live | None, born: Callable[[int], None]
    ) -> Built:
        number, group, kept = own
        with _network_of(owner) as network:
            spec, _caps, plan = self._planned(described, owner)
            try:
                with self._scratch.made(spec.scratch, number, spec.disk) as writes:
                    return self._construction.build(spec, self._begun(plan, kept), group.v2, network, born, writes)
            except SetupError as error:
                if error.errno != errno.ENOENT:
                    raise
            # Something that the plan mounts is gone since it was made: another plan goes without it.
            self._plans.clear()
            spec, _caps, plan = self._planned(described, owner)
            with self._scratch.made(spec.scratch, number, spec.disk) as writes:
                return self._construction.build(spec, self._begun(plan, kept), group.v2, network, born, writes)

    def _begun(self, plan: Plan, kept: str | None) -> Plan:
        """`plan`, its writable layer beginning as a directory that was kept of another sandbox. Raises SetupError."""
        if kept is None:
            return plan
        from pytest_isolate.rootfs.kept import reopened

        return reopened(plan, kept, rootless=self._construction.identity.rootless)

    def _ask(self, message: dict[str, Any], fds: list[int]) -> None:
        """A question about one sandbox. The pytest process waits for the answer."""
        given: tuple[int, ...] = ()
        try:
            answer, given = self._answer(message, fds)
        except KeyError:
            answer = {"error": SetupError(message["what"], detail="the sandbox has ended").to_json()}
        except (IsolateError, OSError) as error:
            answer = {"error": _known(error, message["what"]).to_json()}
        finally:
            for fd in fds:
                os.close(fd)
        self._channel.send({"a": message["a"], **answer}, given)
        for fd in given:
            os.close(fd)

    def _answer(self, message: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], tuple[int, ...]]:
        """The answer and its descriptors. Raises KeyError, IsolateError, OSError."""
        built = self._live[message["n"]].built
        match message["what"]:
            case "changes":
                from pytest_isolate.sandbox.written import answer_changes

                return {}, (answer_changes(built, self._workspace.path),)
            case "keep":
                from pytest_isolate.sandbox.written import answer_keep

                rootless = self._construction.identity.rootless
                return {}, (answer_keep(built, self._workspace.path, message, fds[0], rootless=rootless),)
            case "size":
                from pytest_isolate.rootfs.changes import trees_of
                from pytest_isolate.sandbox.sizes import size_of

                numbers = [str(tree.number) for tree in trees_of(built.plan, "")]
                return {"size": size_of(built.upper, numbers)}, ()
            case "written":
                from pytest_isolate.sandbox.written import directories_of

                return directories_of(built)
            case _:
                return self._network_answer(message, fds), ()

    def _network_answer(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        number = message["n"]
        built, _group, spec, _net = self._live[number]
        match message["what"]:
            case "activate":
                return self._networks.activate(number, spec, built.init_pid, message, fds)
            case "contacts" | "unpublish" as operation:
                return self._networks.ask(operation, number)
            case operation:
                other = self._live[message["m"]].built
                return self._networks.partition(operation, (number, built.init_pid), (message["m"], other.init_pid))

    def _planned(self, described: dict[str, Any], owner: _Live | None) -> tuple[Spec, Caps, Plan]:
        """Caps and mounts of a spec: the same for each of its sandboxes while its paths are the same files. Raises IsolateError, and tries again then."""
        net = owner.net if owner is not None else None
        text = json.dumps([described, net.to_json() if net is not None else None], sort_keys=True)
        if (known := self._plans.get(text)) is None or known[3] != files_of(known[0]):
            spec = Spec.from_json(described)
            files = files_of(spec)
            caps, resolver = Caps.of(spec, self._cwd), self._networks.resolver(net or spec.net)
            root = self._construction.root
            prepare(root, spec)
            known = self._plans[text] = (spec, caps, plan_of(root, spec, resolver), files)
        else:
            self._networks.resolver(net or known[0].net)  # another hub than that of the plan has another gateway
        return known[:3]

    def _release(self, number: int) -> None:
        if (known := self._live.pop(number, None)) is not None:
            if known.spec.scratch and known.spec.disk is not None:
                from pytest_isolate.sandbox.capped import give_up

                give_up(known.built.upper)
            known.built.end()
            if self._sampler is not None:
                self._sampler.end(number)
            self._networks.release(number)
            self._doomed.append((known.group, self._scratch.path(known.spec.scratch, number, known.spec.disk)))
            self._remove_doomed(min(len(self._doomed) - _MOST_DOOMED, 2))

    def _remove_doomed(self, count: int | None = None) -> None:
        """The first `count` ones, by default all, as far as nothing in them is still dying."""
        for _ in range(len(self._doomed) if count is None else count):
            group, written = self._doomed.popleft()
            if not self._removed(group):
                self._doomed.append((group, written))
            elif written:
                remove(written)

    def _removed(self, group: Group) -> bool:
        """Whether nothing more can be done: refused for good counts, `end` and the next run's sweep try again."""
        try:
            return self._hierarchy.remove(group)
        except OSError:
            return True

    def end(self) -> None:
        """Kill every init, remove cgroups and workspace; gives up on what stays busy for five seconds."""
        for number in list(self._live):
            self._release(number)
        self._networks.close()
        self._clean_up()

    def _clean_up(self) -> None:
        """Remove what setting up made."""
        self._hierarchy.enter_back()
        deadline = time.monotonic() + _LAST_REMOVALS
        with suppress(OSError):
            while not self._hierarchy.remove_run() and time.monotonic() < deadline:
                time.sleep(_REMOVAL_PAUSE / 4)
        self._hierarchy.leave()
        self._scratch.end()
        self._workspace.remove()


def _capped(built: Built, spec: Spec) -> dict[str, Any]:
    """``disk``: bytes in use of the file system that its writes go to, if it has one on a disk. Raises SetupError."""
    if not spec.scratch or spec.disk is None:
        return {}
    from pytest_isolate.sandbox.capped import cap

    return {"disk": cap(built.upper, spec.disk)}


@contextmanager
def _network_of(owner: _Live | None) -> Iterator[int | None]:
    """fd of the network namespace of a sandbox that is alive, None for none. Raises SetupError."""
    if owner is None:
        yield None
        return
    try:
        fd = network_namespace(owner.built.init_pid)
    except OSError:
        raise SetupError(_JOIN, detail="it has ended") from None
    try:
        yield fd
    finally:
        os.close(fd)


def _step(name: str, function: Any, *args: Any) -> None:
    try:
        function(*args)
    except OSError as error:
        raise SetupError.from_os_error(name, error) from None


def _known(error: IsolateError | OSError, step: str) -> IsolateError:
    """`error` with its cause on this machine, which is looked for only now that something failed."""
    from pytest_isolate.machine.explain import explained

    return explained(error if isinstance(error, IsolateError) else SetupError.from_os_error(step, error))


def main(argv: list[str]) -> None:
    """Args: the channel's fd, the pidfd of pytest."""
    ignore_terminal()
    channel = Channel(socket.socket(fileno=int(argv[0])))
    parent = int(argv[1])
    os.set_inheritable(parent, False)
    os.set_inheritable(channel.fileno(), False)
    first = channel.receive()
    if first is None:
        return
    try:
        builder = Builder(channel, parent, first[0])
    except (IsolateError, OSError) as error:
        with suppress(OSError):
            channel.send({"error": _known(error, "start the builder").to_json()})
        return
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # ended inits are reaped by the kernel; it stays so over init's exec, which relies on it
    # Collections would only touch, and so copy, what every init shares with its parent until exec.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        builder.serve()
    finally:
        builder.end()
    os._exit(0)  # pytest waits for it: taking down the interpreter would only take time


if __name__ == "__main__":
    main(sys.argv[1:])
