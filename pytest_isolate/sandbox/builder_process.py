"""The builder seen from pytest: a child process, its channel, the answers that have come.

What only its answers need is imported when they come: pytest loads it while the builder starts up.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_isolate.kernel.cgroup_runs import run_name
from pytest_isolate.kernel.channel import pair
from pytest_isolate.kernel.fresh_interpreter import start
from pytest_isolate.model.errors import SandboxGone, error_from_json
from pytest_isolate.sandbox.command import own_command

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec
    from pytest_isolate.sandbox.sandbox import Placement

__all__ = ["BuilderProcess", "Facts"]

_GOODBYE: Final = 15.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What isolation is in force.

    Attributes:
        mode: whether the builder works as real root or in a user namespace of the run.
        controllers: which caps can be set: ``cpu``, ``memory``, ``pids``, ``io``.
        cgroup: ``v1``, ``hybrid``, ``v2`` or ``none``.
        namespaces: the kinds that every sandbox has of its own.
        missing: why not, by capability name.
        remedies: what helps, by the same names.
        disk_path: a path inside a sandbox that lies on its writable layer.
    """

    mode: Literal["root", "rootless"]
    controllers: tuple[str, ...]
    cgroup: str
    namespaces: tuple[str, ...]
    missing: dict[str, str]
    remedies: dict[str, str]
    disk_path: str = "/"


