"""Images made by umoci, buildah, skopeo and tar become what these tools show of them: for root, and for an unprivileged user."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import digest, docker_archive, layout, member, tar
from tests.support.callers import Caller, caller
from tests.support.capabilities import requires
from tests.support.image_tools import CHANGES, DEEP, LISTING, buildah_image_elsewhere, listing, tool, umoci_image
from tests.support.unprivileged import USER_ID, find_python, run_as_user, user_directory

__all__ = ["caller"]

PRELUDE = """
import json, os, resource, sys, time
from pytest_isolate.images.store import Store
from pytest_isolate.model.image import Source
def stack(*sources):
    return STORE.resolve([Source.read(source, "/") for source in sources])
STORE = Store(os.path.abspath("store"))
"""


def run(caller: Caller, code: str, *args: str) -> Any:
    """The JSON document that `code` printed."""
    done = caller.python("-c", PRELUDE + code, *args)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SHOWN = f"{LISTING}\nfound = stack(*sys.argv[1:])\nprint(json.dumps([found.to_json(), merged(found.directories)]))"


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """A directory that the user can read."""
    with user_directory() as path:
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="module")
def umoci(shared: Path) -> tuple[Path, list[str]]:
    path, shown = umoci_image(shared)
    return readable(path), shown


def readable(path: Path) -> Path:
    subprocess.run(["chmod", "-R", "a+rX", path], check=True)
    return path


@requires("root", "umoci")
def test_layers_of_umoci_merge_to_what_umoci_unpacks(caller: Caller, umoci: tuple[Path, list[str]]) -> None:
    path, shown = umoci
    found, merged = run(caller, SHOWN, f"oci:{path}:three")
    assert merged == shown
    assert len(found["directories"]) == len(CHANGES)
    assert found["config"]["env"][-1] == ["GREETING", "hello=world"]
    assert (found["config"]["user"], found["config"]["working_dir"]) == ("8:12", "/var")
    assert found["notes"] == [f"oci:{path}:three: layer 1: device nodes left out: 1 (var/device)"]


@requires("root", "umoci", "skopeo", "zstd")
@pytest.mark.parametrize("form", ["oci tar", "docker archive", "gzipped docker archive", "zstd layers", "docker's media types"])
def test_every_form_of_an_image_comes_to_the_same(
    caller: Caller, umoci: tuple[Path, list[str]], tmp_path: Path, form: str
) -> None:
    path, shown = umoci
    where = readable(caller.directory)
    source = f"oci:{path}:three"
    if form == "oci tar":
        tool("tar", "-C", path, "-cf", where / "image.tar", ".")
        wanted = f"oci:{where}/image.tar:three"
    elif form == "zstd layers":
        tool("skopeo", "copy", "-q", "--dest-compress-format", "zstd", source, f"oci:{where}/zstd:z")
        wanted = f"oci:{where}/zstd:z"
        assert "tar+zstd" in "".join(
            each.read_text(errors="replace") for each in (where / "zstd/blobs/sha256").iterdir() if each.stat().st_size < 5000
        )
    elif form == "docker's media types":
        tool("skopeo", "copy", "-q", "--format", "v2s2", source, f"dir:{tmp_path}/dir")
        tool("skopeo", "copy", "-q", "--format", "v2s2", source, f"oci:{where}/docker:d")
        wanted = f"oci:{where}/docker:d"
    else:
        tool("skopeo", "copy", "-q", source, f"docker-archive:{where}/image.tar:example.test/name:three")
        wanted = f"docker-archive:{where}/image.tar:name:three"
        if form.startswith("gzipped"):
            tool("gzip", "-1", where / "image.tar")
            wanted = f"docker-archive:{where}/image.tar.gz:three"
    readable(where)
    assert run(caller, SHOWN, wanted)[1] == shown


@requires("root", "buildah")
def test_opaque_directories_of_buildah_hide_what_is_below(caller: Caller, shared: Path) -> None:
    directory = caller.directory / "buildah"
    directory.mkdir()
    path, shown = buildah_image_elsewhere(directory)
    readable(caller.directory)
    found, merged = run(caller, SHOWN, f"oci:{path}:three")
    # Buildah's empty container has a root of mode 555, of which its layers say nothing.
    assert [line for line in merged if not line.endswith("\t.\n")] == [line for line in shown if not line.endswith("\t.\n")]
    code = """
