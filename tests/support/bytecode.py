"""The package's byte code, written once before many processes need it and aren't to write it, or can't.

Under PYTHONDONTWRITEBYTECODE, and where the directory is somebody else's, each of them would compile the package anew: a third of the time
that a pytest run of one test takes.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["write_bytecode"]

_IMPORTS: Final = """
import importlib, pkgutil
import pytest_isolate
for found in pkgutil.walk_packages(pytest_isolate.__path__, "pytest_isolate."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)

def test_all_are_imported(): pass
"""


def write_bytecode(python: str, tree: Path) -> None:
    """For `python`, of the package in `tree`, and what pytest makes of that and of the plugins that are installed.

    Raises:
        RuntimeError: a module can't be compiled or imported.
    """
    dropped = ("PYTEST_", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)} | {"PYTHONPATH": str(tree)}
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "test_imports.py").write_text(_IMPORTS, encoding="utf-8")
        run = ["pytest", "-p", "no:cacheprovider", f"--rootdir={directory}", "test_imports.py"]
        alone = [*run, "-p", "pytest_isolate.plugin", "--disable-plugin-autoload"]
        # Which modules pytest rewrites depends on how it comes to load their plugin.
        for command in (["compileall", "-q", str(tree / "pytest_isolate")], alone, run):
            done = subprocess.run(
                [python, "-m", *command], cwd=directory, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
