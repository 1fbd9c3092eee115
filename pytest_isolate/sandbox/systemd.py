"""Asks systemd for a scope: a cgroup of one's own, with what is in it.

`StartTransientUnit` of org.freedesktop.systemd1.Manager (org.freedesktop.systemd1(5)) takes processes that run
already (`PIDs`), which `systemd-run --scope` can't for a pytest that has started. Over D-Bus by jeepney, a client
in pure Python, where it is installed (the extra ``systemd``), else by busctl(1), which comes with systemd.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["SystemdRefused", "start_scope"]

_PATIENCE: Final = 5.0
"""Seconds for systemd to answer, and again for the processes to be moved."""

_NAME: Final = "org.freedesktop.systemd1"
_PATH: Final = "/org/freedesktop/systemd1"
_INTERFACE: Final = "org.freedesktop.systemd1.Manager"
_NO_LIMIT: Final = 2**64 - 1
_SIGNATURE: Final = "ssa(sv)a(sa(sv))"


class SystemdRefused(Exception):
    """It gave no scope; the text says why."""


def start_scope(name: str, description: str, pids: Sequence[int], *, user: bool) -> None:
    """Have `pids` moved to a new scope whose cgroup is delegated to the caller, and wait until they are.

    The scope goes when its last process ends, with everything that was made in its cgroup.

    Args:
        name: of the unit, ending in ``.scope``.
        user: ask the user's own manager, not the system's.

    Raises:
        SystemdRefused
    """
    properties = [
        ("Description", "s", description),
        ("Delegate", "b", True),
        ("CollectMode", "s", "inactive-or-failed"),
        ("TasksMax", "t", _NO_LIMIT),
        ("PIDs", "au", list(pids)),
    ]
    bus = _bus(user=user)
    if not _call_by_jeepney(bus, name, properties):
        _call_by_busctl(bus, name, properties)
    deadline = time.monotonic() + _PATIENCE
    while not all(_is_in(pid, name) for pid in pids):
        if time.monotonic() > deadline:
            raise SystemdRefused(f"{name} was started, and pytest isn't in it after {_PATIENCE:.0f} s")
        time.sleep(0.002)


def _bus(*, user: bool) -> str:
    """The socket's path. Raises SystemdRefused where there is none."""
    if not user:
        path = "/run/dbus/system_bus_socket"
    else:
        address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
        path = f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.geteuid()}'}/bus"
        if address.startswith("unix:path=") and not os.path.exists(path):
            path = address.removeprefix("unix:path=").partition(",")[0].partition(";")[0]
    if not os.path.exists(path):
        raise SystemdRefused(
            f"no D-Bus at {path}"
            + (": log in as the user, or loginctl enable-linger, and install dbus-user-session" if user else "")
        )
    return path


def _is_in(pid: int, scope: str) -> bool:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return any(f"/{scope}" in line for line in file)
    except FileNotFoundError:  # ended meanwhile
        return True


def _call_by_jeepney(bus: str, name: str, properties: Sequence[tuple[str, str, Any]]) -> bool:
    """Whether jeepney is there. Raises SystemdRefused."""
    try:
        from jeepney import DBusAddress, HeaderFields, MatchRule, MessageType, message_bus, new_method_call
        from jeepney.io.blocking import open_dbus_connection
    except ImportError:
        return False
    manager = DBusAddress(_PATH, bus_name=_NAME, interface=_INTERFACE)
    values = [(key, (kind, value)) for key, kind, value in properties]
    rule = MatchRule(type="signal", interface=_INTERFACE, member="JobRemoved", path=_PATH)
    try:
        with open_dbus_connection(f"unix:path={bus}") as connection, connection.filter(rule) as removed:
            connection.send_and_get_reply(message_bus.AddMatch(rule), timeout=_PATIENCE)
            connection.send_and_get_reply(new_method_call(manager, "Subscribe"), timeout=_PATIENCE)
            call = new_method_call(manager, "StartTransientUnit", _SIGNATURE, (name, "fail", values, []))
            reply = connection.send_and_get_reply(call, timeout=_PATIENCE)
            if reply.header.message_type is not MessageType.method_return:
                error = reply.header.fields.get(HeaderFields.error_name, "")
                raise SystemdRefused(f"{error}: {' '.join(map(str, reply.body))}")
            while (signal := connection.recv_until_filtered(removed, timeout=_PATIENCE)).body[1] != reply.body[0]:
                pass
    except (OSError, TimeoutError, EOFError) as error:
        raise SystemdRefused(f"{bus}: {str(error) or type(error).__name__}") from None
    if (result := signal.body[3]) != "done":
        raise SystemdRefused(f"its job for {name} ended as {result!r}")
    return True


def _call_by_busctl(bus: str, name: str, properties: Sequence[tuple[str, str, Any]]) -> None:
    if not (program := shutil.which("busctl")):
        raise SystemdRefused("neither busctl nor jeepney is installed (pip install 'pytest-isolate-sandbox[systemd]')")
    words = [name, "fail", str(len(properties))]
    for key, kind, value in properties:
        words += [key, kind, *_spelt(kind, value)]
    command = [program, f"--address=unix:path={bus}", f"--timeout={_PATIENCE:.0f}", "--quiet", "call"]
    command += [_NAME, _PATH, _INTERFACE, "StartTransientUnit", _SIGNATURE, *words, "0"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise SystemdRefused(f"busctl: {done.stderr.strip() or f'exit status {done.returncode}'}")


def _spelt(kind: str, value: Any) -> list[str]:
    """A value in busctl's spelling."""
    if kind == "au":
        return [str(len(value)), *map(str, value)]
    return ["true" if value is True else str(value)]
