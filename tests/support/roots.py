"""Root file systems made by hand: a few programs of the host with the libraries that they load, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["PROGRAMS", "make_root"]

PROGRAMS = ("sh", "ls", "cat", "id", "mkdir", "rm", "stat", "env", "pwd", "touch", "dd")


def make_root(place: Path, programs: Sequence[str] = PROGRAMS, **files: str) -> Path:
    """`place` with ``usr/bin``, the links of a merged /usr, and `files` (``__`` in their names for a slash)."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "etc", "root", "var"):
        (place / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64"):
        (place / name).symlink_to(f"usr/{name}")
    for program in programs:
        found = shutil.which(program)
        assert found, program
        shutil.copy2(os.path.realpath(found), place / "usr/bin" / program)
        for line in subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout.splitlines():
            if match := re.match(r"\t(?:\S+ => )?(/\S+) \(0x", line):
                directory, name = os.path.split(match[1])
                target = place / os.path.realpath(directory).lstrip("/") / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    shutil.copy2(os.path.realpath(match[1]), target)
    (place / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n")
    for name, text in files.items():
        file = place / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return place
