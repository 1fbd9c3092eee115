"""The store: one unpack for all who ask, whole or not at all, verified, exported, pruned; and layers that were made, not imported."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_images import PRELUDE, SHOWN, readable, run
from tests.support.archives import GZIP, docker_archive, layout, member, tar
from tests.support.callers import Caller, caller
from tests.support.image_tools import LISTING

__all__ = ["caller"]

BIG = tar(*(member(f"d{number % 7}/file{number}", os.urandom(100_000)) for number in range(300)))


def command(caller: Caller, *args: str, status: int = 0) -> str:
    """What `layers` printed."""
    action, *rest = args
    done = caller.python("-m", "pytest_isolate", "layers", action, "--store", f"{caller.directory}/store", *rest)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stdout + done.stderr


def three_layers(caller: Caller) -> Path:
    layers = [tar(member("a", b"a" * 1000)), tar(member("b", b"b" * 2000), member(".wh.a")), tar(member("c", b"c" * 3000))]
    path = layout(caller.directory / "image", layers, media=GZIP)
    readable(caller.directory)
    return path


def names(caller: Caller, part: str) -> list[str]:
    return sorted(os.listdir(caller.directory / "store" / part))


AT_ONCE = """
import subprocess
CODE = '''
seen = []
sources = [Source.read(each, "/") for each in sys.argv[1:]]
found = STORE.resolve(sources, lambda progress: seen.append(progress.what))
print(json.dumps([sorted({what.split(" of ")[0] for what in seen}), found.directories]))
'''
def start(*sources):
    return subprocess.Popen([sys.executable, "-c", PRELUDE + CODE, *sources], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
running = [start(sys.argv[1 + number % 2]) for number in range(6)]
print(json.dumps([json.loads("".join(each.communicate()) or "null") for each in running]))
"""


def test_layers_are_unpacked_once_however_many_ask_at_once(caller: Caller) -> None:
    layers = [tar(member("big", os.urandom(3_000_000))), tar(member("more", os.urandom(2_000_000)))]
    first = layout(caller.directory / "first", layers)
    second = docker_archive(caller.directory / "second.tar", layers)
    readable(caller.directory)
    answers = run(caller, f"PRELUDE = {PRELUDE!r}\n{AT_ONCE}", f"oci:{first}", f"docker-archive:{second}")
    assert len({tuple(directories) for _, directories in answers}) == 1
    assert sorted(what for seen, _ in answers for what in seen) == ["unpacking layer 1", "unpacking layer 2"]
    assert len(names(caller, "images")) == 2
    assert names(caller, "tmp") == []


KILLED = """
import signal
def kill(progress):
    if progress.done_bytes < progress.total_bytes:
        with open(f"/proc/self/task/{os.getpid()}/children") as file: (worker,) = file.read().split()
        with open("worker", "w") as file: file.write(worker)
        os.kill(os.getpid() if sys.argv[2] == "caller" else int(worker), signal.SIGKILL)
from pytest_isolate.images.prune import prune
from pytest_isolate.model.errors import ImageError
for _ in range(20):  # the worker is faster than the news of its progress where this process has to wait for a CPU
    try:
        STORE.resolve([Source("tarball", sys.argv[1])], kill)
    except ImageError as error:
        print(json.dumps(error.message))
        break
    STORE.close()
    prune(STORE, everything=True)
"""


@pytest.mark.parametrize("who", ["caller", "worker"])
def test_sigkill_in_the_middle_leaves_nothing_visible_and_the_next_import_works(caller: Caller, who: str) -> None:
    path = caller.directory / "a.tar"
    path.write_bytes(BIG)
    done = caller.python("-c", PRELUDE + KILLED, str(path), who)
    if who == "caller":
        assert done.returncode == -9, done.stdout + done.stderr
        worker = Path("/proc", (caller.directory / "worker").read_text())
        deadline = time.monotonic() + 5
        while worker.exists() and "Z" not in (worker / "stat").read_text().split()[2]:
            assert time.monotonic() < deadline, "the worker outlives its caller"
            time.sleep(0.01)
        assert len(names(caller, "tmp")) == 1
    else:
        assert json.loads(done.stdout) == f"{path}: the process that unpacks layers ended with signal SIGKILL"
    assert names(caller, "layers") == []
    assert names(caller, "images") == []
    (directory,) = run(caller, "print(json.dumps(stack(sys.argv[1]).directories))", str(path))
    assert len(os.listdir(directory)) == 7
    assert names(caller, "tmp") == []
    assert command(caller, "verify") == ""


def test_altered_layer_is_found_path_by_path(caller: Caller) -> None:
    path = caller.directory / "a.tar"
    path.write_bytes(
        tar(
            *(member(f"d/{name}", name.encode()) for name in ("same", "content", "mode", "gone", "link")),
            member("linked", kind=b"1", link="d/link"),
        )
    )
    command(caller, "import", str(path))
    assert command(caller, "verify") == ""
    (layer,) = names(caller, "layers")
    root = caller.directory / "store/layers" / layer / "diff"
    content = root / "d/content"
    times = content.stat()
    content.write_bytes(b"CONTENT")
    os.utime(content, ns=(times.st_atime_ns, times.st_mtime_ns))
    (root / "d/mode").chmod(0o600)
    (root / "d/gone").unlink()
    (root / "d/new").write_bytes(b"")
    (root / "linked").unlink()
    (root / "linked").write_bytes(b"link")
    (root / "linked").chmod(0o644)
    if caller.is_root:
        os.chown(root / "d/same", 1, 1)
    else:
        for each in ("d/new", "linked"):
            os.chown(root / each, content.stat().st_uid, content.stat().st_gid)
    said = command(caller, "verify", status=1).splitlines()
    assert said == [
        *(f"{layer[:12]}: {line}" for line in (
            "d/content: content", "d/gone: missing", "d/mode: mode", "d/new: added", *(["d/same: owner, group"] if caller.is_root else []),
            "linked: kind, content",
        )),
        "1 layers read, 1 altered",
    ]  # fmt: skip


OTHER_BOOT = """
import glob, shutil
def started_again():
    # What was written down names the boot that it was made in; nothing else tells of it.
    for path in [*glob.glob("store/layers/*/meta.json"), *glob.glob("store/images/*.json")]:
        with open(path) as file: data = json.load(file)
        with open(path, "w") as file: json.dump({**data, "boot": "another"}, file)
def used():
    with Store(os.path.abspath("store")) as store:
        found = store.resolve([Source.read(each, "/") for each in sys.argv[1:]])
        return [sorted(os.listdir(each)) for each in found.directories], [os.path.getsize(f"{found.directories[-1]}/c")]
def marks():
    return len(glob.glob("store/layers/*/settled"))
"""


def test_layers_of_an_earlier_boot_are_read_once_and_kept_if_they_are_whole(caller: Caller) -> None:
    path = three_layers(caller)
    code = """
first = used()
inodes = sorted(os.stat(each).st_ino for each in glob.glob("store/layers/*"))
told = [marks()]
started_again()
second = used()
told.append(marks())
started_again()
for each in glob.glob("store/layers/*/tree"): os.unlink(each)  # nothing is compared any more
third = used()
print(json.dumps([first == second == third, told, inodes == sorted(os.stat(each).st_ino for each in glob.glob("store/layers/*"))]))
"""
    assert run(caller, OTHER_BOOT + code, f"oci:{path}") == [True, [0, 3], True]


@pytest.mark.parametrize("number", range(3))
def test_layer_that_a_power_cut_left_empty_is_made_again(caller: Caller, number: int) -> None:
    path = three_layers(caller)
    other = docker_archive(caller.directory / "other.tar", [tar(member("a", b"a" * 1000)), tar(member("d", b"d"))])
    readable(caller.directory)
    code = f"""
first = used()
with Store(os.path.abspath("store")) as store:
    victim = store.resolve([Source.read(sys.argv[1], "/")]).directories[{number}]
started_again()
os.truncate(f"{{victim}}/{{'abc'[{number}]}}", 0)
print(json.dumps([used() == first, os.path.getsize(f"{{victim}}/{{'abc'[{number}]}}")]))
"""
    assert run(caller, OTHER_BOOT + code, f"oci:{path}") == [True, 1000 * (number + 1)]
    # So it is for another image that has the layer too.
    code = """
started_again()
for path in glob.glob("store/layers/*/settled"): os.unlink(path)
(victim,) = [path for path in glob.glob("store/layers/*/diff/a") if os.path.getsize(path)]
os.truncate(victim, 0)
found = stack(sys.argv[2])
print(json.dumps(os.path.getsize(f"{found.directories[0]}/a")))
"""
    assert run(caller, OTHER_BOOT + code, f"oci:{path}", f"docker-archive:{other}") == 1000


def test_damaged_layer_of_an_earlier_boot_that_is_in_use_is_told(caller: Caller) -> None:
    path = three_layers(caller)
    code = """
from pytest_isolate.model.errors import ImageError
directories = stack(sys.argv[1]).directories
started_again()
os.truncate(f"{directories[0]}/a", 0)
try: used()
except ImageError as error: print(json.dumps([error.message, error.hint]))
"""
    message, hint = run(caller, OTHER_BOOT + code, f"oci:{path}")
    assert "isn't what it was when it was made, after the machine was started again (a: " in message
    assert message.endswith("and it is in use")
    assert hint == "end what uses it, and try again"


def test_altered_list_of_files_is_found(caller: Caller) -> None:
    path = caller.directory / "a.tar"
    path.write_bytes(tar(member("file", b"x")))
    command(caller, "import", str(path))
    (layer,) = names(caller, "layers")
    listed = caller.directory / "store/layers" / layer / "tree"
    listed.write_bytes(listed.read_bytes().replace(b"file\n", b"else\n"))
    said = command(caller, "verify", status=1)
    assert "the layer's own list of files: altered" in said
    assert "file: added" in said


def test_export_and_import_come_to_the_same_tree(caller: Caller) -> None:
    path = three_layers(caller)
    command(caller, "import", f"oci:{path}", "--name", "app")
    before = json.loads(command(caller, "inspect", "app"))
    command(caller, "export", "app", f"{caller.directory}/out")
    command(caller, "export", "app", f"{caller.directory}/out.tar")
    command(caller, "export", before["layers"][1]["chain"][:10], f"{caller.directory}/layer.tar")
    shown = run(caller, SHOWN, f"oci:{path}")[1]
    for number, source in enumerate((f"oci:{caller.directory}/out:app", f"oci:{caller.directory}/out.tar:app")):
        done = caller.python(
            "-m", "pytest_isolate", "layers", "import", "--store", f"{caller.directory}/other{number}", source, "--name", "app"
        )
        assert done.returncode == 0, done.stderr
        shown_again = caller.python(
            "-m", "pytest_isolate", "layers", "inspect", "--store", f"{caller.directory}/other{number}", "app"
        )
        after = json.loads(shown_again.stdout)
        assert [layer["tree"] for layer in after["layers"]] == [layer["tree"] for layer in before["layers"]]
        assert after["image"]["config"] == before["image"]["config"]
    assert shown[-1].endswith("\tc\n")
    chain = command(caller, "import", f"{caller.directory}/layer.tar").strip()
    (again,) = json.loads(command(caller, "inspect", chain))["layers"]
    assert again["tree"] == before["layers"][1]["tree"]
    refused = command(caller, "export", "app", f"{caller.directory}/out", status=1)
    assert "out is there already" in refused


def test_images_and_layers_are_found_by_name_and_by_chain(caller: Caller) -> None:
    path = three_layers(caller)
    chains = command(caller, "import", f"oci:{path}", "--name", "app").split()
    listed = json.loads(command(caller, "list", "--json"))
    assert [layer["chain"] for layer in listed["layers"]] == sorted(chains)
    assert [(each["name"], each["chains"]) for each in listed["images"]] == [("app", chains)]
    text = command(caller, "list")
    assert f"oci:{path}" in text
    assert "3 layers" in text
    for name in ("app", f"oci:{path}"):
        assert [each["chain"] for each in json.loads(command(caller, "inspect", name))["layers"]] == chains
    (only,) = json.loads(command(caller, "inspect", chains[2][:12]))["layers"]
    assert only["parent"] == chains[1]
    assert only["in_use"] is False
    assert "neither an image nor a layer" in command(caller, "inspect", "nothing", status=1)


def aged(caller: Caller, days: dict[str, float]) -> None:
    for chain, age in days.items():
        at = time.time() - age * 86400
        os.utime(caller.directory / "store/layers" / chain / "used", (at, at))


def four(caller: Caller) -> list[str]:
    """An image of three layers and an archive of one: its chains bottom to top, then that one."""
    path = three_layers(caller)
    chains = command(caller, "import", f"oci:{path}").split()
    (caller.directory / "d.tar").write_bytes(tar(member("d", b"d" * 5000)))
    return [*chains, command(caller, "import", f"{caller.directory}/d.tar").strip()]


def test_prune_takes_the_longest_unused_first_and_stops_at_the_size(caller: Caller) -> None:
    low, middle, high, single = four(caller)
    aged(caller, {low: 1, middle: 1, high: 30, single: 20})
    said = command(caller, "prune", "--max-size", "8kB").splitlines()
    assert [line.split()[0] for line in said] == [high[:12]]  # 11000 - 3000 bytes are left
    assert set(names(caller, "layers")) == {low, middle, single}
    said = command(caller, "prune", "--max-size", "4000").splitlines()
    assert [line.split()[0] for line in said] == [single[:12]]
    said = command(caller, "prune", "--max-size", "0").splitlines()
    assert [line.split()[0] for line in said] == [middle[:12], low[:12]]


def test_prune_of_what_is_unused_for_long_leaves_what_younger_layers_stand_on(caller: Caller) -> None:
    low, middle, high, single = four(caller)
    aged(caller, {low: 50, middle: 50, high: 3, single: 20})
    command(caller, "prune", "--unused-for", "10d")
    assert set(names(caller, "layers")) == {low, middle, high}
    assert len(names(caller, "images")) == 1
    aged(caller, {high: 20})
    command(caller, "prune", "--unused-for", "2w")
    assert names(caller, "layers") == []
    assert names(caller, "images") == []
    assert names(caller, "tmp") == []


def test_prune_leaves_layers_in_use_and_all_below_them(caller: Caller) -> None:
    low, middle, high, single = four(caller)
    code = """
import subprocess
stack(sys.argv[1])
def prune(): return subprocess.run([sys.executable, "-m", "pytest_isolate", "layers", "prune", "--all", "--store", "store"], capture_output=True, text=True).stderr
first, there = prune(), sorted(os.listdir("store/layers"))
STORE.close()
prune()
print(json.dumps([first, there, os.listdir("store/layers")]))
"""
    said, there, after = run(caller, code, f"oci:{caller.directory}/image")
    assert there == sorted([low, middle, high])
    assert f"in use, left: {high[:12]}" in said
    assert after == []
    assert single not in there


def test_prune_without_a_limit_is_refused(caller: Caller) -> None:
    assert "prune needs --max-size, --unused-for or --all" in command(caller, "prune", status=2)


def test_removed_layers_are_imported_again(caller: Caller) -> None:
    chains = four(caller)
    command(caller, "prune", "--all")
    assert command(caller, "import", f"oci:{caller.directory}/image").split() == chains[:3]


MAKE = (
    LISTING
    + """
import shutil, stat
def change(point):
    os.remove(f"{point}/b")
    shutil.rmtree(f"{point}/d"); os.mkdir(f"{point}/d"); os.chmod(f"{point}/d", 0o2751)
    with open(f"{point}/d/new", "w") as file: file.write("new")
    os.link(f"{point}/d/new", f"{point}/linked")
    os.symlink("d/new", f"{point}/symbolic")
    os.mkfifo(f"{point}/fifo")
    with open(f"{point}/sparse", "wb") as file: file.seek(5_000_000); file.write(b"end")
    os.setxattr(f"{point}/c", "user.note", b"n")
    os.utime(f"{point}/c", (5, 5))

below = json.loads(sys.argv[1])
uid, gid = os.geteuid(), os.getegid()
owners = Owners.of(enter_user_namespace(), uid, gid)
for name in ("upper", "work", "made"): os.mkdir(name)
mount("none", "/", flags=0x4000 | 0x40000)
options = f"lowerdir={':'.join(reversed(below))},upperdir=upper,workdir=work{',userxattr' if owners.rootless else ''}"
mount("overlay", "made", "overlay", data=options)
change("made")
fd = os.open("made", os.O_RDONLY)
print(json.dumps([line.decode() for line in lines(entries_of(fd, owners))]))
"""
)


def made(caller: Caller) -> tuple[list[str], list[str]]:
    """Directories of an image, and what an overlay on them showed whose upper directory is ``upper``."""
    base = tar(member("b", b"b"), member("c", b"c"), member("d/old", b"old"))
    path = layout(caller.directory / "base", [base, tar(member("e", b"e"))])
    readable(caller.directory)
    below = run(caller, "print(json.dumps(stack(sys.argv[1]).directories))", f"oci:{path}")
    return below, run(caller, MAKE, json.dumps(below))


def test_upper_directory_of_an_overlay_is_kept_as_a_layer(caller: Caller) -> None:
    below, shown = made(caller)
    code = """
kept = STORE.add([("/", os.open("upper", os.O_PATH))], json.loads(sys.argv[1]), {"name": "db", "steps": ["init"]}, key="k1")
print(json.dumps([kept.directory, STORE.find("k1"), STORE.find("k2"), stack("layer:db").to_json()]))
"""
    directory, found, nothing, stacked = run(caller, code, json.dumps(below))
    assert directory == found
    assert nothing is None
    assert stacked["directories"] == [*below, directory]
    _, merged = run(caller, SHOWN, "layer:db")
    assert merged == shown
    status = os.stat(f"{directory}/sparse")
    assert status.st_blocks * 512 < 100_000 < status.st_size
    assert os.stat(f"{directory}/c").st_mtime == 5
    assert stat.S_ISCHR(os.lstat(f"{directory}/b").st_mode)
    assert command(caller, "verify") == ""
    # It keeps what it stands on, and is found again by another process.
    command(caller, "prune", "--unused-for", "1h")
    assert len(names(caller, "layers")) == 3
    assert run(caller, "print(json.dumps(STORE.kept('k1').about))") == {"name": "db", "steps": ["init"]}
    command(caller, "prune", "--all")
    assert run(caller, "print(json.dumps(STORE.find('k1')))") is None


def test_layer_made_on_the_host_brings_the_host(caller: Caller) -> None:
    (caller.directory / "upper").mkdir()
    (caller.directory / "upper/file").touch()
    readable(caller.directory / "upper")
    code = """
STORE.add([("/", os.open("upper", os.O_PATH))], ["host"], {"name": "on-host"}, key="h")
print(json.dumps([stack("layer:on-host").to_json(), stack("host", "layer:on-host").to_json()]))
"""
    alone, above = run(caller, code)
    assert alone["host"] is True
    assert above["host"] is True
    assert alone["directories"] == above["directories"]
    assert len(alone["directories"]) == 1


def test_store_of_another_user_is_refused_with_the_remedy(caller: Caller) -> None:
    store = caller.directory / "store"
    store.mkdir()
    owners: dict[str, Any] = {"rootless": caller.is_root, "uid": 12345, "gid": 12345, "uids": None, "gids": None}
    (store / "store.json").write_text(json.dumps({"version": 1, "owners": owners}))
    readable(store)
    said = command(caller, "list", status=1)
    assert "its layers aren't marked so that user" in said
    assert "--isolate-store=DIRECTORY" in said


def test_directory_that_is_no_store_is_refused(caller: Caller) -> None:
    (caller.directory / "store").mkdir()
    (caller.directory / "store/mine").touch()
    (caller.directory / "a.tar").write_bytes(tar(member("a")))
    said = command(caller, "import", f"{caller.directory}/a.tar", status=1)
    assert "is no layer store, and not empty" in said
    assert os.listdir(caller.directory / "store") == ["mine"]


def test_later_format_of_the_store_is_refused(caller: Caller) -> None:
    (caller.directory / "store").mkdir()
    (caller.directory / "store/store.json").write_text('{"version": 99}')
    readable(caller.directory)
    assert "has the format 99; this version of pytest-isolate has 1" in command(caller, "list", status=1)
