"""The spec: what one sandbox is asked to be.

A `Spec` is frozen, hashable and JSON-able: the builder makes sandboxes ahead of need and matches them to
tests by equality. It holds only checked values in base units; the forms people type are `keys.KEYS`.
Contradictions between keys are found by `contradictions`, before anything is built.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

from pytest_isolate.model.budget import Budget, uncountable
from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.image import Code, Source, Stack
from pytest_isolate.model.net import Bandwidth, Net, Publish
from pytest_isolate.model.paths import within
from pytest_isolate.model.project import Project
from pytest_isolate.model.units import format_size

__all__ = ["IoLimit", "Spec", "absent", "contradictions"]

Env = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class IoLimit:
    """Throttle of the block device that holds `path` (None: the working directory), in bytes per second."""

    read: int | None = None
    write: int | None = None
    path: str | None = None


_NOWHERE: Final = Net()
_OF_BRIDGES: Final = ("publish", "bandwidth")
"""Keys that mean nothing with another network mode."""

_LONGEST_LABEL: Final = 63
"""Characters between two dots of a name in DNS (RFC 1035, 2.3.4); sethostname(2) takes 64."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One sandbox. Sizes in bytes, times in seconds, `cpu` in CPUs, paths absolute on the host.

    Attributes:
        cpu: CFS quota as a number of CPUs; None: no cap.
        memory: cap of the memory cgroup; None: no cap.
        swap: swap allowed on top of `memory`; None means 0 where `memory` is set.
        pids: most tasks at a time.
        disk: size of the writable layer's tmpfs; None: the kernel's default, half of the RAM.
        io: throttle of a block device.
        net: network mode, and what goes with it.
        publish: ports that the host can reach.
        bandwidth: the quality of the link.
        forward: which of the host's loopback servers are reachable inside: those of the test's wide ``fixtures``, or ``none``.
        timeout: from joining the sandbox to the end of the process's teardown.
        rootfs: what the root file system is made of, bottom to top; empty: the host's.
        upper: where the writable layer lives.
        writable: host paths passed through read-write.
        hide: paths that are empty inside.
        inputs: the only paths of the project that are there inside; empty: all of them.
        env: variables to set, or to remove where the value is None.
        hostname: None keeps the host's name (in a UTS namespace of its own all the same).
        user: ``self``, ``root``, or a user id.
        fixtures: where wide fixtures are set up: ``shared`` (in pytest) or ``inside``.
        leak: whether processes left behind are reported or fail the test.
        budget: limits by figure, in the figures' units: what is used beyond fails the test when it has run.
        scratch: with ``upper="disk"``: the directory that the writable layer lies below; empty until somebody looked it up.
        stack: what `rootfs` came to on this machine; None until somebody looked it up.
        code: what of the host appears in a root file system that isn't the host's; None: nothing, programs of its own run there.
        project: what `inputs` are of; None until somebody looked it up.
    """

    cpu: float | None = None
    memory: int | None = None
    swap: int | None = None
    pids: int | None = None
    disk: int | None = None
    io: IoLimit | None = None
    net: Net = _NOWHERE
    publish: tuple[Publish, ...] = ()
    bandwidth: Bandwidth | None = None
    forward: Literal["fixtures", "none"] = "fixtures"
    timeout: float | None = None
    rootfs: tuple[Source, ...] = ()
    upper: Literal["tmpfs", "disk"] = "tmpfs"
    writable: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    env: Env = ()
    hostname: str | None = None
    user: str | int = "self"
    fixtures: Literal["shared", "inside"] = "shared"
    leak: Literal["report", "fail"] = "report"
    budget: Budget = ()
    scratch: str = ""
    stack: Stack | None = None
    code: Code | None = None
    project: Project | None = None

    @property
    def foreign(self) -> bool:
        """Whether its root file system has nothing of the host's below its layers."""
        if self.stack is not None:
            return not self.stack.host
        return bool(self.rootfs) and self.rootfs[0].kind != "host"

    @property
    def upper_directory(self) -> str:
        """The directory of the host that its writable layer lies below; empty: it is a file system of its own."""
        return self.scratch if self.disk is None else ""

    def sandbox(self) -> Spec:
        """The part that the builder needs: equal for two tests whose sandboxes are interchangeable."""
        rooted: dict[str, Any] = {"rootfs": ()} if self.stack is not None else {}
        return replace(
            self, timeout=None, env=(), fixtures="shared", leak="report", budget=(), forward="fixtures", publish=(), **rooted
        )

    def without(self, keys: Iterable[str]) -> Spec:
        """This spec with `keys` at their defaults (``--isolate-missing=weaken``); ``budget.FIGURE`` is that limit alone."""
        defaults, keys = Spec(), set(keys)
        figures = {key.removeprefix("budget.") for key in keys if key.startswith("budget.")}
        given_up = {*(keys - {f"budget.{figure}" for figure in figures}), *(_OF_BRIDGES if "net" in keys else ())}
        figures |= {"net_rx", "net_tx"} if "net" in keys else set()
        budget = tuple(pair for pair in self.budget if pair[0] not in figures)
        return replace(self, **{"budget": budget, **{key: getattr(defaults, key) for key in given_up}})

    def to_json(self) -> dict[str, Any]:
        """Only what differs from a bare spec."""
        default = asdict(Spec())
        values = {name: value for name, value in asdict(self).items() if value != default[name]}
        if "net" in values:
            values["net"] = self.net.to_json()
        if "budget" in values:
            values["budget"] = dict(self.budget)
        return values

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Spec:
        known = {field.name for field in fields(cls)}
        return cls(**{name: _READERS.get(name, _as_it_is)(value) for name, value in data.items() if name in known})


