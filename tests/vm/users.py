"""Who runs a command in a machine, and how it comes to do so: always through systemd, as people's own do.

- `root`: a transient service of the system manager;
- `tester`: a transient service of the lingering user's own manager, so inside the cgroups that are delegated to the user;
- `login`: the same user in a session that PAM opened, as after ssh: a scope that belongs to root.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["USERS", "Started", "started"]

USERS: Final = ("root", "tester", "login")

_USER_BUS: Final = {"XDG_RUNTIME_DIR": "/run/user/1000", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus"}
_PATH: Final = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOMES: Final = MappingProxyType({"root": "/root", "tester": "/home/tester", "login": "/home/tester"})
_PROJECTS: Final = MappingProxyType({"root": "/srv/project", "tester": "/home/tester/project", "login": "/home/tester/project"})


@dataclass(frozen=True)
class Started:
    """A command line for the agent, and the one that ends it early."""

    argv: Sequence[str]
    stop: Sequence[str]


def started(user: str, command: Sequence[str], env: Mapping[str, str] = MappingProxyType({}), cwd: str | None = None) -> Started:
    """How `command` is run by one of `USERS`, in its checkout unless `cwd` is given."""
    # systemd-run looks for commands on its own PATH, env on ours.
    unit = f"vm-{uuid.uuid4().hex[:12]}"
    whole = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": _HOMES[user], "TERM": "dumb", **env}
    options = [f"--unit={unit}", "--quiet", "--pipe", "--wait", "--collect", f"--working-directory={cwd or _PROJECTS[user]}"]
    settings = [f"--setenv={name}={value}" for name, value in whole.items()]
    prefix: list[str] = []
    manager: list[str] = []
    if user == "tester":
        prefix = ["setpriv", "--reuid=1000", "--regid=1000", "--init-groups", "env", *(f"{k}={v}" for k, v in _USER_BUS.items())]
        manager = ["--user"]
    elif user == "login":
        options += ["--property=User=tester", "--property=PAMName=login"]
    # A service's command line has variables, whose $ is doubled where it is none (systemd.service(5)).
    escaped = [argument.replace("$", "$$") for argument in command]
    return Started(
        [*prefix, "systemd-run", *manager, *options, *settings, "--", "/usr/bin/env", *escaped],
        [*prefix, "systemctl", *manager, "kill", "--signal=KILL", f"{unit}.service"],
    )
