"""Public test suites, as their authors publish them: PyPI source distributions."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CLICK", "FLASK", "HTTPX", "SUITES", "Suite", "pip"]


@dataclass(frozen=True)
class Suite:
    """One suite: pinned, so that two runs compare the same tests.

    Attributes:
        needs: what its tests import, besides itself and pytest.
        isolate: options without which isolated tests can't be the same, each with its reason in `SUITES`.
        extras: of the distribution, that its tests import.
        differ: tests that come out differently, each with its reason in `SUITES`.
    """

    name: str
    version: str
    needs: tuple[str, ...] = ()
    isolate: tuple[str, ...] = ()
    extras: str = ""
    differ: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        return f"{self.name}{self.extras}=={self.version}"

    @property
    def title(self) -> str:
        return f"{self.name}=={self.version}"

    def fetch(self, into: Path) -> Path:
        """The unpacked source distribution. Raises subprocess.CalledProcessError."""
        into.mkdir(parents=True, exist_ok=True)
        target = into / f"{self.name}-{self.version}"
        if not target.exists():
            pip(sys.executable, "download", "--no-deps", "--no-binary", self.name, "--dest", str(into), self.title)
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
HTTPX: Final = Suite(
    "httpx",
    "0.28.1",
    extras="[brotli,cli,http2,socks,zstd]",
    needs=("anyio", "chardet==5.2.0", "cryptography", "trio", "trustme", "uvicorn==0.32.1"),
    # Since pytest 9.2 caplog has records of loggers that don't propagate, and so, plainly, those of the server's thread: both tests fail on
    # these. Isolated, the server logs in the pytest process and not in the test's, and both pass, as they do with an older pytest.
    differ=("tests/test_utils.py::test_logging_request", "tests/test_utils.py::test_logging_redirect_chain"),
)
SUITES: Final[Sequence[Suite]] = (FLASK, CLICK, HTTPX)
