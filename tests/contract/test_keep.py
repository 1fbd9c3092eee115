"""Files that a sandbox wrote, kept as a directory: what is in it, opened again, mounted as a layer; and what goes wrong."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_changes import own, tree_of
from tests.support.callers import Caller, caller
from tests.support.capabilities import requires
from tests.support.file_changes import PROGRAM
from tests.support.roots import make_root
from tests.support.unprivileged import USER_ID

__all__ = ["caller"]

LOOK = """
import hashlib, json, os, stat, sys

def look(path, found):
    status = os.lstat(path)
    record = [status.st_mode, status.st_uid, status.st_gid]
    try:
        names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))
        record += [(name, os.getxattr(path, name, follow_symlinks=False).hex()) for name in names]
    except OSError:
        pass
    if stat.S_ISREG(status.st_mode):
        content = open(path, "rb").read()
        record += [status.st_size, status.st_blocks * 512 < status.st_size, hashlib.sha256(content).hexdigest(), status.st_mtime_ns]
        record.append(status.st_nlink)
    elif stat.S_ISLNK(status.st_mode):
        record.append(os.readlink(path))
    found[path] = record
    if stat.S_ISDIR(status.st_mode):
        for name in sorted(os.listdir(path)):
            look(path + "/" + name, found)
    return found

print(json.dumps(look(sys.argv[1], {})))
"""

KEEP = """
def looked(opened, *args):
    done = opened.run([PYTHON, "-I", "-S", "-c", *args], timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)

def changed(opened, *more):
    looked(opened, PROGRAM + '''
if os.getuid() == 0:
    os.chmod(root + "/written", 0o4711)
with open(root + "/holes", "wb") as file:
    file.write(b"x"); file.seek(5 << 20); file.write(b"y"); file.seek(9 << 20); file.write(b"z"); file.truncate(12 << 20)
os.mkdir(root + "/no-access"); open(root + "/no-access/file", "w").close(); os.chmod(root + "/no-access/file", 0); os.chmod(root + "/no-access", 0)
''', TREE, "every way", *more)
"""


def case(tree: Path, code: str) -> str:
    return f"PROGRAM, LOOK, TREE, KEPT = {PROGRAM!r}, {LOOK!r}, {str(tree)!r}, {str(tree.parent / 'kept')!r}\n{KEEP}\n{code}"


@pytest.mark.parametrize("user", ["self", "root", pytest.param("root with files of others", marks=requires("subordinate-ids"))])
def test_kept_files_are_the_same_when_they_are_opened_again(caller: Caller, user: str) -> None:
    tree = tree_of(caller)
    user, *others = user.split(" ", 1)
    first, changes, again, told = caller.run(case(tree, f"""
        with box(user={user!r}) as opened:
            changed(opened, *{["5"] if others else []})
            first = [looked(opened, LOOK, TREE) if os.geteuid() == 0 or {user!r} == "root" else None, opened.changes().to_json()]
            kept = opened.keep(KEPT, {{"nodeid": "test"}})
            assert kept == opened.changes()
        with Sandbox(Spec(user={user!r}), pool=POOL, kept=KEPT) as opened:
            again = [looked(opened, LOOK, TREE) if first[0] else None, opened.changes().to_json()]
        tell(first + again)
    """.replace("\n        ", "\n")))  # fmt: skip
    assert again == first
    assert told == changes
    links = {path.stat().st_ino for path in (tree.parent / "kept").rglob("*") if path.name in ("link", "linked")}
    assert len(links) == 1
    about = json.loads((tree.parent / "kept" / "kept.json").read_text())
    assert (about["nodeid"], about["changes"], about["notes"]) == ("test", changes["changes"], [])


@requires("root")
@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_kept_directories_can_be_mounted_as_layers(caller: Caller, tmp_path: Path) -> None:
    tree = tree_of(caller)
    inside = caller.run(case(tree, """
with box() as opened:
    changed(opened)
    inside = looked(opened, LOOK, TREE)
    opened.keep(KEPT)
tell(inside)
"""))  # fmt: skip
    (number,) = [entry["number"] for entry in json.loads((tmp_path / "kept/kept.json").read_text())["trees"]]
    below = f"{tmp_path}/kept/{number}{tree}"
    script = (
        f'mount -t tmpfs none /mnt && cd /mnt && mkdir m && mount -t overlay overlay -o "lowerdir={below}:{tree},redirect_dir=follow" m && '
        f'exec {sys.executable} -I -S -c "$1" /mnt/m'
    )
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", LOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mounted = {path.replace("/mnt/m", str(tree), 1): record for path, record in json.loads(done.stdout).items()}
    # Redirects are from the root of the overlay, which is the host's here, and not of the part that was mounted.
    moved = [f"{tree}/other", f"{tree}/created-dir"]

    def settled(found: dict[str, list[object]]) -> dict[str, object]:
        return {
            path: [str(part).replace("/mnt/m", str(tree)) for part in record]
            for path, record in found.items()
            if not any(path.startswith(f"{place}/") for place in moved)
        }

    assert settled(mounted) == settled(inside)


def test_a_sandbox_of_another_size_says_that_kept_files_dont_fit(caller: Caller) -> None:
    text = caller.run(case(caller.directory / "tree", """
