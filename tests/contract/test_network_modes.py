"""The four network modes side by side, as root and as an unprivileged user: what docs/reference/networks.md says of each."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.contract.test_bridge import SERVER
from tests.support.callers import Caller, caller

__all__ = ["caller"]

MODES: Final = {
    "none": "none",
    "host": "host",
    "bridge": {"internal": True},
    "container": "container:owner",
}

LOOK: Final = (
    SERVER
    + """
INSIDE = '''
import errno, json, socket, sys
def attempt(host, port):
    try:
        with socket.create_connection((host, port), timeout=3): return "connected"
    except socket.gaierror: return "gaierror"
    except OSError as error: return errno.errorcode.get(error.errno, str(error))
own = socket.create_server(("127.0.0.1", 0))
own_port = own.getsockname()[1]
print(json.dumps({
    "interfaces": [name for _, name in socket.if_nameindex()],
    "own loopback": attempt("127.0.0.1", own_port),
    "host loopback": attempt("127.0.0.1", int(sys.argv[1])),
    "other by address": attempt(sys.argv[2], 8080),
    "other by name": attempt("other", 8080),
    "own name": attempt("owner", 8080),
    "resolv.conf": open("/etc/resolv.conf").read(),
}))
'''
with socket.create_server(("127.0.0.1", 0)) as outside, box(name="owner", net=INTERNAL) as owner, box(name="other", net=INTERNAL) as other:
    serve(other)
    with box(net=NET) as one:
        done = one.run([PYTHON, "-I", "-S", "-c", INSIDE, str(outside.getsockname()[1]), ADDRESS], timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        found = json.loads(done.stdout)
        found["gateway"] = f"nameserver {owner.address.gateway}\\n"
        found["host's"] = open("/etc/resolv.conf").read()
        tell(found)
"""
)

EXPECTED: Final[dict[str, dict[str, Any]]] = {
    "none": {
        "interfaces": ["lo"], "own loopback": "connected", "host loopback": "ECONNREFUSED", "other by address": "ENETUNREACH",
        "other by name": "gaierror", "own name": "gaierror",
    },
    "host": {"own loopback": "connected", "host loopback": "connected", "other by name": "gaierror", "own name": "gaierror"},
    "bridge": {
        "interfaces": ["lo", "eth0"], "own loopback": "connected", "host loopback": "ECONNREFUSED", "other by address": "connected",
        "other by name": "connected", "own name": "ECONNREFUSED",
    },
    "container": {
        "interfaces": ["lo", "eth0"], "own loopback": "connected", "host loopback": "ECONNREFUSED", "other by address": "connected",
        "other by name": "connected", "own name": "ECONNREFUSED",
    },
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_what_each_mode_reaches(caller: Caller, mode: str) -> None:
    # The host has no way into an internal network: it would ask the world for the address.
    address = "'127.0.0.1'" if mode == "host" else "other.address.ip"
    found = caller.run(LOOK.replace("NET)", f"{MODES[mode]!r})").replace("ADDRESS", address))
    assert {name: found[name] for name in EXPECTED[mode]} == EXPECTED[mode]
    assert found["resolv.conf"] == found["gateway" if mode in ("bridge", "container") else "host's"]
