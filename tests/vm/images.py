"""Kernels and root file systems, made of Debian's packages and kept by what they are made from.

Three layers, each a file or directory in the cache that is never changed once it has its name:

- `userland-HASH.tar`: mmdebstrap's result for a release's packages (half a minute);
- `kernel-HASH/`: a release's vmlinuz, initrd and modules (half a minute);
- `image-HASH.ext4`: userland + modules + what is ours: the user, the agent, a venv with the project's dependencies (half a minute).

The project itself isn't in an image; it is sent to the running machine (`tests.vm.project`). Making layers needs root, for the owners
of files and for chroot; a machine only reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import filelock

from tests.vm.processors import Processor
from tests.vm.releases import PACKAGES, PYTHONS, Variant

__all__ = ["CACHE", "ROOT", "Image", "NotInstalled", "demand_tools", "image"]

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = Path(os.environ.get("ISOLATE_VM_CACHE", "/var/cache/isolate-vm"))

_SIZE: Final = "6G"
"""Of the root file system. The file is sparse: it holds 600 MB."""

_GUEST: Final = Path(__file__).parent / "guest"
"""Files of the root file system that are ours, by their path there."""

_UNPRIVILEGED: Final = (
    "pyproject.toml",
    "tests/__init__.py",
    "tests/support/__init__.py",
    "tests/support/bytecode.py",
    "tests/support/unprivileged.py",
)
"""What makes the venv of the tests that run things as an unprivileged user: a minute and a half in emulation, so made here."""

_UNUSED: Final = 3 * 86400
"""Seconds after which a layer that no machine was started from makes room for a new one."""

# What nobody reads in a machine that lives for minutes: 40 % of the size.
_DPKG: Final = (
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/bin/qemu-*",
    "path-include=/usr/bin/qemu-aarch64*",
)


class NotInstalled(Exception):
    """Programs are missing here; the message says what to type."""


@dataclass(frozen=True)
class Image:
    """What QEMU starts."""

    vmlinuz: Path
    initrd: Path
    disk: Path


def image(variant: Variant) -> Image:
    """The variant's files, made now if they aren't there. Raises NotInstalled; subprocess.CalledProcessError, its output printed."""
    demand_tools(variant)
    kernel = _kernel(variant.kernel, variant.processor)
    disk = _disk(variant, kernel)
    return Image(kernel / "vmlinuz", kernel / "initrd", disk)


def demand_tools(variant: Variant) -> None:
    """Raises NotInstalled."""
    tools = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", **variant.processor.tools}
    if missing := [package for tool, package in tools.items() if not shutil.which(tool)]:
        raise NotInstalled(f"apt-get install --no-install-recommends {' '.join(missing)}")


def _mmdebstrap(processor: Processor, release: str, target: str, packages: Sequence[str], *options: str) -> None:
    dpkg = [f"--dpkgopt={line}" for line in _DPKG]
    what = ("--variant=minbase", f"--architectures={processor.debian}", f"--include={','.join(packages)}")
    with processor.runs_here(CACHE / "binfmt.lock"):
        _run("mmdebstrap", *what, *dpkg, *options, release, target, _mirror())


def _userland(release: str, processor: Processor) -> Path:
    with _made("userland", ".tar", release, processor.debian, _suites(release), *PACKAGES, *_DPKG) as (final, half):
        if half:
            _mmdebstrap(processor, release, str(half), PACKAGES)
    return final


def _kernel(release: str, processor: Processor) -> Path:
    packages = (f"linux-image-cloud-{processor.debian}", "initramfs-tools")
    with _made("kernel", "", release, _suites(release), *packages) as (final, half):
        if half:
            half.mkdir()
            # MODULES=most is the default, so that the initrd suits any root file system.
            out = (
                f'cp "$1"/boot/vmlinuz-* {half}/vmlinuz',
                f'cp "$1"/boot/initrd.img-* {half}/initrd',
                f'tar -C "$1"/lib/modules -cf {half}/modules.tar .',
            )
            _mmdebstrap(processor, release, "/dev/null", packages, "--format=null", *(f"--customize-hook={line}" for line in out))
    return final


def _disk(variant: Variant, kernel: Path) -> Path:
    userland = _userland(variant.userland, variant.processor)
    requirements = _requirements()
    ours = [
        f"{path.relative_to(_GUEST)}\0{path.read_text(encoding='utf-8')}" for path in sorted(_GUEST.rglob("*")) if path.is_file()
    ]
    ours += [(ROOT / name).read_text(encoding="utf-8") for name in _UNPRIVILEGED[1:]]
    code = Path(__file__).read_text(encoding="utf-8")
    with _made("image", ".ext4", userland.name, kernel.name, *requirements, *ours, code) as (final, half):
        if half:
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="tree-") as directory:
                tree = Path(directory) / "root"
                _plant(tree, variant, userland, kernel, requirements)
                options = ("-q", "-t", "ext4", "-L", "root", "-O", "^has_journal", "-m", "0", "-d", str(tree))
                _run("mke2fs", *options, str(half), _SIZE)
    return final


def _plant(tree: Path, variant: Variant, userland: Path, kernel: Path, requirements: Sequence[str]) -> None:
    """The tree that becomes the disk."""
    tree.mkdir()
    _run("tar", "-C", str(tree), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xf", str(userland))
    modules = tree / "usr/lib/modules"
    modules.mkdir(exist_ok=True)
    _run("tar", "-C", str(modules), "-xf", str(kernel / "modules.tar"))
    # --no-preserve: the checkout's owner is nobody there.
    _run("cp", "-r", "--no-preserve=ownership", f"{_GUEST}/.", str(tree))
    wheels = tree / "opt/wheels"
    wheels.mkdir()
    python = PYTHONS[variant.userland]
    platforms = [f"manylinux{name}_{variant.processor.machine}" for name in ("_2_17", "2014", "_2_28", "_2_34")]
    pip = (sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--only-binary=:all:")
    target = ("--implementation=cp", f"--python-version={python}", *(f"--platform={name}" for name in platforms))
    _run(*pip, *target, f"--dest={wheels}", *requirements)
    for name in _UNPRIVILEGED:
        (tree / "tmp" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / "tmp" / name)
    with variant.processor.runs_here(CACHE / "binfmt.lock"):
        _run("chroot", str(tree), "/bin/sh", "-eu", "/usr/local/lib/vm/plant", *requirements)


def _requirements() -> tuple[str, ...]:
    """Of the project and its tests, but for what the browser's tests take: no machine has one."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    tests = [line for line in extras["test"] if not line.startswith(("bokeh", "selenium"))]
    return (*project["dependencies"], *tests, *extras.get("systemd", ()))


