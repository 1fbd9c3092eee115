"""The result of an examination, as data: what works, what works in a weaker way, what is missing, why, and what to type."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self, get_args

from pytest_isolate.machine.causes import Cause
from pytest_isolate.model.errors import MissingCapability

__all__ = ["SCHEMA", "Capability", "KeyState", "Place", "Report", "State"]

State = Literal["works", "weaker", "missing"]

SCHEMA: Final = 1
"""Number of the JSON form; another one is another form."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that sandboxes need, or can make use of.

    Attributes:
        name: as `MissingCapability`, `ISOLATE_REQUIRE` and skip reasons spell it.
        state: ``works``, ``weaker``, ``missing``.
        why: where it doesn't work: what the machine answered. Where it does: how.
        remedy: what to type; empty where there is nothing to mend, or nothing known.
        cause: a short name of the cause, for programs; empty where it works.
    """

    name: str
    state: State
    why: str = ""
    remedy: str = ""
    cause: str = ""

    @classmethod
    def missing(cls, name: str, cause: Cause) -> Self:
        return cls(name, "missing", cause.why, cause.remedy, cause.name)

    @classmethod
    def weaker(cls, name: str, cause: Cause) -> Self:
        return cls(name, "weaker", cause.why, cause.remedy, cause.name)

    def error(self, keys: list[str]) -> MissingCapability:
        """What a test that asks for it with `keys` is told."""
        return MissingCapability(self.name, keys, self.why, self.remedy)


@dataclass(frozen=True, slots=True)
class Place:
    """What the machine is recognised as, and what is special there."""

    name: str
    advice: str


@dataclass(frozen=True, slots=True)
class KeyState:
    """Whether a spec key will work now; `why` is empty where it does."""

    name: str
    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What one user of one machine can have, now.

    Attributes:
        version: of pytest-isolate.
        machine: the facts, as `Machine.to_json`.
        places: containers, WSL, continuous integration.
        capabilities: in the order in which a sandbox needs them; the last is ``sandbox``, a whole one.
        keys: in the order of the reference.
    """

    version: str
    machine: dict[str, Any]
    places: tuple[Place, ...]
    capabilities: tuple[Capability, ...]
    keys: tuple[KeyState, ...]

    @property
    def ready(self) -> bool:
        """Whether a bare ``@pytest.mark.isolate`` works."""
        return self["sandbox"].state != "missing"

    def __getitem__(self, name: str) -> Capability:
        """A capability by name. Raises KeyError."""
        for capability in self.capabilities:
            if capability.name == name:
                return capability
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "ready": self.ready, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Raises ValueError, KeyError or TypeError for what isn't the form `SCHEMA`."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}")
        report = cls(
            str(data["version"]),
            dict(data["machine"]),
            tuple(Place(**place) for place in data["places"]),
            tuple(Capability(**capability) for capability in data["capabilities"]),
            tuple(KeyState(**key) for key in data["keys"]),
        )
        for state in (*(entry.state for entry in report.capabilities), *(entry.state for entry in report.keys)):
            if state not in get_args(State):
                raise ValueError(f"state {state!r}")
        return report
