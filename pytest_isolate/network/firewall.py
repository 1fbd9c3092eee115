"""Which firewall of the host is in the way of forwarded packets, and what to type. Asked only after a packet was lost.

Rules can't be judged by reading them: whether packets pass is found by sending one (`veth_uplink`). Here those that may
have dropped it are named: base chains at the forward hook, with Docker, ufw and firewalld recognised by their chains.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress

from pytest_isolate.network.nft import NftSocket, ReadChain
from pytest_isolate.network.nft_rules import FORWARD

__all__ = ["suspects"]


def suspects(nft: NftSocket | None, own: str, interfaces: str) -> tuple[str, str]:
    """What was found and what to type. Runs on a thread in the host's network namespace.

    Args:
        nft: None where the kernel has no nf_tables.
        own: name of our table.
        interfaces: what the names of uplinks begin with.
    """
    chains: list[ReadChain] = []
    if nft is not None:
        with suppress(OSError):
            chains = nft.chains()
    hooked = [chain for chain in chains if chain.hook == FORWARD and chain.table != own]
    blamed = [chain for chain in hooked if chain.policy == "drop"] or hooked
    found = [f"nft chain {chain.family} {chain.table} {chain.name} (policy {chain.policy})" for chain in blamed]
    legacy = _legacy()
    found += [f"iptables-legacy {rule}" for rule in legacy if rule.startswith("-P") and "DROP" in rule]
    names = {chain.name for chain in chains} | {rule.split()[1] for rule in legacy}
    program = "iptables-legacy" if legacy and not hooked else "iptables"
    if "DOCKER-USER" in names:
        return _said("Docker's", found), _iptables(program, "DOCKER-USER", interfaces)
    if "ufw-before-forward" in names:
        return _said("ufw's", found), _iptables(program, "ufw-before-forward", interfaces)
    if legacy and not hooked:
        return _said("iptables'", found), _iptables(program, "FORWARD", interfaces)
    owner = "firewalld's" if any(chain.table == "firewalld" for chain in hooked) else "nftables'"
    rules = [
        f"nft insert rule {chain.family} {chain.table} {chain.name} {key} '{interfaces}*' accept"
        for chain in blamed
        for key in ("iifname", "oifname")
    ]
    return _said(owner, found), "; ".join(rules) or f"let the host's firewall forward from and to interfaces {interfaces}*"


def _said(owner: str, found: list[str]) -> str:
    return f"a firewall of this host drops forwarded packets: {owner} {', '.join(found) or 'rules'}"


def _iptables(program: str, chain: str, interfaces: str) -> str:
    return "; ".join(f"{program} -I {chain} {flag} {interfaces}+ -j ACCEPT" for flag in ("-i", "-o"))


def _legacy() -> list[str]:
    """Chains and rules of the filter table of the older iptables, which the kernel keeps apart from nf_tables."""
    with suppress(OSError), open("/proc/thread-self/net/ip_tables_names", encoding="ascii") as file:
        if "filter" in file.read().split() and (program := shutil.which("iptables-legacy", path=f"{os.defpath}:/usr/sbin:/sbin")):
            done = subprocess.run([program, "-S"], capture_output=True, text=True, check=False)
            return [line for line in done.stdout.splitlines() if line.startswith(("-P", "-N", "-A"))]
    return []
