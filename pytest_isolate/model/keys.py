"""The table of spec keys: how each is spelt and explained. Marker, command line, ini, profiles, `run` and the
reference page are all made from it, so that they can't disagree.

pytest's options need names and help texts in every run, also one that isolates nothing, so this module is
cheap to import: no dataclass, no regular expression, nothing of ours. Reading values is `parse`'s part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["KEYS", "UPLINKS", "Key"]

UPLINKS: Final = ("auto", "veth", "pasta", "slirp4netns")
"""How bridge networks reach the outside: the best way that works, or this one."""

_CPU: Final = 'share of one CPU: "20%", 0.2, 2, "150%"'
_SIZE: Final = 'bytes: 1048576, "64MiB", "1.5GB" (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)'
_RATE: Final = 'bytes per second: 1048576, "10MB/s", "512KiB/s"'
_FIGURES: Final = "cpu, wall (durations), memory, memory_own, io_read, io_write, net_rx, net_tx, disk (sizes), instructions, pids, processes_left (numbers)"
_DURATION: Final = 'seconds: 2, 0.5, "500ms", "5s", "2min", "1h"'


class Key(NamedTuple):
    """One spec key.

    Attributes:
        name: as typed in the marker; ``--isolate-NAME`` and ``isolate_NAME`` elsewhere.
        help: one line.
        accepted: the accepted form of a Python or TOML value.
        default: the default, for people.
        docker: Docker's name for it; empty if Docker has none.
        example: the value that help texts and the reference show, as text (for `many`: one of them).
        text: the accepted form on the command line and in ini, where it differs; there all values are text.
        many: the value is a list: of ``paths`` or of ``lines``. Given more than once on the command line.
        everywhere: False: makes sense in a marker or profile only.
    """

    name: str
    help: str
    accepted: str
    default: str
    docker: str
    example: str
    text: str = ""
    many: str = ""
    everywhere: bool = True

    @property
    def metavar(self) -> str:
        """What stands for a value in help texts."""
        return "PATH" if self.many == "paths" else "NAME=VALUE" if self.name == "env" else "VALUE"

    def form(self, *, text: bool) -> str:
        """The accepted form; with `text` as typed on the command line or in ini."""
        if not text:
            return self.accepted
        return self.text or self.accepted.replace('"', "")


_TABLE: Final = (
    Key("cpu", "cap on CPU time (CFS quota)", _CPU, "no cap", "--cpus", "20%"),
    Key("memory", "cap on memory: heap touched, page cache, tmpfs", _SIZE + ", at least 1 MiB", "no cap", "--memory", "256MiB"),
    Key("swap", "swap allowed on top of memory", _SIZE, "0 beside memory", "--memory-swap", "0"),
    Key("pids", "cap on processes and threads", "whole number, at least 1", "no cap", "--pids-limit", "64"),
    Key("disk", "size of the writable layer", _SIZE + ", at least 64 KiB", "half of the RAM", "--storage-opt size=", "512MiB"),
    Key("io", "throttle of the device that holds PATH (default: the working directory)",
        f'{{"read": RATE, "write": RATE, "path": PATH}}, one rate at least; RATE in {_RATE}', "no cap",
        "--device-read-bps, --device-write-bps", "read=10MB/s,write=5MB/s",
        text="read=RATE,write=RATE,path=PATH, one rate at least; RATE in " + _RATE.replace('"', "")),
    Key("net", "network mode",
        '"none", "host", "bridge", "container:NAME", or {"mode": "bridge", "network": NAME, "internal": True, "subnet": CIDR, '
        '"ip": ADDRESS, "aliases": [NAME], "mac": ADDRESS, "mtu": BYTES, "ipv6": True}', "none", "--network", "none",
        text="none, host, container:NAME, or bridge,network=NAME,internal,subnet=CIDR,ip=ADDRESS,alias=NAME,mac=ADDRESS,mtu=BYTES,ipv6"),
    Key("publish", "ports of the sandbox that the host can reach", 'list of "[[HOST_IP:][HOST_PORT]:]PORT[/udp]"', "nothing", "--publish",
        "8080:80", text="[[HOST_IP:][HOST_PORT]:]PORT[/udp]; more than one as a list", many="lines"),
    Key("bandwidth", "rate, delay and loss of the sandbox's link",
        'a rate: "10mbit", 1000000; or {"rx": RATE, "tx": RATE, "delay": "20ms", "jitter": "5ms", "loss": "1%"}', "no limit", "",
        "10mbit", text="a rate: 10mbit; or rx=RATE,tx=RATE,delay=20ms,jitter=5ms,loss=1%"),
    Key("forward", "which servers of the host's loopback are reachable inside", '"fixtures" (those that wide fixtures of the test opened) or "none"',
        "fixtures", "", "none"),
    Key("timeout", "limit on the time inside the sandbox, set-up and teardown included", _DURATION, "no limit", "", "5s"),
    Key("rootfs", "what the root file system is made of",
        '"host", a directory, a tarball, "oci:PATH[:TAG]", "docker-archive:PATH[:TAG]", "layer:NAME", or a list of them, bottom to top', "host",
        "IMAGE", "oci:build/image", text="host, a directory, a tarball, oci:PATH[:TAG], docker-archive:PATH[:TAG] or layer:NAME; more than one as a list, bottom to top",
        many="lines"),
    Key("upper", "where the writable layer lives", '"tmpfs" or "disk"', "tmpfs", "", "disk"),
    Key("writable", "host paths passed through read-write", "list of paths", "nothing", "--volume", "build",
        text="a path; more than one as a list", many="paths"),
    Key("hide", "paths that are empty inside", "list of paths", "nothing", "--tmpfs", "~/.ssh",
        text="a path; more than one as a list", many="paths"),
    Key("inputs", "the only paths of the project that are there inside", "list of paths in the project", "all of the project", "", "src",
        text="a path in the project; more than one as a list", many="paths"),
    Key("env", "environment variables", 'mapping of names to strings, None to unset: {"TZ": "UTC"}', "as in pytest",
        "--env", "TZ=UTC", text="NAME=VALUE; more than one as a list", many="lines"),
    Key("hostname", "host name", "letters, digits, '-' and '.', at most 64", "the host's", "--hostname", "box"),
    Key("user", "who the test runs as", '"self", "root" or a user id', "self", "--user", "self"),
    Key("fixtures", "where fixtures wider than function scope are set up", '"shared" or "inside"', "shared", "", "shared"),
    Key("leak", "what processes left behind do to the test", '"report" or "fail"', "report", "", "fail"),
    Key("budget", "what the test may use: more fails it when it has run",
        f'mapping of figures to limits, None for none: {{"cpu": "1s", "memory": "64MiB"}}; figures: {_FIGURES}', "no limits", "",
        "cpu=1s,memory=64MiB", text=f"FIGURE=LIMIT,FIGURE=LIMIT, none for no limit; figures: {_FIGURES}"),
)  # fmt: skip

KEYS: Final[Mapping[str, Key]] = {key.name: key for key in _TABLE}
