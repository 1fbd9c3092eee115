"""What a sandbox tells of its files, against a walk of the tree before and after that knows nothing of overlayfs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.callers import ROOT, Caller, caller
from tests.support.capabilities import requires
from tests.support.file_changes import PROGRAM, make
from tests.support.unprivileged import USER_ID

__all__ = ["caller"]

COMPARED = """
def compared(*what, **spec):
    with box(**spec) as opened:
        done = opened.run([PYTHON, "-I", "-S", "-c", PROGRAM, TREE, *what], timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        found = opened.changes()
        tell([json.loads(done.stdout), found.to_json()["changes"], found.truncated])
"""


def tree_of(caller: Caller) -> Path:
    tree = caller.directory / "tree"
    tree.mkdir()
    make(tree)
    own(tree, caller)
    return tree


def own(tree: Path, caller: Caller) -> None:
    if caller.is_root or os.geteuid() != 0:
        return
    for directory, names, files in os.walk(os.fsencode(tree)):
        for name in (b"", *names, *files):
            os.lchown(os.path.join(directory, name), USER_ID, USER_ID)


def compare(caller: Caller, tree: Path, call: str) -> tuple[list[Any], list[Any]]:
    """What the oracle and what the sandbox tell."""
    expected, told, truncated = caller.run(f"PROGRAM, TREE = {PROGRAM!r}, {str(tree)!r}\n{COMPARED}\ncompared({call})")
    assert not truncated
    return expected, told


@pytest.mark.parametrize("user", ["self", "root"])
def test_every_way_to_change_files_is_told_as_a_walk_sees_it(caller: Caller, user: str) -> None:
    expected, told = compare(caller, tree_of(caller), f"'every way', user={user!r}")
    assert told == expected
    assert {kind for kind, _, _ in told} == {"A", "C", "D"}


@requires("subordinate-ids")
def test_files_of_other_owners_are_told(caller: Caller) -> None:
    expected, told = compare(caller, tree_of(caller), "'every way', '5', user='root'")
    assert told == expected


@pytest.mark.parametrize("seeds", [range(15)])
def test_random_changes_are_told_as_a_walk_sees_them(caller: Caller, seeds: range) -> None:
    tree = tree_of(caller)
    code = f"PROGRAM, TREE = {PROGRAM!r}, {str(tree)!r}\n{COMPARED}\nfor seed in {list(seeds)}: compared(str(seed))"
    done = caller.process(code)
    assert done.returncode == 0, done.stderr
    for seed, line in zip(seeds, done.stdout.splitlines(), strict=True):
        expected, told, _ = json.loads(line)
        assert told == expected, seed


def test_nothing_was_changed_by_being_set_up_or_read(caller: Caller) -> None:
    (caller.directory / "hidden").mkdir()
    (caller.directory / "hidden" / "kept").mkdir()
    own(caller.directory, caller)
    told = caller.run(f"""if True:
        kept, hidden = {str(caller.directory / "hidden" / "kept")!r}, {str(caller.directory / "hidden")!r}
        with box(hide=(hidden, "/etc/hostname"), writable=(kept,), hostname="box") as opened:
            opened.run(["sh", "-c", "ls -lR /etc; cat /etc/passwd; echo new > $0/new; echo new > /dev/shm/new", kept])
            tell([opened.changes().to_json()["changes"], os.listdir(kept)])
    """)
    assert told == [[], ["new"]]


def test_changes_are_told_after_everything_inside_has_ended(caller: Caller) -> None:
    told = caller.run("""if True:
        with box() as opened:
            opened.run(["sh", "-c", "echo new > new"], cwd=os.getcwd())
            opened.kill()
            assert opened.ended(5)
            tell([[change.kind, os.path.basename(change.path), change.size] for change in opened.changes()])
    """)
    assert told == [["A", "new", 4]]


def test_what_is_being_changed_meanwhile_ends_no_question(caller: Caller) -> None:
    told = caller.run("""if True:
        with box() as opened:
            script = "while :; do mkdir -p a/b/c; echo > a/b/c/d; mv a e; rm -r e; ln -s / a; rm a; done"
            process = opened.popen(["sh", "-c", script], cwd=os.getcwd())
            seen = {change.path for _ in range(300) for change in opened.changes()}
            process.send_signal(signal.SIGKILL); process.wait()
            tell(all(path.startswith(os.getcwd() + "/") for path in seen))
    """)
    assert told is True


def test_a_long_list_comes_whole_and_one_too_long_says_so(caller: Caller) -> None:
    told = caller.run("""if True:
        script = "for directory in range(count // 1000):\\n os.mkdir(str(directory))\\n for file in range(999): open(f'{directory}/{file}', 'w').close()"
        lists = []
        for count in (20_000, 103_000):
            with box() as opened:
                opened.run([PYTHON, "-I", "-S", "-c", f"import os; count = {count}\\n{script}"], cwd=os.getcwd(), check=True)
                found = opened.changes()
                lists.append([len(found), found.truncated])
        tell(lists)
    """)
    assert told == [[20_000, False], [100_000, True]]


def test_directories_too_deep_are_said_to_be_left_out(caller: Caller) -> None:
    told = caller.run("""if True:
        script = "import os\\nfor level in range(300): os.mkdir('d'); os.chdir('d')"
        with box() as opened:
            opened.run([PYTHON, "-I", "-S", "-c", script], cwd=os.getcwd(), check=True)
            found = opened.changes()
            tell([len(found) > 150, found.truncated])
    """)
    assert told == [True, True]


def test_a_killed_builder_is_told_and_a_sandbox_that_was_given_back(caller: Caller) -> None:
    told = caller.run("""if True:
        texts = []
        opened = box().__enter__()
        os.kill(POOL.launch().pid, signal.SIGKILL)
        for attempt in range(2):
            try:
                opened.changes()
            except SandboxGone as error:
                texts.append(str(error))
            opened.release()
        tell(texts)
    """)
    assert "the builder" in told[0]
    assert "this sandbox isn't open" in told[1]


@requires("root")
@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_descriptors_of_writable_layers_are_given_back(caller: Caller) -> None:
    before, after = caller.run("""if True:
        def open_files():
            return len(os.listdir(f"/proc/{POOL.launch().pid}/fd"))
        with box() as opened: opened.changes()
        with box(): before = open_files()
        for _ in range(20):
            with box() as opened: opened.changes()
        with box(): tell([before, open_files()])
    """)
    assert before == after


IN_LAYERS = """
import json, os, random, subprocess, sys
from pytest_isolate.kernel.mounts import mount, umount2
from pytest_isolate.model.changes import Change
from pytest_isolate.rootfs.changes import Tree, changes
from pytest_isolate.rootfs.host import ROOT_OPTIONS
from pytest_isolate.rootfs.plan import Directory

base = sys.argv[1]
mount("none", base, "tmpfs")
os.chdir(base)
os.makedirs("merged")
layers = ["made"]
subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {ROOT!r}); from pathlib import Path; from tests.support.file_changes import make; make(Path('made'))"], check=True)
for seed in range(int(sys.argv[2])):
    number = len(layers)
    os.makedirs(f"upper{seed}/{number}"); os.makedirs(f"work{seed}")
    os.chmod(f"upper{seed}/{number}", 0o755)
    mount("overlay", "merged", "overlay", 0, f"lowerdir={':'.join(layers)},upperdir=upper{seed}/{number},workdir=work{seed},{ROOT_OPTIONS}")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", PROGRAM, base + "/merged", str(seed)], check=True, capture_output=True, text=True)
    upper = os.open(f"upper{seed}", os.O_PATH)
    tree = Tree(number, base + "/merged", tuple(f"{base}/{layer}" for layer in layers), Directory(0o755))
    told = changes(upper, [tree]).to_json()["changes"]
    print(json.dumps([json.loads(done.stdout), told]), flush=True)
    umount2("merged", 0)
    layers.insert(0, f"upper{seed}/{number}")
    if len(layers) > 6: layers = ["made"]
"""


@requires("root")
def test_layers_that_were_writable_once_are_understood(tmp_path: Path) -> None:
    program = f"PROGRAM, ROOT = {PROGRAM!r}, {str(ROOT)!r}\n{IN_LAYERS}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", program, str(tmp_path), "30"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for seed, line in enumerate(done.stdout.splitlines()):
        expected, told = json.loads(line)
        assert told == expected, seed
