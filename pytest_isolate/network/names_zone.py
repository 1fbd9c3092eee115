"""What one network's sandboxes are called: the records that the name server answers from."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeVar

from pytest_isolate.network.names_message import (
    AAAA,
    ANY,
    NXDOMAIN,
    PTR,
    A,
    Address,
    Name,
    Query,
    answer,
    refusal,
    reversed_address,
)

__all__ = ["Zone"]

_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")


class Zone:
    """The names of one network. Changed by one thread while another one asks.

    Attributes:
        recurse: what isn't known here is asked elsewhere.
        subnets: of the network: who is answered; empty: everybody.
    """

    def __init__(self, network: Name, search: Iterable[Name]) -> None:
        self.recurse = False
        self.subnets: tuple[IPv4Network | IPv6Network, ...] = ()
        self._network = network
        self._domains = (network, *search)
        self._addresses: dict[Name, list[Address]] = {}
        self._names: dict[Address, list[Name]] = {}
        self._turn = 0
        self._lock = threading.Lock()

    def add(self, names: Sequence[Name], addresses: Sequence[Address]) -> None:
        with self._lock:
            for name in names:
                for address in addresses:
                    _append(self._addresses.setdefault(name, []), address)
                    _append(self._names.setdefault(address, []), name)

    def remove(self, names: Sequence[Name], addresses: Sequence[Address]) -> None:
        with self._lock:
            for name in names:
                for address in addresses:
                    _drop(self._addresses, name, address)
                    _drop(self._names, address, name)

    def admits(self, client: str) -> bool:
        """Whether an address is one of the network's."""
        if not self.subnets:
            return True
        address = ip_address(client.partition("%")[0])
        return any(address in subnet for subnet in self.subnets)

    def answer(self, query: Query, limit: int | None) -> bytes | None:
        """The answer if it is this network's to give; None if others are to be asked.

        Args:
            limit: its length in bytes; None: any.
        """
        with self._lock:
            address = reversed_address(query.name)
            records: list[Address] | list[Name] | None
            records = self._names.get(address) if address is not None else self._find(query.name)
            if records is not None:
                return answer(query, _of_type(records, query.type), recurse=self.recurse, limit=limit)
        ours = any(address in subnet for subnet in self.subnets) if address is not None else self._is_ours(query.name)
        return refusal(query, NXDOMAIN, recurse=self.recurse) if ours or not self.recurse else None

    def _find(self, name: Name) -> list[Address] | None:
        """All its addresses, each time another one first."""
        found = self._addresses.get(name)
        if found is None:
            stems = (name[: -len(domain)] for domain in self._domains if name[-len(domain) :] == domain)
            found = next((self._addresses[stem] for stem in stems if stem in self._addresses), None)
        if found is None:
            return None
        self._turn += 1
        first = self._turn % len(found)
        return found[first:] + found[:first]

    def _is_ours(self, name: Name) -> bool:
        """One label, or below the network's own name. A search domain is the world's, and only what is known here is taken from it."""
        return len(name) == 1 or name[-len(self._network) :] == self._network


def _of_type(records: Sequence[Address] | Sequence[Name], kind: int) -> list[Address | Name]:
    """None of them for a type that there isn't: the name exists all the same."""
    return [record for record in records if kind in (ANY, _type(record))]


def _type(record: Address | Name) -> int:
    return PTR if isinstance(record, tuple) else A if record.version == 4 else AAAA


def _append(entries: list[_Entry], entry: _Entry) -> None:
    if entry not in entries:
        entries.append(entry)


def _drop(lists: dict[_Key, list[_Entry]], key: _Key, entry: _Entry) -> None:
    """And the list itself, if nothing is left."""
    entries = lists.get(key, [])
    if entry in entries:
        entries.remove(entry)
        if not entries:
            del lists[key]
