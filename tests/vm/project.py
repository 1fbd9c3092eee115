"""The project in a machine: its checkout, once for each user, and its wheel, unpacked into the machine's venv as pip would.

pip itself takes a minute for it in emulation.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.vm.channel import Channel
from tests.vm.machines import Machine

__all__ = ["sync"]

_RECEIVE: Final = Path(__file__).with_name("receive.py")


def sync(machine: Machine, tree: Path) -> int:
    """Send a checkout as it is now: what git tracks, and what it doesn't and doesn't ignore. The status of unpacking."""
    with tempfile.TemporaryFile() as file, _unpacked_wheel(tree) as site:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in _files(tree):
                archive.add(tree / name, f"tree/{name}", recursive=False)
            for path in sorted(path for path in site.rglob("*") if path.is_file()):
                archive.add(path, f"site/{path.relative_to(site)}")
        file.seek(0)
        with Channel(machine.directory, timeout=30) as channel:
            argv = ("/opt/venv/bin/python", "-c", _RECEIVE.read_text(encoding="utf-8"))
            return channel.run(argv, given=file.fileno(), out=sys.stdout.buffer, err=sys.stderr.buffer, timeout=300)


def _files(tree: Path) -> list[str]:
    argv = ("git", "-C", str(tree), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in listed if name and ((tree / name).exists() or (tree / name).is_symlink())]


@contextmanager
def _unpacked_wheel(tree: Path) -> Iterator[Path]:
    """What the project's wheel puts into site-packages. With hatchling at hand a third of a second, else pip fetches it first."""
    if find_spec("hatchling"):
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    else:
        build = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--quiet", "--no-deps", ".", "--wheel-dir"]
    with tempfile.TemporaryDirectory() as directory:
        dist, site = Path(directory, "dist"), Path(directory, "site")
        done = subprocess.run(
            [*build, str(dist)], cwd=tree, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            done.check_returncode()
        (wheel,) = dist.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        yield site
