"""Public test suites, as their authors publish them: PyPI source distributions."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CLICK", "FLASK", "SUITES", "Suite", "pip"]


@dataclass(frozen=True)
class Suite:
    """One suite: pinned, so that two runs compare the same tests.

    Attributes:
        needs: what its tests import, besides itself and pytest.
        isolate: options without which isolated tests can't be the same, each with its reason in `SUITES`.
    """

    name: str
    version: str
    needs: tuple[str, ...] = ()
    isolate: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    def fetch(self, into: Path) -> Path:
        """The unpacked source distribution. Raises subprocess.CalledProcessError."""
        into.mkdir(parents=True, exist_ok=True)
        target = into / f"{self.name}-{self.version}"
        if not target.exists():
            pip(sys.executable, "download", "--no-deps", "--no-binary", self.name, "--dest", str(into), self.requirement)
            with tarfile.open(into / f"{self.name}-{self.version}.tar.gz") as archive:
                archive.extractall(into, filter="data")
        return target


def pip(python: str, command: str, *args: str) -> None:
    """Run pip of an interpreter, quietly. Raises subprocess.CalledProcessError, with pip's own output printed."""
    argv = [python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *args]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()


FLASK: Final = Suite("flask", "3.1.3", needs=("asgiref", "greenlet", "python-dotenv"))
CLICK: Final = Suite("click", "8.5.1")
SUITES: Final[Sequence[Suite]] = (FLASK, CLICK)
