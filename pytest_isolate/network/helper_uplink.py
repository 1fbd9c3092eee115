"""The run's way out without touching the host: pasta, else slirp4netns, programs that pass packets on through ordinary sockets.

The program is started on a thread in the host's network namespace, which it keeps, and opens a tap device in the run's. Rootless
it inherits the hub's capabilities in the run's user namespace as ambient ones, since its uid isn't 0 there, and
needs to join no user namespace. It knows one address; what comes from the run's networks is translated to that one by a
table of the run's own namespace. Connections to the host's loopback are refused, no port is forwarded.

It dies with the thread that started it (PR_SET_PDEATHSIG), SIGKILL of the hub included: giving up capabilities, as pasta does,
keeps the signal, which only gaining some, or another uid, would clear (`commit_creds` in the kernel's kernel/cred.c).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final

from pytest_isolate.kernel.capabilities import keep_over_exec, set_parent_death_signal
from pytest_isolate.model.errors import MissingCapability
from pytest_isolate.network import nft_rules as nft
from pytest_isolate.network.addresses import claim, host_networks, unique_local
from pytest_isolate.network.host_thread import HostThread, namespace_of
from pytest_isolate.network.nft import NftSocket
from pytest_isolate.network.router import forward_here, has_ipv6

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = ["INSTALL", "PROGRAMS", "HelperUplink", "installed"]

PROGRAMS: Final = ("pasta", "slirp4netns")
INSTALL: Final = "apt install passt"

_TAP: Final = "uplink0"
_TUN: Final = "/dev/net/tun"
_READY_SECONDS: Final = 5.0
_SIGKILL: Final = 9


def installed(program: str) -> str | None:
    """Its path."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/bin:/usr/local/bin")


class HelperUplink:
    """See `uplink.Uplink`. The thread that makes it is in the run's network namespace.

    Args:
        host: a socket of the host's network namespace.
        inside: one of the run's.
        outside: a thread in the host's; the program ends when this thread does.
        program: one of `PROGRAMS`.
        notes: why it is this way.

    Raises:
        MissingCapability: it isn't installed, or can't work here.
    """

    interface = _TAP

    def __init__(
        self, host: IPRoute, inside: IPRoute, outside: HostThread, run: str, program: str, notes: tuple[str, ...]
    ) -> None:
        self.kind, self.notes = program, notes
        self._inside, self._run = inside, run
        self._stack = ExitStack()
        path = installed(program)
        if path is None:
            raise MissingCapability("uplink", ["net"], f"{program} isn't installed", INSTALL)
        if not os.access(_TUN, os.R_OK | os.W_OK, effective_ids=True):
            raise MissingCapability(
                "uplink",
                ["net"],
                f"{program} needs {_TUN}, which user {os.geteuid()} can't open",
                f"as root: modprobe tun; chmod 0666 {_TUN}",
            )
        with ExitStack() as undo:
            undo.callback(self.close)
            transfer = claim(host_networks(host), run=run)
            self._stack.callback(transfer.release)
            self._ipv6 = has_ipv6() and _leads_out(host)
            self._start(outside, [path, *self._arguments(transfer.subnet)])
            self._translate()
            undo.pop_all()

    def admit(self, subnet4: IPv4Network, subnet6: IPv6Network | None) -> None:
        """Nothing to do: every network is translated."""

    def close(self) -> None:
        """End the program, and its interface with it. May be called twice."""
        self._stack.close()

    def _arguments(self, subnet: IPv4Network) -> list[str]:
        if self.kind == "slirp4netns":
            # Its own name server would lead to one on the host's loopback.
            closed = ["--disable-host-loopback", "--disable-dns"]
            six = ["--enable-ipv6"] if self._ipv6 else []
            return ["--configure", "--mtu=65520", f"--cidr={subnet}", *closed, *six, "--netns-type=path", "NAMESPACE", _TAP]
        subnet6 = unique_local(self._run, "uplink")
        six = ["-a", str(subnet6[2]), "-g", str(subnet6[1])] if self._ipv6 else ["-4"]
        four = ["-a", str(subnet[2]), "-n", "24", "-g", str(subnet[1])]
        closed = ["--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none"]
        user = ["--runas", "0"] if os.geteuid() == 0 else []
        return ["-f", "-q", "--config-net", "-I", _TAP, *four, *six, *closed, *user, "--netns-only", "--netns", "NAMESPACE"]

    def _start(self, outside: HostThread, command: list[str]) -> None:
        namespace = namespace_of(self._inside)
        said = os.memfd_create("uplink", os.MFD_CLOEXEC)
        # A file in memory: a pipe that nobody reads would fill, or end the program by SIGPIPE.
        here = [f"/proc/self/fd/{namespace}" if word == "NAMESPACE" else word for word in command]

        def begin() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                here, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=(namespace,), start_new_session=True, preexec_fn=_last_steps  # noqa: PLW1509 - see there
            )  # fmt: skip

        try:
            process = outside.call(begin)
            self._stack.callback(_end, process)
            self._wait(process, said)
        finally:
            os.close(namespace)
            os.close(said)

    def _wait(self, process: subprocess.Popen[bytes], said: int) -> None:
        """Until the default route leads through the interface."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            ended = process.poll() is not None
            routes = () if ended else self._inside.get_default_routes(family=socket.AF_INET)
            names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in self._inside.get_links()}
            if any(names.get(route.get_attr("RTA_OIF")) == _TAP for route in routes):
                return
            if ended or time.monotonic() > deadline:
                text = os.pread(said, 4096, 0).decode(errors="replace")
                lines = [line for line in text.splitlines() if line and "syslog" not in line]
                how = f"ended with status {process.returncode}" if ended else f"made no interface within {_READY_SECONDS:g} s"
                raise MissingCapability("uplink", ["net"], f"{self.kind} {how}: {' '.join(lines[-3:])}", "")
            time.sleep(0.005)

    def _translate(self) -> None:
        forward_here(ipv6=self._ipv6)
        chains = (nft.Chain("nat", "nat", nft.POSTROUTING, 100, ((*nft.oif(_TAP), *nft.masquerade()),)),)
        try:
            made = NftSocket()
            self._stack.callback(made.close)
            made.create(self._run, chains)
        except OSError as error:
            raise MissingCapability(
                "uplink",
                ["net"],
                f"addresses can't be translated: nf_tables in a namespace: {error.strerror}",
                "as root: modprobe nf_tables nft_masq",
            ) from None


def _last_steps() -> None:
    """Between fork and exec. Only system calls: other threads' locks may be held for ever."""
    set_parent_death_signal(_SIGKILL)
    keep_over_exec()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # the hub ignores SIGTERM, and that is inherited
    process.wait()


def _leads_out(host: IPRoute) -> bool:
    return bool(host.get_default_routes(family=socket.AF_INET6))
