"""What the import of an image costs: against tar, which only unpacks, into the same file system."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_isolate.images.store import Store
from pytest_isolate.model.image import Source
from tests.bench.measure import Row

if TYPE_CHECKING:
    from tests.bench.scenarios import Bench

__all__ = ["gzipped", "plain"]

_SIZE: Final = 300 << 20
_TREES: Final = (
    "/usr/lib/python3",
    "/usr/lib/python3.11",
    "/usr/share/perl",
    "/usr/share/doc",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/bin",
)
"""Files as images have them, small ones and large ones, taken until there is enough."""


def plain(bench: Bench) -> Row:
    """A root file system of 300 MB, as a tar."""
    return _row(bench, "import of a 300 MB image", "root.tar")


def gzipped(bench: Bench) -> Row:
    """The same, compressed by gzip."""
    return _row(bench, "import of a 300 MB image, gzipped", "root.tar.gz")


def _row(bench: Bench, what: str, name: str) -> Row:
    archive = _archive(bench.work, name)
    commands: dict[str, Callable[[Path], object]] = {"tar -x": partial(_tar, archive), "import": partial(_import, archive)}
    seconds: dict[str, list[float]] = {each: [] for each in commands}
    for number in range(bench.rounds + 1):
        for each, command in commands.items():
            target = bench.work / f"unpacked-{number}"
            target.mkdir()
            os.sync()  # what the former one left to be written isn't this one's
            begun = time.perf_counter()
            command(target)
            if number:
                seconds[each].append(time.perf_counter() - begun)
            shutil.rmtree(target)
    medians = {each: statistics.median(values) for each, values in seconds.items()}
    ratio = medians["tar -x"] / medians["import"]
    figures = {each: f"{value:.2f} s" for each, value in medians.items()}
    return Row(what, figures, f"{ratio:.2f} × the speed of tar -x", "≥ 0.7 ×", ratio >= 0.7)


def _archive(work: Path, name: str) -> Path:
    whole = work / "root.tar"
    if not whole.exists():
        chosen: list[str] = []
        size = 0
        for tree in _TREES:
            for directory, _, names in os.walk(tree):
                for each in names:
                    path = os.path.join(directory, each)
                    if size < _SIZE and os.path.isfile(path) and not os.path.islink(path) and os.stat(path).st_size < 20 << 20:
                        chosen.append(path.lstrip("/"))
                        size += os.stat(path).st_size
        argv: list[str | Path] = ["tar", "-C", "/", "--no-recursion", "-cf", whole, "-T", "-"]
        subprocess.run(argv, input="\n".join(chosen), text=True, check=True)
    if name.endswith(".gz") and not (work / name).exists():
        subprocess.run(["gzip", "-k", whole], check=True)
    return work / name


def _tar(archive: Path, target: Path) -> None:
    subprocess.run(["tar", "-xf", archive, "-C", target], check=True)


def _import(archive: Path, target: Path) -> None:
    with Store(str(target / "store")) as store:
        store.resolve([Source("tarball", str(archive))])
