"""The project in a machine: its checkout, twice, and its wheel, installed into the machine's venv."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.vm.channel import Channel
from tests.vm.machines import Machine

__all__ = ["DIRECTORIES", "sync"]

DIRECTORIES: Final = {"root": "/srv/project", "tester": "/home/tester/project"}
"""Where each user finds a checkout of its own."""


def sync(machine: Machine, tree: Path) -> int:
    """Send a checkout as it is now: what git tracks, and what it doesn't and doesn't ignore. The status of unpacking."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in _files(tree):
                archive.add(tree / name, f"tree/{name}", recursive=False)
            wheel = _wheel(tree)
            info = tarfile.TarInfo(wheel[0])
            info.size = len(wheel[1])
            archive.addfile(info, io.BytesIO(wheel[1]))
        file.seek(0)
        with Channel(machine.directory, timeout=10) as channel:
            argv = ("/bin/sh", "-eu", "/usr/local/lib/vm/sync")
            return channel.run(argv, given=file.fileno(), out=sys.stdout.buffer, err=sys.stderr.buffer, timeout=300)


def _files(tree: Path) -> list[str]:
    argv = ("git", "-C", str(tree), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in listed if name and ((tree / name).exists() or (tree / name).is_symlink())]


def _wheel(tree: Path) -> tuple[str, bytes]:
    """File name and contents. With hatchling at hand a third of a second, else pip fetches it first."""
    if find_spec("hatchling"):
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    else:
        build = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--quiet", "--no-deps", ".", "--wheel-dir"]
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([*build, directory], cwd=tree, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
        (wheel,) = Path(directory).glob("*.whl")
        return wheel.name, wheel.read_bytes()