def _as_it_is(value: Any) -> Any:
    return value


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "io": lambda value: value and IoLimit(**value),
    "net": Net.from_json,
    "bandwidth": lambda value: value and Bandwidth(**value),
    "publish": lambda value: tuple(Publish(**port) for port in value),
    "rootfs": lambda value: tuple(Source(**source) for source in value),
    "stack": lambda value: value and Stack.from_json(value),
    "code": lambda value: value and Code.from_json(value),
    "writable": tuple,
    "hide": tuple,
    "inputs": tuple,
    "project": lambda value: value and Project.from_json(value),
    "budget": lambda value: tuple(value.items()),
    "env": lambda value: tuple((name, content) for name, content in value),
}


def contradictions(spec: Spec) -> list[SpecError]:
    """Every pair of keys that can't both be meant, as `SpecError.key` joined by ``+``; the errors carry no place yet."""
    found = []
    if spec.disk is not None and spec.upper == "tmpfs" and spec.memory is not None and spec.disk > spec.memory + (spec.swap or 0):
        found.append(
            SpecError(
                "disk+memory",
                f"disk={format_size(spec.disk)} on a tmpfs is charged to memory={format_size(spec.memory)}: "
                "a test that fills its disk would be killed by the memory cap first",
                "disk no larger than memory (plus swap)",
            )
        )
    if spec.swap is not None and spec.memory is None:
        found.append(
            SpecError("swap+memory", f"swap={format_size(spec.swap)} without a memory cap caps nothing", 'memory="…" beside it')
        )
    return [*found, *_bad_network(spec), *_bad_paths(spec), *_bad_inputs(spec), *uncountable(spec)]


def absent(spec: Spec) -> list[SpecError]:
    """What `spec` is made of and isn't there on this machine; the errors carry no place yet."""
    return [
        SpecError("rootfs", f"{source} doesn't exist", "a path that is there before the tests run")
        for source in spec.rootfs
        if source.kind not in ("host", "layer", "recipe", "fixture") and not os.path.exists(source.path)
    ]


def _bad_network(spec: Spec) -> list[SpecError]:
    found = []
    if spec.publish and spec.net.mode != "bridge":
        ports = ", ".join(map(str, spec.publish))
        found.append(
            SpecError(
                "net+publish", f'publish={ports} reaches a sandbox on a bridge, and net is "{spec.net}"', 'net="bridge" beside it'
            )
        )
    if spec.net.mode == "bridge" and any(not 1 <= len(label) <= _LONGEST_LABEL for label in (spec.hostname or "-").split(".")):
        found.append(
            SpecError("hostname+net", f"{spec.hostname!r} can't be looked up: on a bridge network it is a name of DNS",
                      f"labels of 1 to {_LONGEST_LABEL} characters, with a dot between")
        )  # fmt: skip
    if spec.bandwidth and spec.net.mode != "bridge":
        found.append(
            SpecError("bandwidth+net", f'bandwidth={spec.bandwidth} shapes a link to a bridge, and net is "{spec.net}"',
                      'net="bridge" beside it')
        )  # fmt: skip
    return found


def _bad_paths(spec: Spec) -> list[SpecError]:
    found = []
    for path in spec.writable:
        if path == "/":
            found.append(SpecError("writable", "'/' would make the whole host writable", "paths below /"))
        for tree in ("/proc", "/sys", "/dev"):
            if within(path, tree):
                found.append(
                    SpecError("writable", f"{path!r} lies in {tree}, which each sandbox has of its own",
                              "paths outside /proc, /sys and /dev")
                )  # fmt: skip
        for hidden in spec.hide:
            if within(hidden, path) or within(path, hidden):
                found.append(
                    SpecError("hide+writable", f"hide={hidden!r} and writable={path!r} contain one another",
                              "paths that don't overlap")
                )  # fmt: skip
    for hidden in spec.hide:
        if hidden in ("/", "/proc", "/sys", "/dev"):
            found.append(SpecError("hide", f"{hidden!r} can't be hidden: no program runs without it", "other paths"))
    return found


def _bad_inputs(spec: Spec) -> list[SpecError]:
    """What takes a whole input away. Inside of one, `writable` makes a part real and `hide` cuts a part out."""
    found = []
    for key, name, others, does in (
        ("inputs+writable", "writable", spec.writable, "makes the host's own of all of"),
        ("hide+inputs", "hide", spec.hide, "hides all of"),
    ):
        for other in others:
            for path in spec.inputs:
                if within(path, other):
                    found.append(
                        SpecError(
                            key, f"{name}={other!r} {does} inputs={path!r}", f"{name} of paths in inputs, or outside of them"
                        )
                    )
    return found