found = stack(*sys.argv[1:])
name = "trusted.overlay.opaque" if os.geteuid() == 0 else "user.overlay.opaque"
print(json.dumps(os.getxattr(f"{found.directories[-1]}/opaque", name).decode()))
"""
    assert run(caller, code, f"oci:{path}:three") == "y"
    assert found["host"] is False


@requires("root", "buildah", "podman")
def test_what_podman_saves_is_what_buildah_shows(caller: Caller) -> None:
    directory = caller.directory / "buildah"
    directory.mkdir()
    saved = {form: caller.directory / f"{form}.tar" for form in ("docker-archive", "oci-archive")}
    _, shown = buildah_image_elsewhere(directory, saved)
    readable(caller.directory)
    # Buildah's empty container has a root of mode 555, of which its layers say nothing.
    wanted = [line for line in shown if not line.endswith("\t.\n")]
    sources = (f"docker-archive:{saved['docker-archive']}:localhost/step3:latest", f"oci:{saved['oci-archive']}")
    for source in sources:
        found, merged = run(caller, SHOWN, source)
        assert [line for line in merged if not line.endswith("\t.\n")] == wanted, source
        assert len(found["directories"]) == len(CHANGES)


@requires("root", "zstd")
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.bz2", "tar.zst"])
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_tarball_of_gnu_tar_holds_what_tar_read(caller: Caller, tmp_path: Path, ending: str, form: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    CHANGES[0](root)
    if form == "gnu":  # which has no place for extended attributes
        os.removexattr(root / "etc/group", "user.note")
        os.removexattr(root / "bin/big", "security.capability")
    archive = caller.directory / f"root.{ending}"
    xattrs = ["--xattrs", "--xattrs-include=*"] if form == "posix" else []
    tool("tar", "-C", root, f"--format={form}", *xattrs, "--sparse", "-caf", archive, ".")
    # Under a name that says nothing of what is in it.
    archive = readable(archive.rename(caller.directory / "root.tar"))
    found, merged = run(caller, SHOWN, str(archive))
    assert merged == listing(root)
    sparse = os.stat(f"{found['directories'][0]}/etc/sparse")
    assert sparse.st_size == 9_000_000
    assert sparse.st_blocks * 512 < 100_000
    for name in ("bin/big", "etc", f"{DEEP}"):
        there, here = os.stat(root / name).st_mtime_ns, os.stat(f"{found['directories'][0]}/{name}").st_mtime_ns
        assert there == here if form == "posix" else there // 10**9 == here // 10**9


@requires("root")
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_every_version_of_sparse_files_keeps_its_holes(caller: Caller, tmp_path: Path, version: str) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for number in range(40):
            file.seek(number * 200_000)
            file.write(b"%d" % number * 1000)
        file.truncate(10_000_000)
    archive = caller.directory / "sparse.tar"
    tool("tar", "-C", tmp_path, "--format=posix", "--sparse", f"--sparse-version={version}", "-cf", archive, "sparse")
    readable(caller.directory)
    (directory,) = run(caller, "print(json.dumps(stack(*sys.argv[1:]).directories))", str(archive))
    assert Path(directory, "sparse").read_bytes() == (tmp_path / "sparse").read_bytes()
    assert os.stat(f"{directory}/sparse").st_blocks * 512 < 1_000_000


@requires("unprivileged-user", "userns")
@pytest.mark.parametrize("caller", ["user"], indirect=True)  # root keeps them
def test_image_without_ids_for_its_owners_is_squashed_and_says_so(caller: Caller) -> None:
    far = 3_000_000_000
    archive = caller.directory / "a.tar"
    archive.write_bytes(tar(member("near", b"n", uid=7, gid=7), member("far", b"f", uid=far, gid=5)))
    code = """