class BuilderProcess:
    """Starts a builder's interpreter and doesn't wait for it; `set_up` tells it what to do.

    Args:
        tmp: where its workspace goes.
        cgroup: a delegated cgroup directory.

    Attributes:
        is_set_up: it has been told.
        notes: what the user should know of the machine's networks, a sentence each.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, tmp: str, cgroup: str | None) -> None:
        self._channel, theirs = pair()
        # The channel's fd tells apart the runs that one process has at a time.
        self._run = run_name(os.getpid(), self._channel.fileno())
        self._tmp, self._delegated = tmp, cgroup
        self._log = os.memfd_create("pytest-isolate-builder")
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        with theirs:
            self._process = start("pytest_isolate.sandbox.builder", theirs.fileno(), self._log)
        self.is_set_up = False
        self.notes: dict[str, None] = {}
        self._facts: Facts | None = None
        self._cgroups: list[str] | None = None
        self._described: dict[Spec, dict[str, Any]] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._unwanted: set[int] = set()
        self._questions = 0
        self._waiting: set[int] = set()
        self._handed_out: set[int] = set()
        self._released: list[int] = []
        self._hub: tuple[int, int] | None = None

    def set_up(self, *, cwd: str, places: Sequence[str], trees: Sequence[str], refused: str = "", uplink: str = "auto") -> None:
        """Tell it what all sandboxes share, once: see `Builder`.

        Args:
            refused: why there is no cgroup to work in, as far as that is known already.
            uplink: how bridge networks reach the outside.
        """
        self.is_set_up = True
        networks = {"uplink": uplink, "libraries": _libraries()}
        about = {"run": self._run, "tmp": self._tmp, "cgroup": self._delegated, "command": own_command(), "refused": refused}
        self._send({"op": "setup", **about, "cwd": cwd, "places": list(places), "trees": list(trees), **networks})

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def facts(self) -> Facts:
        """Its greeting, waited for once. Raises what it refused with, or SandboxGone."""
        if self._facts is None:
            message, _fds = self._receive()
            if "error" in message:
                raise error_from_json(message["error"])
            hello = message["hello"]
            self._facts = Facts(
                mode=hello["mode"],
                controllers=tuple(hello["controllers"]),
                cgroup=hello["cgroup"],
                namespaces=tuple(hello["namespaces"]),
                missing=hello["missing"],
                remedies=hello["remedies"],
                disk_path=message["disk_path"],
            )
            self._cgroups = message["remains"]["cgroups"]
        return self._facts

    def order(self, number: int, spec: Spec, join: int | None = None, kept: str | None = None) -> None:
        """Have a sandbox built under `number`, in the network of sandbox `join`, with what another one wrote (see `Sandbox.keep`)."""
        if (described := self._described.get(spec)) is None:
            described = self._described[spec] = spec.to_json()
        self._send({"op": "build", "n": number, "spec": described, "join": join, "kept": kept})

    def ask(self, what: str, number: int, about: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        """A question about sandbox `number`, answered at once.

        Returns:
            The answer; ``fds`` in it are descriptors that came along, the caller's from now on.

        Raises:
            IsolateError: what it is answered with, or SandboxGone.
        """
        self._questions += 1
        self._send({"op": "ask", "a": self._questions, "what": what, "n": number, **about}, fds)
        while True:
            message, received = self._receive()
            if message.get("a") == self._questions:
                break
            self._keep(message, received)
        if "error" in message:
            raise error_from_json(message["error"])
        return {**message, "fds": received}

    def sample(self, number: int, file: int, *, since: float, interval: float) -> None:
        """Have it append rows of `model.samples` to `file` every `interval` seconds, until sandbox `number` is released."""
        self._send({"op": "sample", "n": number, "since": since, "interval": interval}, (file,))

    def answer(self, number: int) -> dict[str, Any]:
        """The answer to order `number`; answers to others are kept. Raises SandboxGone."""
        while number not in self._answers:
            self._keep(*self._receive())
        return self._answers.pop(number)

    def _keep(self, message: dict[str, Any], fds: list[int]) -> None:
        """An answer to some order; one to a question whose asker was interrupted is nobody's."""
        if "a" in message:
            for fd in fds:
                os.close(fd)
            return
        if fds:
            message["pidfd"] = fds[0]
            self._waiting.add(fds[0])
        if message["n"] in self._unwanted:
            self._unwanted.discard(message["n"])
            self._drop(message)
        else:
            self._answers[message["n"]] = message

    def placement(self, number: int, spec: Spec, answer: dict[str, Any]) -> Placement:
        """The sandbox that `answer` tells of, for a test with `spec`."""
        from pytest_isolate.kernel.cgroup import Group
        from pytest_isolate.network.attachment import Address
        from pytest_isolate.sandbox.entry import Entrance
        from pytest_isolate.sandbox.sandbox import Placement

        facts = self.facts()
        self.notes.update(dict.fromkeys(answer["notes"]))
        self._waiting.discard(answer["pidfd"])
        self._handed_out.add(answer["pidfd"])
        described = Group.from_json(answer["group"])
        group = described if described.directories() else None
        entrance = Entrance(
            spec=spec,
            builder=self,
            pidfd=answer["pidfd"],
            group=group,
            rootless=facts.mode == "rootless",
            own_pid_namespace=self._pid_namespace,
        )
        address = Address.from_json(answer["address"]) if "address" in answer else None
        return Placement(number, answer["init"], group, facts.disk_path, entrance, address, disk_begin=answer.get("disk", 0))

    def has_network(self, answer: dict[str, Any]) -> bool:
        """Whether the process still lives, the hub, that holds the bridge which the sandbox was linked to; so too if it was linked to none."""
        if (pid := answer.get("hub")) is None:
            return True
        if self._hub is None or self._hub[0] != pid:
            self._forget_hub()
            try:
                self._hub = pid, os.pidfd_open(pid)
            except ProcessLookupError:
                return False
        return not select.select([self._hub[1]], [], [], 0)[0]

    def _forget_hub(self) -> None:
        if self._hub is not None:
            os.close(self._hub[1])
            self._hub = None

    def discard(self, number: int) -> None:
        """Give up an order, answered or not."""
        if (message := self._answers.pop(number, None)) is not None:
            self._drop(message)
        else:
            self._unwanted.add(number)
        self._send({"op": "release", "n": number})

    def give_back(self, number: int, answer: dict[str, Any]) -> None:
        """A sandbox that was answered for, and that nobody will use."""
        self._drop(answer)
        self._send({"op": "release", "n": number})

    def _drop(self, message: dict[str, Any]) -> None:
        if "pidfd" in message:
            self._waiting.discard(message["pidfd"])
            os.close(message["pidfd"])

    def release(self, number: int, pidfd: int) -> None:
        """Take back a sandbox that was handed out; `remove_released` removes it."""
        self._handed_out.discard(pidfd)
        os.close(pidfd)
        self._released.append(number)

    def remove_released(self) -> None:
        """Have what was taken back removed."""
        while self._released:
            self._send({"op": "release", "n": self._released.pop(0)})

    def _send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        with suppress(OSError):  # the answer that never comes tells of a dead builder
            self._channel.send(message, fds)

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        if (received := self._channel.receive()) is None:
            raise SandboxGone(
                f"the builder (pid {self.pid}) ended: {self._last_words()}", "see above; the next test starts another"
            )
        return received

    def _last_words(self) -> str:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its channel"
        text = os.pread(self._log, 65536, 0).decode(errors="replace").strip()
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return f"{how}\n{text}" if text else how

    def close(self) -> None:
        """End it and everything it made; remove what it left if it was killed."""
        if self.is_set_up:
            self._send({"op": "close"})
        self._channel.close()
        try:
            code = self._process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._close_own_fds()
        if code != 0:
            self._clean_up()

    def _clean_up(self) -> None:
        from pytest_isolate.kernel.cgroup import clean_up, detect
        from pytest_isolate.sandbox.workspace import remove_workspace

        clean_up(self._cgroup_directories())
        detect(self._delegated).leave()
        remove_workspace(os.path.join(self._tmp, self._run))

    def _cgroup_directories(self) -> list[str]:
        """The run's subtrees, also of a builder that was killed before it could name them."""
        from pytest_isolate.kernel.cgroup import detect

        if self._cgroups is None:
            self._cgroups = [f"{base}/{self._run}" for base in detect(self._delegated).bases]
        return self._cgroups

    def close_fds(self) -> None:
        """In a forked child: close every fd, leaving builder and sandboxes to the parent."""
        self._close_own_fds()
        for fd in self._handed_out:
            os.close(fd)

    def _close_own_fds(self) -> None:
        """All but the pidfds of sandboxes in use, which their handles close."""
        self._channel.close()
        self._forget_hub()
        for fd in (self._log, self._pid_namespace, *self._waiting):
            os.close(fd)


def _libraries() -> list[str]:
    """Where pyroute2 and filelock are, without importing them; the builder's interpreter starts without site-packages."""
    found = []
    for name in ("pyroute2", "filelock"):
        for path in sys.path:
            # An empty entry is the working directory, which may be gone; then nothing is found in it.
            if os.path.isdir(os.path.join(path, name)):
                found.append(os.path.abspath(path))
                break
    return list(dict.fromkeys(found))
