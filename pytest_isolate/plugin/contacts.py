"""Whom a test turned to on its bridge network, for the record and for its failing reports."""

from __future__ import annotations

from typing import Final

from pytest_isolate.model.errors import IsolateError
from pytest_isolate.model.net import bracketed
from pytest_isolate.model.usage import Contact, Contacts
from pytest_isolate.sandbox import Sandbox

__all__ = ["ContactList"]

TITLE: Final = "isolate: network"
_MOST_LISTED: Final = 20


class ContactList:
    """Of one sandbox; what its network has seen is asked for in pieces.

    Attributes:
        contacts: so far; None where the network mode tells of none.
    """

    def __init__(self, box: Sandbox) -> None:
        self.contacts: Contacts | None = None
        self._box = box
        self._lost = ""

    def take(self) -> None:
        """Add what happened since the last call. To be called before the sandbox is given back."""
        try:
            found = self._box.contacts()
        except IsolateError as error:
            self._lost = error.message
        else:
            if found is not None:
                self.contacts = found if self.contacts is None else self.contacts + found

    def sections(self) -> list[tuple[str, str]]:
        """Titles and texts for a failing report."""
        found = [(TITLE, self._lost)] if self._lost else []
        return [*found, (TITLE, "\n".join(_lines(self.contacts)))] if self.contacts else found


def _lines(contacts: Contacts) -> list[str]:
    lines = []
    for what, some in (("reached", contacts.reached), ("refused", contacts.refused), ("no answer", contacts.unanswered)):
        lines += [f"{what:9}  {_shown(contact)}" for contact in some[:_MOST_LISTED]]
        if len(some) > _MOST_LISTED:
            lines.append(f"{what:9}  and {len(some) - _MOST_LISTED} more")
    if contacts.incomplete:
        lines.append("there may be more: the kernel had to drop packets of those that watch")
    return lines


def _shown(contact: Contact) -> str:
    protocol, address, port = contact
    return f"{protocol} {bracketed(address)}:{port}"