found = stack(sys.argv[1])
print(json.dumps([found.notes, [os.stat(f"{found.directories[0]}/{name}").st_uid == os.geteuid() for name in ("near", "far")]]))
"""
    notes, own = run(caller, code, str(archive))
    assert notes == [f"{archive}: owned by root instead, since the caller has too few subordinate ids: 1 (far)"]
    assert own == [False, True]


@requires("root", "userns")
def test_image_of_a_caller_without_subordinate_ids_is_the_caller_s_and_says_so() -> None:
    nobody = USER_ID + 7  # has no account, and so no line in /etc/subuid
    with user_directory(user=nobody) as place:
        archive = place / "a.tar"
        archive.write_bytes(
            tar(
                member("var/tmp/own", b"o"),
                member("var/tmp/other", b"n", uid=7, gid=8),
                member("var/tmp/d", kind=b"5", mode=0o750, uid=9),
            )
        )
        archive.chmod(0o644)
        code = """
found = stack(sys.argv[1])
owners = {(os.stat(f"{found.directories[0]}/var/tmp/{name}").st_uid, os.stat(f"{found.directories[0]}/var/tmp/{name}").st_gid) for name in ("own", "other", "d")}
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Sandbox
with Sandbox(Spec(rootfs=(Source("host"), Source.read(sys.argv[1], "/")))) as box:
    inside = box.run(["/bin/sh", "-c", "cat /var/tmp/own; stat -c %u /var/tmp/other"]).stdout.decode().split()
print(json.dumps([found.notes, sorted(owners), inside]))
"""
        done = run_as_user(
            [str(find_python()), "-c", PRELUDE + code, str(archive)], cwd=place, env={"HOME": str(place)}, user=nobody
        )
        assert done.returncode == 0, done.stdout + done.stderr
        notes, owners, inside = json.loads(done.stdout.splitlines()[-1])
    assert notes == [f"{archive}: owned by root instead, since the caller has no subordinate ids: 2 (var/tmp/other, var/tmp/d)"]
    assert owners == [[nobody, nobody]]
    assert inside == ["o" + str(nobody)]


def test_second_look_at_a_source_reads_no_archive(caller: Caller) -> None:
    path = caller.directory / "a.tar"
    path.write_bytes(tar(member("file", b"one")))
    code = """
def used():
    # CPU time, that of processes that were started included: how busy the machine is doesn't count.
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
begun = [stack(sys.argv[1])]
for _ in range(20):
    at = used()
    begun.append(stack(sys.argv[1]))
    took = used() - at
print(json.dumps([[each.directories for each in begun], took]))
"""
    stacks, took = run(caller, code, str(path))
    assert all(each == stacks[0] for each in stacks)
    assert took < 0.02


def test_changed_archive_is_imported_anew(caller: Caller) -> None:
    path = caller.directory / "a.tar"
    path.write_bytes(tar(member("file", b"one")))
    path.chmod(0o666)
    code = """