def _mirror() -> str:
    """The one of this machine's own apt.

    Only the release itself: security updates come and go between two looks, and once their metapackage had gone before its index.
    """
    targets = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=True)
    return next(line for line in targets.stdout.splitlines() if line.endswith("/debian"))


def _suites(release: str) -> str:
    """What changes whenever Debian changes the release: the date of its index, looked up once a day.

    Without an answer the date of the last look holds.
    """
    known = CACHE / f"date-{release}"
    if known.exists() and time.time() - known.stat().st_mtime < 86400:
        return known.read_text(encoding="utf-8")
    try:
        with urllib.request.urlopen(f"{_mirror()}/dists/{release}/InRelease", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return known.read_text(encoding="utf-8") if known.exists() else ""
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    known.write_text(date := next((line for line in lines if line.startswith("Date:")), ""), encoding="utf-8")
    return date


@contextmanager
def _made(kind: str, suffix: str, *parts: str) -> Iterator[tuple[Path, Path | None]]:
    """Where a layer made of `parts` is, and where to make it if it isn't; renamed into place at the end, locked meanwhile."""
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    name = f"{kind}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}{suffix}"
    final = CACHE / name
    with filelock.FileLock(CACHE / f"{name}.lock"):
        if final.exists():
            os.utime(final)
            yield final, None
            return
        print(f"making {name} ({parts[0]})", file=sys.stderr, flush=True)
        for old in CACHE.glob(f"{kind}-*{suffix}"):
            if old.stat().st_mtime < time.time() - _UNUSED:
                _remove(old)
        half = CACHE / f"half-{name}"
        _remove(half)
        try:
            yield final, half
            half.rename(final)
        finally:
            _remove(half)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _run(*argv: str) -> None:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()
