"""Runs inside a machine, its source handed to `python -c`: takes the project as a tar from standard input.

`tree/` is the checkout, which goes to each user's directory; `site/` the unpacked wheel, which goes into the venv. Only what differs
is written, so that the next pytest needn't compile everything anew: in emulation that is ten seconds. (A wheel's files all bear the
same date, by which Python would take old byte code for good, so the date is that of writing.)
"""

from __future__ import annotations

import compileall
import os
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from pathlib import Path

# (contents or link's target, mode); None for a mode: a symbolic link.
Files = Mapping[Path, tuple[bytes, int | None]]


def received() -> dict[str, dict[Path, tuple[bytes, int | None]]]:
    found: dict[str, dict[Path, tuple[bytes, int | None]]] = {"tree": {}, "site": {}}
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            top, _, rest = member.name.partition("/")
            if member.issym():
                found[top][Path(rest)] = (os.fsencode(member.linkname), None)
            elif file := archive.extractfile(member):
                found[top][Path(rest)] = (file.read(), member.mode)
    return found


def place(files: Files, directory: Path, owner: int) -> list[Path]:
    """Make `directory` hold these files and no others of the last time; what was written."""
    list_ = directory.parent / f".{directory.name}.received"
    before = [Path(line) for line in list_.read_text(encoding="utf-8").splitlines()] if list_.exists() else []
    for path in before:
        if path not in files:
            (directory / path).unlink(missing_ok=True)
    written = []
    for path, (content, mode) in files.items():
        target = directory / path
        if same(target, content, mode):
            continue
        for parent in reversed(path.parents):
            if not (directory / parent).is_dir():
                (directory / parent).mkdir()
                os.chown(directory / parent, owner, owner)
        target.unlink(missing_ok=True)
        if mode is None:
            target.symlink_to(os.fsdecode(content))
        else:
            target.write_bytes(content)
            target.chmod(mode)
        os.chown(target, owner, owner, follow_symlinks=False)
        written.append(target)
    list_.write_text("".join(f"{path}\n" for path in files), encoding="utf-8")
    return written


def same(target: Path, content: bytes, mode: int | None) -> bool:
    if mode is None:
        return target.is_symlink() and os.readlink(os.fsencode(target)) == content
    return (
        target.is_file() and not target.is_symlink() and target.stat().st_mode & 0o7777 == mode and target.read_bytes() == content
    )


def main() -> None:
    files = received()
    place(files["tree"], Path("/srv/project"), 0)
    place(files["tree"], Path("/home/tester/project"), 1000)
    venv = Path(sysconfig.get_path("purelib"))
    for path in place(files["site"], venv, 0):
        if path.suffix == ".py":
            compileall.compile_file(path, quiet=1)
    script = Path(sys.prefix, "bin/pytest-isolate")
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pytest_isolate.__main__ import main\nsys.exit(main())\n", encoding="utf-8"
    )
    script.chmod(0o755)


if __name__ == "__main__":
    main()