one = stack(sys.argv[1])
with open(sys.argv[1], "wb") as file: file.write(bytes.fromhex(sys.argv[2]))
two = stack(sys.argv[1])
print(json.dumps([open(f"{each.directories[0]}/file").read() for each in (one, two)]))
"""
    assert run(caller, code, str(path), tar(member("file", b"two!")).hex()) == ["one", "two!"]


def test_images_that_share_layers_share_their_directories(caller: Caller) -> None:
    low, one, two = (tar(member(name, name.encode())) for name in ("low", "one", "two"))
    first = layout(caller.directory / "first", [low, one])
    second = docker_archive(caller.directory / "second.tar", [low, two, two])
    readable(caller.directory)
    code = "print(json.dumps([stack(each).directories for each in sys.argv[1:]]))"
    one_stack, two_stack = run(caller, code, f"oci:{first}", f"docker-archive:{second}")
    assert one_stack[0] == two_stack[0]
    assert len({*one_stack, *two_stack}) == 4
    # A layer alone is named by its diff id, one on another by the chain of both.
    assert one_stack[0].split("/")[-2] == digest(low)[7:]


def test_sources_stack_bottom_to_top(caller: Caller) -> None:
    image = layout(caller.directory / "image", [tar(member("a", b"a"))])
    (caller.directory / "root.tar").write_bytes(tar(member("b", b"b")))
    (caller.directory / "plain").mkdir()
    readable(caller.directory)
    sources = [f"oci:{image}:one", str(caller.directory / "root.tar"), str(caller.directory / "plain")]
    code = "print(json.dumps([stack('host', *sys.argv[1:]).to_json(), stack(*sys.argv[1:]).to_json()]))"
    with_host, without = run(caller, code, *sources)
    assert with_host["host"] is True
    assert without["host"] is False
    assert with_host["directories"] == without["directories"]
    assert with_host["directories"][2] == sources[2]
    assert [sorted(os.listdir(each)) for each in with_host["directories"]] == [["a"], ["b"], []]
    assert with_host["config"] == {
        "env": [["PATH", "/bin"], ["EMPTY", ""]], "user": "5:6", "working_dir": "/w", "entrypoint": ["/e"], "cmd": ["c"],
    }  # fmt: skip


MISNAMED = {
    "host above": (["{here}/plain", "host"], "the host can't lie above another layer"),
    "no directory": (["{here}/none"], "{here}/none: ENOENT (No such file or directory)"),
    "file as a directory": (["{here}/file"], "{here}/file: it is a file"),
    "no such layer": (["layer:nothing"], "layer:nothing: no such layer in {here}/store; there are: none"),
}
UNREADABLE = (["{here}/locked.tar"], "{here}/locked.tar: EACCES (Permission denied)")


@pytest.mark.parametrize("case", MISNAMED)
def test_what_cant_be_meant_is_refused_with_the_remedy(caller: Caller, case: str) -> None:
    check_refusal(caller, *MISNAMED[case])


@requires("unprivileged-user", "userns")
@pytest.mark.parametrize("caller", ["user"], indirect=True)  # root reads everything
def test_what_cant_be_read_is_refused_with_the_remedy(caller: Caller) -> None:
    check_refusal(caller, *UNREADABLE)


def check_refusal(caller: Caller, sources: list[str], expected: str) -> None:
    (caller.directory / "plain").mkdir()
    (caller.directory / "file").touch()
    (caller.directory / "locked.tar").touch(mode=0)
    readable(caller.directory / "plain")
    code = """
