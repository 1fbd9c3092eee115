"""What layers cost: many of them against one, a large state per test against none, against copies of it, and against podman."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench.measure import Row, interleaved, timed
from tests.bench.peers import OURS
from tests.support.roots import make_root

if TYPE_CHECKING:
    from tests.bench.scenarios import Bench

__all__ = ["depth", "state"]

_DEEP: Final = 60
_TESTS: Final = 200
_STATE: Final = 1 << 30
_FILES: Final = 64
_PARENT: Final = "isolate-bench-podman"


def depth(bench: Bench) -> Row:
    """200 empty tests on a root file system of 60 layers, against one layer."""
    directory = bench.suite("empty")
    layers = [make_root(bench.work / "layers/0")]
    for number in range(1, _DEEP):
        layer = bench.work / f"layers/{number}"
        (layer / f"data/{number}").mkdir(parents=True)
        (layer / "data/last").write_text(str(number))
        layers.append(layer)
    store = f"--isolate-store={bench.work}/store"
    stacks = {"one layer": layers[:1], f"{_DEEP} layers": layers}
    times = interleaved(
        {
            name: bench.pytest(OURS, directory, store, *(f"--isolate-rootfs={layer}" for layer in stack))
            for name, stack in stacks.items()
        },
        bench.rounds,
    )
    one, many = times.values()
    figures = {name: f"{value:.2f} s" for name, value in times.items()}
    return Row(f"{_TESTS} empty tests on {_DEEP} layers", figures, f"{many / one:.2f} × one layer", "≤ 1.1 ×", many / one <= 1.1)


def state(bench: Bench) -> Row:
    """A fresh state of 1 GB for each test, against an empty one; beside it what a copy costs, and a container."""
    directory = bench.suite("empty")
    full, empty = bench.work / "state/full", bench.work / "state/empty"
    for layer in (full, empty):
        (layer / "var/tmp/state").mkdir(parents=True)
    for number in range(_FILES):
        (full / f"var/tmp/state/{number}").write_bytes(os.urandom(_STATE // _FILES))
    options = [f"--isolate-store={bench.work}/store", "--isolate-rootfs=host"]
    with _container(full, bench.work) as container:
        commands: dict[str, Callable[[], object]] = {
            "empty": bench.pytest(OURS, directory, *options, f"--isolate-rootfs={empty}"),
            "1 GB": bench.pytest(OURS, directory, *options, f"--isolate-rootfs={full}"),
            "cp -a": partial(_copied, full, bench.work / "copy", "-a"),
        }
        if _reflinks(full, bench.work / "copy"):
            commands["cp --reflink"] = partial(_copied, full, bench.work / "copy", "-a", "--reflink=always")
        if container is not None:
            commands["podman run"] = container
        times = interleaved(commands, bench.rounds)
    more = (times["1 GB"] - times["empty"]) / _TESTS
    per_test = {name: times[name] / _TESTS for name in ("empty", "1 GB")} | {
        name: value for name, value in times.items() if name not in ("empty", "1 GB")
    }
    figures = {name: f"{value * 1000:.1f} ms ({value / per_test['1 GB']:.2f} ×)" for name, value in per_test.items()}
    return Row("a fresh state of 1 GB for each test", figures, f"{more * 1000:+.2f} ms per test", "≤ 5 ms", more <= 0.005)


def _copied(source: Path, target: Path, *options: str) -> None:
    subprocess.run(["cp", *options, source, target], check=True)
    shutil.rmtree(target)


def _reflinks(source: Path, target: Path) -> bool:
    done = subprocess.run(["cp", "-a", "--reflink=always", source, target], capture_output=True, check=False)
    shutil.rmtree(target, ignore_errors=True)
    return done.returncode == 0


@contextmanager
def _container(state: Path, work: Path) -> Iterator[Callable[[], object] | None]:
    """``podman run`` of an image with the same state; None where there is no podman, or it can't run one here."""
    if shutil.which("podman") is None:
        yield None
        return
    root = make_root(work / "image", ("sh", "true"))
    shutil.copytree(state, root, dirs_exist_ok=True)
    podman = [
        "podman",
        "--root",
        str(work / "podman"),
        "--runroot",
        str(work / "podman-run"),
        "--cgroup-manager=cgroupfs",
        "--runtime=runc",
    ]
    tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
    try:
        subprocess.run([*podman, "import", "-q", "-", "bench"], stdin=tar.stdout, check=True, capture_output=True)
        run = partial(
            timed,
            [
                *podman,
                "run",
                "--rm",
                "--network=none",
                f"--cgroup-parent=/{_PARENT}",
                "--ulimit=nofile=1024",
                "--ulimit=nproc=1024",
                "bench",
                "true",
            ],
            work,
        )
        run()
    except subprocess.CalledProcessError:
        yield None
    else:
        yield run
    finally:
        tar.wait()
        with suppress(OSError):
            subprocess.run([*podman, "system", "reset", "--force"], capture_output=True, check=False)
        shutil.rmtree(root, ignore_errors=True)
        for parent in Path("/sys/fs/cgroup").glob(f"*/{_PARENT}"):
            for directory in (*sorted((path for path in parent.rglob("*") if path.is_dir()), reverse=True), parent):
                directory.rmdir()
