"""Reading what is typed for ``net``, ``publish`` and ``bandwidth``, in Docker's and tc's forms. Everything raises ValueError."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pytest_isolate.model.net import ANY_PORT, DEFAULT_NETWORK, Bandwidth, Net, Publish
from pytest_isolate.model.units import entries_of, parse_bit_rate, parse_duration, parse_fraction, shown, whole_number

__all__ = ["net_text", "parse_bandwidth", "parse_name", "parse_net", "parse_publish", "quality_text"]

_NAME: Final = r"(?!.{64})[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)*"
_MAC: Final = r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}"
_LEAST_MTU: Final = 68
_LEAST_MTU_IPV6: Final = 1280
_ENTRIES: Final = ("mode", "network", "internal", "subnet", "ip", "aliases", "mac", "mtu", "ipv6")
_QUALITIES: Final = ("rx", "tx", "delay", "jitter", "loss")


def parse_net(value: Any) -> Net:
    """A mode, or a mapping of `Net`'s fields."""
    if isinstance(value, str):
        return _mode(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{shown(value)} is neither a mode nor a mapping")
    _known(value, _ENTRIES)
    net = _mode(value.get("mode", "bridge"))
    entries = {name: entry for name, entry in value.items() if name != "mode"}
    if entries and net.mode != "bridge":
        raise ValueError(f"{shown(next(iter(entries)))} is for bridge networks, and the mode is {net}")
    return _bridge(entries) if net.mode == "bridge" else net


def _mode(value: Any) -> Net:
    if isinstance(value, str):
        if value == "bridge":
            return Net("bridge", network=DEFAULT_NETWORK)
        if value == "none":
            return Net()
        if value == "host":
            return Net("host")
        if value.startswith("container:"):
            return Net("container", container=parse_name(value.removeprefix("container:"), "a sandbox's name"))
    raise ValueError(f"{shown(value)} is no network mode")


def _bridge(entries: Mapping[str, Any]) -> Net:
    subnet = _subnet(entries["subnet"]) if "subnet" in entries else None
    ip = _address(entries["ip"]) if "ip" in entries else None
    if subnet and ip and (ip not in subnet or ip in (subnet.network_address, subnet.broadcast_address)):
        raise ValueError(f"ip {ip} is no host address of the subnet {subnet}")
    if subnet and ip and ip == subnet.network_address + 1:
        raise ValueError(f"ip {ip} is the gateway of {subnet}")
    ipv6 = _flag(entries.get("ipv6", False), "ipv6")
    return Net(
        "bridge",
        network=parse_name(entries.get("network", DEFAULT_NETWORK), "a network's name"),
        internal=_flag(entries.get("internal", False), "internal"),
        subnet=str(subnet) if subnet else None,
        ip=str(ip) if ip else None,
        aliases=_aliases(entries.get("aliases", ())),
        mac=_mac(entries["mac"]) if "mac" in entries else None,
        mtu=_mtu(entries["mtu"], ipv6=ipv6) if "mtu" in entries else None,
        ipv6=ipv6,
    )


def parse_name(value: Any, what: str) -> str:
    """The name of something on a network. Raises ValueError."""
    if isinstance(value, str) and re.fullmatch(_NAME, value, re.ASCII):
        return value
    raise ValueError(f"{shown(value)} is not {what}: letters, digits, '_', '.' and '-', at most 63")


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise ValueError(f"{name}: {shown(value)} is neither True nor False")


def _subnet(value: Any) -> ipaddress.IPv4Network:
    try:
        subnet = ipaddress.IPv4Network(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"subnet: {error}") from None
    if not 8 <= subnet.prefixlen <= 29:
        raise ValueError(f"subnet: {subnet} is not between /8 and /29")
    return subnet


def _address(value: Any) -> ipaddress.IPv4Address:
    try:
        if isinstance(value, str):
            return ipaddress.IPv4Address(value)
    except ValueError:
        pass
    raise ValueError(f"ip: {shown(value)} is not an IPv4 address")


def _aliases(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"aliases: {shown(value)} is not a list")
    return tuple(dict.fromkeys(parse_name(alias, "a host name").lower() for alias in value))


def _mac(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(_MAC, value, re.ASCII):
        raise ValueError(f"mac: {shown(value)} is not six octets in colon form")
    if int(value[:2], 16) & 1:
        raise ValueError(f"mac: {value} is a multicast address")
    return value.lower()


def _mtu(value: Any, *, ipv6: bool) -> int:
    number = whole_number(value)
    least = _LEAST_MTU_IPV6 if ipv6 else _LEAST_MTU
    if number is None or not least <= number <= 65535:
        raise ValueError(f"mtu: {shown(value)} is not a number of bytes from {least} to 65535")
    return number


def net_text(text: str) -> str | dict[str, Any]:
    """``bridge,network=db,alias=primary`` as the mapping that `parse_net` takes; a bare mode as it is."""
    first, *rest = [part.strip() for part in text.split(",")]
    if not rest and "=" not in first:
        return first
    found: dict[str, Any] = {}
    for part in (first if "=" in first else f"mode={first}", *rest):
        name, sign, value = part.partition("=")
        if name == "alias":
            found["aliases"] = [*found.get("aliases", []), value]
        elif name in found:
            raise ValueError(f"{text!r} gives {name!r} twice")
        else:
            found[name] = value if sign else "true"
    return found


def parse_publish(value: Any) -> tuple[Publish, ...]:
    """A list of ``[[HOST_IP:][HOST_PORT]:]PORT[/PROTOCOL]``, or of port numbers."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{shown(value)} is not a list")
    found = tuple(_publish(entry) for entry in value)
    places = [(entry.host_ip, entry.host_port, entry.protocol) for entry in found if entry.host_port != ANY_PORT]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"host port {place[1]}/{place[2]} is given twice")
    return found


def _publish(value: Any) -> Publish:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ValueError(f"{shown(value)} is no port")
    where, slash, protocol = text.partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise ValueError(f"{shown(value)}: {protocol!r} is neither tcp nor udp")
    if where.startswith("["):
        host, closing, rest = where[1:].partition("]:")
        parts = [host, *rest.split(":")] if closing else []
    else:
        parts = where.split(":")
    if not 1 <= len(parts) <= 3:
        raise ValueError(f"{shown(value)} is not [[HOST_IP:][HOST_PORT]:]PORT[/PROTOCOL]")
    port = _port(parts[-1], value)
    if port == ANY_PORT:
        raise ValueError(f"{shown(value)}: no program listens on port 0")
    host_port = _port(parts[-2], value) if len(parts) > 1 and parts[-2] else ANY_PORT
    host_ip = _host_ip(parts[0], value) if len(parts) == 3 else "127.0.0.1"
    return Publish(port, host_port, host_ip, "udp" if protocol == "udp" else "tcp")


def _port(text: str, whole: Any) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError(f"{shown(whole)}: {text!r} is not a port, 1 to 65535")
    return int(text)


def _host_ip(text: str, whole: Any) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{shown(whole)}: {text!r} is not an IP address") from None


def parse_bandwidth(value: Any) -> Bandwidth:
    """One rate for both directions, or a mapping of `Bandwidth`'s fields."""
    if not isinstance(value, Mapping):
        rate = parse_bit_rate(value)
        return Bandwidth(rx=rate, tx=rate)
    _known(value, _QUALITIES)
    if not value:
        raise ValueError("an empty mapping asks for nothing")
    found = Bandwidth(
        rx=_entry(value, "rx", parse_bit_rate),
        tx=_entry(value, "tx", parse_bit_rate),
        delay=_entry(value, "delay", parse_duration),
        jitter=_entry(value, "jitter", parse_duration),
        loss=_entry(value, "loss", parse_fraction),
    )
    if found.jitter is not None and found.delay is None:
        raise ValueError("jitter varies a delay, and none is given")
    return found


def _entry(value: Mapping[str, Any], name: str, parse: Any) -> Any:
    if name not in value:
        return None
    try:
        return parse(value[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def quality_text(text: str) -> str | dict[str, str]:
    """``rx=10mbit,delay=20ms`` as a mapping; a bare rate as it is."""
    return entries_of(text) if "=" in text else text


def _known(value: Mapping[Any, Any], names: Sequence[str]) -> None:
    unknown = sorted(set(value) - set(names), key=str)
    if unknown:
        raise ValueError(f"unknown entry {shown(unknown[0])}; entries are {', '.join(names)}")
