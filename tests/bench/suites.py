"""The suites that are timed, written to a directory."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

from tests.bench.floor import CONFTEST

__all__ = ["FILES", "HEAVY", "write_suite"]

HEAVY: Final = ("asyncio", "http.server", "unittest.mock", "xmlrpc.client", "sqlite3", "multiprocessing.pool", "email.mime.text")
"""Modules of the standard library that pytest itself doesn't import; together some 60 ms."""

_EMPTY: Final = """
    import pytest

    @pytest.mark.parametrize("number", range({count}))
    def test_empty(number):
        pass
    """

_SLEEP: Final = """
    import time
    import pytest

    @pytest.mark.parametrize("number", range(30))
    def test_sleeps(number):
        time.sleep(0.1)
    """

_IMPORTS: Final = """
    import importlib
    import pytest

    @pytest.mark.parametrize("number", range(50))
    def test_imports(number):
        for name in {heavy}:
            importlib.import_module(name)
    """

# Small objects, as a program's heap has them: a fork copies the page tables of every 4 KiB page.
_RESIDENT: Final = """
    BALLAST = [bytes(4000) for _ in range(200 * (1 << 20) // 4096)]
    """

_ONE: Final = """
    def test():
        pass
    """

# What the process holds after each test; read outside the sandbox, in the pytest process.
_WATCH: Final = """
    import json, os, time
    from pathlib import Path

    FIGURES = []

    def pytest_runtest_logfinish(nodeid):
        groups = waiting() if len(FIGURES) in (100, 1000, 1999) else 0
        FIGURES.append((time.perf_counter(), len(os.listdir("/proc/self/fd")), groups))

    def waiting():
        # Those included that the builder still has to remove. Not Path.rglob: it fails where one goes meanwhile.
        own = "/pytest-isolate-%d-" % os.getpid()
        return sum(len(below) for path, below, _ in os.walk("/sys/fs/cgroup/memory") if own in path)

    def pytest_unconfigure():
        Path(os.environ["FIGURES"]).write_text(json.dumps(FIGURES))
    """

_OWNER: Final = """
    import pytest

    @pytest.fixture(scope="session", autouse=True)
    def owner(isolate_factory):
        return isolate_factory(name="owner", net={"internal": True})
    """

FILES: Final[dict[str, dict[str, str]]] = {
    "empty": {"test_empty.py": _EMPTY.format(count=200)},
    "floor": {"test_empty.py": _EMPTY.format(count=200), "conftest.py": CONFTEST},
    "long": {"test_empty.py": _EMPTY.format(count=2000), "conftest.py": _WATCH},
    "sleep": {"test_sleep.py": _SLEEP},
    "imports": {"test_imports.py": _IMPORTS.format(heavy=HEAVY)},
    "resident": {"test_empty.py": _EMPTY.format(count=100), "conftest.py": _RESIDENT},
    "joined": {"test_empty.py": _EMPTY.format(count=200), "conftest.py": _OWNER},
    "one": {"test_one.py": _ONE},
}


def write_suite(name: str, into: Path) -> Path:
    """The directory of the suite `name` of `FILES`, written anew."""
    directory = into / f"suite-{name}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    for file, text in FILES[name].items():
        (directory / file).write_text(textwrap.dedent(text), encoding="utf-8")
    return directory
