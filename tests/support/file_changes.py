"""A program that changes files in every way there is, and an oracle of what it changed that knows nothing of overlayfs.

`PROGRAM` runs inside a sandbox: it walks a tree, changes it, walks it again, and prints what differs as sorted (kind, path, size). `make`
makes the tree, outside. The rules of the comparison are those of `pytest_isolate.rootfs.changes`: a deleted or replaced directory stands
for what was in it, and a directory is changed where it itself is.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["PROGRAM", "make"]

ODD = (b"new\nline", b"not \xff utf-8", b"tab\tand \\ and 'quotes'", "ü".encode())


def make(root: Path) -> None:
    """The tree that is changed: every name in it says what becomes of it."""
    for directory in (
        "deleted/a/b",
        "emptied",
        "to-file/sub",
        "renamed/a/b",
        "chmod-dir/in",
        "again/old",
        "xattr-dir",
        "moved-into",
        "twice/a",
    ):
        (root / directory).mkdir(parents=True)
    files = (
        "written", "appended", "truncated", "chmod", "touched", "unlinked", "to-dir", "renamed-file", "overwritten", "linked", "xattr", "replaced",
        "deleted/a/file", "deleted/file", "emptied/file", "emptied/other", "to-file/file", "renamed/file", "renamed/a/file", "renamed/a/gone",
        "chmod-dir/in/file", "again/file", "again/same", "again/old/file", "untouched", "twice/a/file",
    )  # fmt: skip
    for number, name in enumerate(files):
        (root / name).write_text("x" * (number + 1))
    (root / "to-symlink").write_text("file")
    (root / "symlink").symlink_to("untouched")
    (root / "first").write_text("two names")
    os.link(root / "first", root / "second")
    for odd in ODD:
        Path(os.fsdecode(os.fsencode(root) + b"/" + odd)).write_text("odd")


PROGRAM = """
import hashlib, json, os, random, shutil, stat, sys
root, what = sys.argv[1:3]

def attributes(path):
    try:
        names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.")]
        return [(name, os.getxattr(path, name, follow_symlinks=False).hex()) for name in sorted(names)]
    except OSError:
        return []

def walk():
    found = {}
    def look(path):
        status = os.lstat(path)
        own = [status.st_mode, status.st_uid, status.st_gid, attributes(path)]
        size = 0
        if stat.S_ISLNK(status.st_mode):
            own.append(os.readlink(path))
        if stat.S_ISREG(status.st_mode):
            size = status.st_size
            own.append(size)
        if not stat.S_ISDIR(status.st_mode):
            own.append(status.st_ctime_ns)  # also of what was done and undone
        found[path] = own, size
        if stat.S_ISDIR(status.st_mode):
            for name in os.listdir(path):
                look(path + "/" + name)
    look(root)
    return found

def is_directory(found, path):
    return path in found and stat.S_ISDIR(found[path][0][0])

def difference(before, after):
    told = [("A", path, size) for path, (own, size) in after.items() if path not in before]
    told += [("C", path, size) for path, (own, size) in after.items() if path in before and before[path][0] != own]
    told += [("D", path, size) for path, (own, size) in before.items() if path not in after and is_directory(after, os.path.dirname(path))]
    return sorted(told, key=lambda entry: os.fsencode(entry[1]))

def write(path, data=b"new", mode="wb"):
    with open(path, mode) as file:
        file.write(data)

def move(source, target):
    # as tools do: where the kernel doesn't rename a directory, a copy
    try:
        os.rename(source, target)
    except OSError:
        shutil.copytree(source, target, symlinks=True)
        shutil.rmtree(source)

def every_way():
    os.chdir(root)
    write("created"); write("written"); write("appended", mode="ab"); os.truncate("truncated", 1)
    os.chmod("chmod", 0o600); os.utime("touched", (1, 1)); os.unlink("unlinked")
    shutil.rmtree("deleted"); os.unlink("emptied/file"); os.unlink("emptied/other")
    shutil.rmtree("to-file"); write("to-file")
    os.unlink("to-dir"); os.mkdir("to-dir"); write("to-dir/inside")
    os.rename("renamed-file", "new-name"); os.rename("replaced", "overwritten")
    move("renamed", "other"); os.unlink("other/a/gone"); write("other/a/added")
    move("moved-into", "other/deep"); move("other/deep", "other/deeper")
    move("twice", "thrice"); move("thrice/a", "thrice/b"); move("thrice", "created-dir")
    os.link("linked", "link"); os.symlink("written", "new-symlink")
    os.unlink("to-symlink"); os.symlink("written", "to-symlink")
    os.chmod("chmod-dir", 0o700)
    shutil.rmtree("again"); os.mkdir("again"); write("again/same"); write("again/new")
    os.makedirs("made/in/made"); os.mkfifo("made/fifo")
    write("first")
    with open("sparse", "wb") as file:
        file.truncate(1 << 20)
    for path in ("xattr", "xattr-dir"):
        try:
            os.setxattr(path, "user.set", b"1")
        except OSError:  # before Linux 6.6 not on tmpfs
            os.chmod(path, 0o711)
    for name in (b"new\\nline", b"not \\xff utf-8", b"tab\\tand \\\\ and 'quotes'", "\\u00fc".encode()):
        write(name); write(name + b"+")
    os.mkdir(b"dir \\xfe\\n"); write(b"dir \\xfe\\n/\\xfd")
    if len(sys.argv) > 3:
        os.chown("written", int(sys.argv[3]), int(sys.argv[3])); os.chown("made", int(sys.argv[3]), int(sys.argv[3]))

def at_random(seed):
    random.seed(seed)
    def some(kind):
        paths = [path for path in walk() if path != root and kind(path)]
        return random.choice(sorted(paths)) if paths else root + "/none"
    def anywhere():
        return random.choice([root, some(os.path.isdir), some(os.path.isdir)]) + "/" + random.choice(["n1", "n2", "a", "file", "renamed"])
    for step in range(30):
        action = random.choice([
            lambda: write(some(os.path.isfile), str(random.random()).encode()),
            lambda: write(anywhere(), str(random.random()).encode()),
            lambda: os.unlink(some(os.path.isfile)),
            lambda: shutil.rmtree(some(os.path.isdir)),
            lambda: os.makedirs(anywhere()),
            lambda: os.rename(some(os.path.isfile), anywhere()),
            lambda: os.rename(some(os.path.isdir), anywhere()),
            lambda: os.rename(some(os.path.isdir), some(os.path.isdir)),
            lambda: os.chmod(some(os.path.lexists), random.choice([0o755, 0o711, 0o700])),
            lambda: os.link(some(os.path.isfile), anywhere()),
            lambda: os.symlink("x", anywhere()),
        ])
        try:
            action()
        except (OSError, shutil.Error):
            pass

before = walk()
every_way() if what == "every way" else at_random(int(what))
print(json.dumps(difference(before, walk())))
"""
