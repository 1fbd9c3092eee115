"""One venv per peer, with one interpreter and one pytest: the peers' distributions exclude one another.

`pytest-isolate` here is the PyPI project of that name, not ours. pytest 9.1 is the newest that every peer works with.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from typing import Final

from tests.downstream.suites import CLICK, pip

__all__ = ["FORKED", "OTHER", "OURS", "PEERS", "PLAIN", "PYTEST", "Peer"]

ROOT: Final = Path(__file__).parents[2]
PYTEST: Final = "pytest==9.1.1"


@dataclass(frozen=True)
class Peer:
    """A way to run tests.

    Attributes:
        name: in tables.
        requirement: what is installed beside pytest, if anything.
        options: what makes pytest isolate every test.
    """

    name: str
    requirement: str = ""
    options: tuple[str, ...] = ()

    def install(self, work: Path) -> str:
        """Its interpreter, in a venv that is made once per `work`. Raises subprocess.CalledProcessError."""
        directory = work / f"venv-{self.name}"
        python = str(directory / "bin/python")
        if not (directory / "done").exists():
            run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
            pip(python, "install", PYTEST, CLICK.requirement, *([self.requirement] if self.requirement else []))
            (directory / "done").touch()
        if self is OURS:  # what is measured is the checkout as it is now
            pip(python, "install", "--force-reinstall", "--no-deps", str(ROOT))
        return python


CAPS: Final = ("--isolate-cpu=100%", "--isolate-memory=1GiB", "--isolate-pids=512")

PLAIN: Final = Peer("plain")
FORKED: Final = Peer("forked", "pytest-forked==1.7.5", ("--forked",))
OTHER: Final = Peer("other", "pytest-isolate==0.0.17", ("--isolate",))
OURS: Final = Peer("ours", str(ROOT), ("--isolate-all", *CAPS))
PEERS: Final = (PLAIN, FORKED, OTHER, OURS)