from pytest_isolate.model.errors import ImageError
try: stack(*sys.argv[1:])
except ImageError as error: print(json.dumps([error.message, error.hint]))
"""
    message, hint = run(caller, code, *(each.replace("{here}", str(caller.directory)) for each in sources))
    assert expected.replace("{here}", str(caller.directory)) in message
    assert hint


def test_links_within_the_tree_are_followed_and_names_below_merge(caller: Caller) -> None:
    base = tar(member("usr/lib", kind=b"5", mode=0o751), member("lib", kind=b"2", link="usr/lib"), member("usr/lib/low", b"l"))
    upper = tar(
        member("lib/new", b"n"),
        member("lib/.wh.low"),
        member("usr/lib/.wh..wh.plnk"),
        member("own", kind=b"2", link="usr/../usr"),
        member("own/x", b"x"),
    )
    path = layout(caller.directory / "image", [base, upper])
    readable(caller.directory)
    found, merged = run(caller, SHOWN, f"oci:{path}")
    assert sorted(os.listdir(f"{found['directories'][1]}/usr/lib")) == ["low", "new"]
    paths = [line.rstrip("\n").split("\t")[-1] for line in merged]
    assert paths == [".", "lib", "own", "usr", "usr/lib", "usr/lib/new", "usr/x"]
    # A directory that the upper layer doesn't speak of looks as it does below.
    assert os.stat(f"{found['directories'][1]}/usr/lib").st_mode & 0o7777 == 0o751


def test_hard_link_to_a_file_of_a_lower_layer_brings_it_along(caller: Caller) -> None:
    base = tar(member("d/low", b"content", mode=0o640, uid=3, gid=4))
    upper = tar(member("other", kind=b"1", link="d/low"))
    path = layout(caller.directory / "image", [base, upper])
    readable(caller.directory)
    found, merged = run(caller, SHOWN, f"oci:{path}")
    (kind, *_, first, _x, name) = next(line for line in merged if line.endswith("\tother\n")).split("\t")
    assert (kind, first, name) == ("h", "d/low", "other\n")
    assert next(line for line in merged if line.endswith("\td/low\n")).startswith("f\t640\t3\t4\t7\t")
    assert os.path.samefile(f"{found['directories'][1]}/d/low", f"{found['directories'][1]}/other")


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_whiteout_hides_what_is_below_never_its_own_layer(caller: Caller, whiteout_first: bool) -> None:
    base = tar(member("file", b"low"), member("d/low", b"low"), member("e/low", b"low"))
    whiteouts = [member(".wh.file"), member(".wh.d"), member("e/.wh..wh..opq")]
    own = [member("file", b"high"), member("d/high", b"high"), member("e/high", b"high")]
    path = layout(caller.directory / "image", [base, tar(*(whiteouts + own if whiteout_first else own + whiteouts))])
    readable(caller.directory)
    _, merged = run(caller, SHOWN, f"oci:{path}")
    assert [line.rstrip("\n").split("\t")[-1] for line in merged] == [".", "d", "d/high", "e", "e/high", "file"]
    assert next(line for line in merged if line.endswith("\tfile\n")).split("\t")[4] == "4"


def test_attributes_that_would_speak_to_overlayfs_are_left_out(caller: Caller) -> None:
    path = caller.directory / "a.tar"
    headers = {
        f"SCHILY.xattr.{kind}.overlay.{name}": value
        for kind in ("trusted", "user")
        for name, value in (("redirect", "/etc"), ("metacopy", ""))
    }
    path.write_bytes(tar(member("file", b"x", pax_headers={**headers, "SCHILY.xattr.user.fine": "yes"})))
    code = "found = stack(sys.argv[1]); print(json.dumps([os.listxattr(f'{found.directories[0]}/file'), found.notes]))"
    names, notes = run(caller, code, str(path))
    assert names == ["user.fine"]
    assert len(notes) == 4
    assert all("left out, it would tell overlayfs something: 1 (file)" in note for note in notes)


def test_later_member_of_a_name_replaces_the_former(caller: Caller) -> None:
    path = caller.directory / "a.tar"
    path.write_bytes(
        tar(
            member("x", b"file"), member("x", kind=b"5", mode=0o700), member("x/in", b"in"), member("x/in", b"again", mode=0o600),
            member("y/deep/er", b"y"), member("y", b"file"), member("z", kind=b"2", link="x"), member("z", kind=b"5", mode=0o755), member("z/new", b"z"),
        )
    )  # fmt: skip
    _, merged = run(caller, SHOWN, str(path))
    assert [(line.split("\t")[0], line.split("\t")[-1].strip()) for line in merged] == [
        ("d", "."), ("d", "x"), ("f", "x/in"), ("f", "y"), ("d", "z"), ("f", "z/new"),
    ]  # fmt: skip


def test_import_shows_its_progress(caller: Caller) -> None:
    path = caller.directory / "a.tar"
    path.write_bytes(tar(*(member(f"file{number}", os.urandom(1 << 20)) for number in range(64))))
    code = """
seen = []
STORE.resolve([Source("tarball", sys.argv[1])], seen.append)
print(json.dumps([[each.done_bytes, each.total_bytes, each.what] for each in seen]))
"""
    seen = run(caller, code, str(path))
    assert seen
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert all(done <= total == path.stat().st_size and what == f"unpacking {path}" for done, total, what in seen)
