"""Packets as bytes: what they say of contacts."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolate.network.names import host_upstreams
from pytest_isolate.network.packets import Seen, read

HERE, THERE, HERE6, THERE6 = "10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"


def packet(protocol: int, payload: bytes, source: str = HERE, target: str = THERE, options: bytes = b"") -> bytes:
    one, other = ip_address(source), ip_address(target)
    if one.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + one.packed + other.packed + payload
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(options) + len(payload), 0, 0, 64, protocol, 0)
    return head + one.packed + other.packed + options + payload


def segment(flags: int, sequence: int = 0, source: int = 40000, target: int = 80) -> bytes:
    return struct.pack("!2H2IBBHHH", source, target, sequence, 1, 0x50, flags, 0, 0, 0)


SYN, SYN_ACK, RST, RST_ACK = 0x02, 0x12, 0x04, 0x14
UNREACHABLE, UNREACHABLE_V6 = bytes([3, 3]) + bytes(6), bytes([1, 4]) + bytes(6)

CASES = [
    (packet(6, segment(SYN)), Seen("asks", HERE, 0, ("tcp", THERE, 80))),
    (packet(6, segment(SYN), options=bytes(8)), Seen("asks", HERE, 0, ("tcp", THERE, 80))),
    (packet(6, segment(SYN), HERE6, THERE6), Seen("asks", HERE6, 0, ("tcp", THERE6, 80))),
    (packet(6, segment(SYN_ACK, 99, 80, 40000), THERE, HERE), Seen("accepts", HERE, 0, ("tcp", THERE, 80))),
    (packet(6, segment(RST_ACK, 0, 80, 40000), THERE, HERE), Seen("refuses", HERE, 0, ("tcp", THERE, 80))),
    (packet(6, segment(RST_ACK, 5, 80, 40000), THERE, HERE), Seen("resets", HERE, 0, ("tcp", THERE, 80))),
    (packet(6, segment(RST, 0, 80, 40000), THERE, HERE), Seen("resets", HERE, 0, ("tcp", THERE, 80))),
    (packet(6, segment(0x10)), None),
    (packet(17, struct.pack("!4H", 5, 53, 8, 0)), Seen("sends", HERE, 5, ("udp", THERE, 53))),
    (packet(1, UNREACHABLE + packet(17, struct.pack("!4H", 5, 53, 8, 0)), THERE, HERE), Seen("refuses", HERE, 0, ("udp", THERE, 53))),
    (packet(1, UNREACHABLE + packet(6, segment(SYN)[:8]), "10.0.0.1", HERE), Seen("refuses", HERE, 0, ("tcp", THERE, 80))),
    (packet(58, UNREACHABLE_V6 + packet(6, segment(SYN), HERE6, THERE6), THERE6, HERE6), Seen("refuses", HERE6, 0, ("tcp", THERE6, 80))),
    (packet(1, bytes([3, 4]) + bytes(6) + packet(6, segment(SYN)), THERE, HERE), None),  # asks for smaller packets
    (packet(1, bytes([8, 0]) + bytes(6), THERE, HERE), None),  # a ping
    (packet(1, UNREACHABLE + packet(1, bytes(8)), THERE, HERE), None),
    (packet(47, bytes(20)), None),
    (b"", None),
    (b"\x00" * 40, None),
]  # fmt: skip


@pytest.mark.parametrize(("data", "said"), CASES)
def test_packet_says(data: bytes, said: Seen | None) -> None:
    assert read(data) == said


@given(st.binary(max_size=160), st.sampled_from([0x45, 0x4F, 0x60, 0x00]), st.sampled_from([1, 6, 17, 58]))
def test_any_bytes_are_read_without_an_error(data: bytes, first: int, protocol: int) -> None:
    read(data)
    packet = bytearray([first]) + data
    for place in (6, 9):
        if len(packet) > place:
            packet[place] = protocol
    read(bytes(packet))


RESOLV_CONF = """
# nameserver 192.0.2.9
nameserver 127.0.0.53
nameserver fe80::1%eth0   # comment
 nameserver 192.0.2.1
nameserver nonsense
nameserver
options edns0 trust-ad
search corp.test
nameserver 192.0.2.2
"""


def test_hosts_servers_are_the_first_three_of_resolv_conf(tmp_path) -> None:
    (tmp_path / "resolv.conf").write_text(RESOLV_CONF)
    assert host_upstreams(str(tmp_path / "resolv.conf")) == [("127.0.0.53", 53), ("fe80::1%eth0", 53), ("192.0.2.1", 53)]


@pytest.mark.parametrize("text", [None, "", "search corp.test\n"])
def test_without_servers_it_is_the_host_itself(tmp_path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "resolv.conf").write_text(text)
    assert host_upstreams(str(tmp_path / "resolv.conf")) == [("127.0.0.1", 53)]
