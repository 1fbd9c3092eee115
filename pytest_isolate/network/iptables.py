"""The uplink's rules where the kernel has no nf_tables: iptables, each rule with the run's name as its comment.

They outlive a run that is killed; the next one removes them, told by the name. Every function runs on a thread in the
network namespace that the rules are for, because the programs that it starts inherit it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from typing import Final

from pytest_isolate.kernel.cgroup_runs import is_stale
from pytest_isolate.model.errors import SetupError

__all__ = ["Iptables"]

_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_TABLES: Final = ("nat", "filter", "mangle")
_COMMENT: Final = re.compile(r'--comment "?(pytest-isolate-[^\s"]+)')


class Iptables:
    """The rules of one run.

    Args:
        run: the run's name.
        uplink: the interface that packets of the run come from.

    Raises:
        LookupError: there is no iptables.
    """

    def __init__(self, run: str, uplink: str) -> None:
        self._run, self._uplink = run, uplink
        self._programs = {version: shutil.which(name, path=_PATH) or "" for version, name in ((4, "iptables"), (6, "ip6tables"))}
        if not self._programs[4]:
            raise LookupError("iptables isn't installed")

    def open(self, opened: list[str], *, ipv6: bool) -> None:
        """Forward from the uplink and answers to it, and nothing else to it or through interfaces that forward for us.

        Args:
            opened: interfaces that don't forward but for us.

        Raises:
            SetupError
        """
        version = 6 if ipv6 else 4
        new = "-m conntrack --ctstate NEW"
        # Each is put before the ones that are there.
        for name in opened:
            self._insert(version, "filter", f"FORWARD -i {name} {new} -m conntrack ! --ctstate DNAT -j DROP")
        self._insert(version, "filter", f"FORWARD -i {self._uplink} -j ACCEPT")
        self._insert(version, "filter", f"FORWARD -o {self._uplink} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
        self._insert(version, "filter", f"FORWARD -o {self._uplink} ! -i {self._uplink} {new} -j DROP")

    def masquerade(self, subnet: str) -> None:
        """Raises SetupError."""
        self._insert(6 if ":" in subnet else 4, "nat", f"POSTROUTING -s {subnet} ! -o {self._uplink} -j MASQUERADE")

    def count(self, source: str) -> None:
        """Count and drop what is on its way out from `source`. Raises SetupError."""
        self._insert(6 if ":" in source else 4, "mangle", f"POSTROUTING -s {source} -j DROP")

    def counted(self, version: int) -> int:
        """How many packets `count` has counted."""
        answer = self._call(version, "mangle", "-n -v -x -L POSTROUTING")
        return sum(int(line.split()[0]) for line in answer.splitlines() if self._run in line)

    def close(self) -> None:
        """Raises SetupError."""
        self._remove(lambda run: run == self._run)

    def sweep(self) -> None:
        """Remove the rules of runs that have ended. Raises SetupError."""
        self._remove(is_stale)

    def _insert(self, version: int, table: str, rule: str) -> None:
        chain, _, rest = rule.partition(" ")
        self._call(version, table, f"-I {chain} {rest} -m comment --comment {self._run}")

    def _remove(self, which: Callable[[str], bool]) -> None:
        for version, program in self._programs.items():
            for table in _TABLES if program else ():
                for line in self._call(version, table, "-S").splitlines():
                    if line.startswith("-A") and (match := _COMMENT.search(line)) and which(match[1]):
                        self._call(version, table, "-D" + line[2:])

    def _call(self, version: int, table: str, words: str) -> str:
        program = self._programs[version]
        done = subprocess.run([program, "-w", "5", "-t", table, *shlex.split(words)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError(f"{os.path.basename(program)} -t {table} {words}", "", 0, "", done.stderr.strip())
        return done.stdout
