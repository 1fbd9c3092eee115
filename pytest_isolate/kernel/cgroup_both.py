"""The v1 hierarchies and the v2 tree of one machine behind one interface.

Each controller is in one of them: the kernel takes it out of v2 while a v1 hierarchy has it. A machine of
one version has an empty half here.
"""

from __future__ import annotations

from typing import Final

from pytest_isolate.kernel.cgroup_types import Caps, Group
from pytest_isolate.kernel.cgroup_v1 import V1Hierarchy
from pytest_isolate.kernel.cgroup_v2 import V2Hierarchy
from pytest_isolate.model.errors import IsolateError, MissingCapability

__all__ = ["BothHierarchies"]


class BothHierarchies:
    """Implements `cgroup_types.Hierarchy`."""

    def __init__(self, layout: str, v1: V1Hierarchy, v2: V2Hierarchy) -> None:
        self.layout: Final = layout
        self._v1: Final = v1
        self._v2: Final = v2

    @property
    def controllers(self) -> frozenset[str]:
        return self._v1.controllers | self._v2.controllers

    @property
    def lacking(self) -> dict[str, MissingCapability]:
        return {**self._v1.lacking, **self._v2.lacking}

    @property
    def run_directories(self) -> tuple[str, ...]:
        return self._v1.run_directories + self._v2.run_directories

    @property
    def unified(self) -> bool:
        return self._v2.unified

    @property
    def bases(self) -> tuple[str, ...]:
        return self._v1.bases + self._v2.bases

    def create_run(self, name: str) -> None:
        self._v1.create_run(name)
        self._v2.create_run(name)

    def create(self, box: str, caps: Caps) -> Group:
        if error := self.missing(caps):
            raise error
        first = self._v1.create(box, caps)
        try:
            second = self._v2.create(box, caps)
        except IsolateError:
            self._v1.remove(first)
            raise
        return Group(box, first.run or second.run, first.v1, first.io_counted, second.v2, second.peak_sampled)

    def missing(self, caps: Caps) -> MissingCapability | None:
        return self._v1.missing(caps) or self._v2.missing(caps)

    def remove(self, group: Group) -> bool:
        removed = [half.remove(group) for half in (self._v1, self._v2)]
        return all(removed)

    def remove_run(self) -> bool:
        removed = [half.remove_run() for half in (self._v1, self._v2)]
        return all(removed)

    def enter(self) -> None:
        self._v1.enter()
        self._v2.enter()

    def enter_back(self) -> None:
        self._v1.enter_back()
        self._v2.enter_back()

    def leave(self) -> None:
        self._v1.leave()
        self._v2.leave()
