"""The whole examination: about half a second, leaves nothing behind."""

from __future__ import annotations

from pytest_isolate import __version__
from pytest_isolate.kernel.cgroup import detect
from pytest_isolate.machine.reading import read_machine
from pytest_isolate.machine.remedies import advice
from pytest_isolate.probe.bridges import probe_bridges
from pytest_isolate.probe.capability import Place, Report
from pytest_isolate.probe.disks import probe_disks
from pytest_isolate.probe.keys import key_states
from pytest_isolate.probe.links import probe_links
from pytest_isolate.probe.namespaces import probe_namespaces
from pytest_isolate.probe.resources import CONTROLLERS, probe_cgroups, probe_instructions, probe_kernel_log, probe_subordinate_ids
from pytest_isolate.probe.trial import try_sandbox

__all__ = ["examine"]


def examine(delegated: str | None = None) -> Report:
    """Try everything that sandboxes need.

    The caller must have one thread: its children fork on.

    Args:
        delegated: ``--isolate-cgroup``.

    Raises:
        OSError: no child process can be made.
        SpecError: `delegated` can't be meant.
    """
    detect(delegated)  # for the SpecError
    machine = read_machine()
    namespaces = tuple(probe_namespaces(machine))
    nets = any(found.name == "net-namespace" and found.state == "works" for found in namespaces)
    userns = namespaces[0].state == "works"
    capabilities = (
        *namespaces,
        probe_subordinate_ids(machine, userns=userns),
        *probe_cgroups(machine, delegated),
        probe_kernel_log(),
        probe_instructions(machine),
        *probe_disks(userns=userns),
        *probe_bridges(net=nets),
        *probe_links(net=nets),
        try_sandbox(delegated),
    )
    states = {capability.name: capability.state for capability in capabilities}
    caps = all(states[f"cgroup-{name}"] == "works" for name in CONTROLLERS)
    places = advice(machine, works=states["sandbox"] != "missing", caps=caps)
    return Report(
        __version__, machine.to_json(), tuple(Place(*place) for place in places), capabilities, key_states(capabilities)
    )