with box() as opened:
    opened.run(["sh", "-c", "head -c 3000000 /dev/urandom > big"], cwd=os.getcwd(), check=True)
    opened.keep(KEPT)
try:
    with Sandbox(Spec(disk=1 << 20), pool=POOL, kept=KEPT): tell("opened")
except SetupError as error:
    tell(str(error))
with Sandbox(Spec(), pool=POOL, kept=KEPT) as opened:
    assert opened.run(["stat", "-c", "%s", "big"], cwd=os.getcwd()).stdout == b"3000000\\n"
"""))  # fmt: skip
    assert "reopen" in text
    assert "ENOSPC" in text
    assert "disk=" in text


@pytest.fixture
def small(caller: Caller) -> Iterator[Path]:
    """A file system with hardly any room."""
    path = caller.directory / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=1777", "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@requires("root")
def test_full_disk_leaves_nothing_and_what_was_kept_before(caller: Caller, small: Path) -> None:
    text = caller.run(f"""if True:
        with box() as opened:
            opened.run(["sh", "-c", "echo first > file"], cwd=os.getcwd(), check=True)
            opened.keep({str(small / "kept")!r})
        before = sorted(os.walk({str(small)!r}))
        with box() as opened:
            opened.run(["sh", "-c", "for i in 1 2 3 4 5; do head -c 100000 /dev/urandom > file$i; done"], cwd=os.getcwd(), check=True)
            try:
                opened.keep({str(small / "kept")!r})
            except IsolateError as error:
                told = str(error)
            assert len(opened.changes()) == 5
        assert sorted(os.walk({str(small)!r})) == before
        with box() as opened:
            opened.run(["sh", "-c", "echo second > file"], cwd=os.getcwd(), check=True)
            opened.keep({str(small / "kept")!r})
        with Sandbox(Spec(), pool=POOL, kept={str(small / "kept")!r}) as opened:
            assert opened.run(["cat", "file"], cwd=os.getcwd()).stdout == b"second\\n"
        assert os.listdir({str(small)!r}) == ["kept"]
        tell(told)
    """)
    assert text.startswith(f"what the sandbox wrote can't be kept in {small}: ")
    assert "ENOSPC (No space left on device)" in text
    assert "--isolate-keep-to=DIR" in text


def test_what_a_killed_builder_left_half_made_is_removed_by_the_next_one(caller: Caller) -> None:
    before, after = caller.run("""if True:
        with box() as opened:
            opened.run(["sh", "-c", "head -c 150000000 /dev/zero > big"], cwd=os.getcwd(), check=True)
            builder = POOL.launch().pid
            os.mkdir("in")
            def kill():
                while not any(name.endswith(".half") for name in os.listdir("in")): time.sleep(0.001)
                os.kill(builder, signal.SIGKILL)
            killer = threading.Thread(target=kill)
            killer.start()
            try:
                opened.keep("in/kept")
            except SandboxGone:
                before = os.listdir("in")
            killer.join()
        with Sandbox() as opened:
            opened.run(["sh", "-c", "echo > small"], cwd=os.getcwd(), check=True)
            opened.keep("in/kept")
        tell([before, os.listdir("in")])
    """)
    assert [name.endswith(".half") for name in before] == [True]
    assert after == ["kept"]


def test_directory_of_something_else_is_refused_by_name(caller: Caller) -> None:
    (caller.directory / "else").mkdir()
    (caller.directory / "else" / "kept.json").write_text('{"trees": [{"number": 0, "path": "/nowhere/at/all"}]}')
    (caller.directory / "none").mkdir()
    (caller.directory / "bad").mkdir()
    (caller.directory / "bad" / "kept.json").write_text("[")
    own(caller.directory, caller)
    texts = caller.run("""if True:
        texts = []
        for name in ("else", "none", "bad"):
            try:
                with Sandbox(Spec(), pool=POOL, kept=os.path.abspath(name)): pass
            except SetupError as error:
                texts.append(str(error))
        tell(texts)
    """)
    assert "/nowhere/at/all had a writable layer of its own, and has none now" in texts[0]
    assert "none: ENOENT" in texts[1] or "kept.json" in texts[1]
    assert "kept.json isn't what was written there" in texts[2]


RUN = ("-m", "pytest_isolate", "run")
SHELL = ("-m", "pytest_isolate", "shell")


def test_run_keeps_and_shell_opens_again(caller: Caller) -> None:
    done = caller.python(*RUN, "--keep=kept", "--", "sh", "-c", "echo one > file; exit 3")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"pytest-isolate: 1 changed paths kept in {caller.directory}/kept\n"
    assert not (caller.directory / "file").exists()
    done = caller.python(*SHELL, "kept", "--", "sh", "-c", "cat file; echo more >> file; exit 4")
    assert (done.returncode, done.stdout, done.stderr) == (4, "one\n", "")
    done = caller.python(*SHELL, "kept", env={"SHELL": "/bin/cat"}, stdin="typed")
    assert (done.returncode, done.stdout, done.stderr) == (0, "typed", "")
    assert caller.python(*SHELL, "kept", "--", "cat", "file").stdout == "one\n"
    assert caller.python(*SHELL, "--remove", "kept").returncode == 0
    assert os.listdir(caller.directory) == []


def test_run_refuses_a_place_before_it_runs_anything(caller: Caller) -> None:
    (caller.directory / "full").mkdir()
    (caller.directory / "full" / "file").touch()
    for keep, words in (
        ("full", "isn't empty"),
        ("/proc/kept", "nothing can be kept in /proc"),
        ("full/file", "Not a directory"),
    ):
        done = caller.python(*RUN, f"--keep={keep}", "--", "touch", "ran")
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
    (caller.directory / "empty").mkdir()
    own(caller.directory, caller)
    assert caller.python(*RUN, "--keep=empty", "--", "true").returncode == 0
    assert os.listdir(caller.directory / "empty") == ["kept.json"]


@requires("subordinate-ids")
def test_files_of_subordinate_ids_are_removed_by_shell(caller: Caller) -> None:
    script = "mkdir -p a/b; echo > a/b/file; chown -R 7:7 a; chmod 700 a a/b"
    assert caller.python(*RUN, "--user=root", "--keep=kept", "--", "sh", "-c", script).returncode == 0
    owners = {path.lstat().st_uid for path in (caller.directory / "kept").rglob("*") if path.name in ("a", "b", "file")}
    assert owners == ({7} if caller.is_root else {_subordinate() + 6})
    done = caller.python(*SHELL, "--remove", "kept")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(caller.directory) == []


def _subordinate() -> int:
    """The user's first."""
    done = subprocess.run(["getsubids", str(USER_ID)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return int(done.stdout.split()[2])
    return next(
        int(line.split(":")[1])
        for line in Path("/etc/subuid").read_text().splitlines()
        if line.startswith(("isolate-tests:", f"{USER_ID}:"))
    )


def test_shell_names_what_is_there(caller: Caller) -> None:
    done = caller.python(*SHELL, "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing is kept of 'nothing'" in done.stderr
    assert "--isolate-keep=failed" in done.stderr


def test_files_written_over_layers_are_told_and_opened_again(caller: Caller) -> None:
    place = caller.directory / "roots"
    make_root(place / "root", data__kept="x", data__gone="four", old__a="1", old__b="22", etc__motd="motd")
    (place / "layer/data").mkdir(parents=True)
    (place / "layer/data/above").write_text("above")
    os.mknod(place / "layer/data/kept", stat.S_IFCHR, os.makedev(0, 0))
    own(place, caller)
    told, again, output = caller.run(f"""if True:
        spec = Spec(rootfs=parse_key("rootfs", {[str(place / "root"), str(place / "layer")]!r}, "/"))
        script = "rm /data/gone /data/above; echo new > /data/kept; rm -r /old; mkdir /old; echo 333 > /old/b; echo > /data/added; mkdir /srv"
        with Sandbox(spec, pool=POOL) as opened:
            done = opened.run(["/bin/sh", "-ec", script], cwd="/")
            assert done.returncode == 0, done.stderr
            told = opened.changes().to_json()["changes"]
            opened.keep(os.path.abspath("kept"))
        with Sandbox(spec, pool=POOL, kept=os.path.abspath("kept")) as opened:
            again = opened.changes().to_json()["changes"]
            output = opened.run(["/bin/sh", "-c", "cat /data/kept /old/b /etc/motd; ls /data /old"], cwd="/").stdout.decode()
        tell([told, again, output])
    """)
    assert told == [
        ["D", "/data/above", 5],
        ["A", "/data/added", 1],
        ["D", "/data/gone", 4],
        ["A", "/data/kept", 4],
        ["D", "/old/a", 1],
        ["C", "/old/b", 4],
        ["A", "/srv", 0],
    ]
    assert again == told
    assert output == "new\n333\nmotd/data:\nadded\nkept\n\n/old:\nb\n"


def test_files_on_disk_are_told_and_opened_again(caller: Caller) -> None:
    tree = tree_of(caller)
    env = {"XDG_DATA_HOME": str(caller.directory / "data")}
    expected, changes, again = caller.run(case(tree, """
with box(upper="disk") as opened:
    expected = looked(opened, PROGRAM, TREE, "every way")
    changes = opened.keep(KEPT).to_json()["changes"]
with Sandbox(Spec(upper="disk"), pool=POOL, kept=KEPT) as opened:
    tell([expected, changes, opened.changes().to_json()["changes"]])
"""), env=env)  # fmt: skip
    assert changes == expected
    assert again == changes
