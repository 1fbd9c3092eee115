"""Damaged and hostile archives and images: refused with the name of what is wrong, nothing outside the store touched, nothing left in it."""

from __future__ import annotations

import copy
import gzip
import io
import json
import lzma
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_isolate.images.store import Store
from pytest_isolate.model.errors import ImageError, error_from_json
from pytest_isolate.model.image import Source
from tests.support.archives import GZIP, Member, docker_archive, layout, member, tar
from tests.support.capabilities import requires
from tests.support.unprivileged import USER_ID, find_python, run_as_user, user_directory

SYMLINK, HARDLINK, DIRECTORY, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE
FILE = member("file", b"content")
GOOD = tar(FILE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with something that nobody may touch, and `store` that isn't there yet."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    return tmp_path


def tree(path: Path) -> list[tuple[str, int, int, bytes]]:
    found = []
    for each in sorted((path, *path.rglob("*"))):
        status = each.lstat()
        content = each.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((str(each), status.st_mode, status.st_mtime_ns, content))
    return found


def refused(place: Path, source: Source, **options: Any) -> str:
    """The error's text, after a look at what is there now."""
    before = tree(place / "outside")
    with Store(str(place / "store"), **options) as store, pytest.raises(ImageError) as caught:
        store.resolve([source])
    assert tree(place / "outside") == before
    for part in ("layers", "images", "tmp"):
        assert not (place / "store" / part).is_dir() or os.listdir(place / "store" / part) == [], part
    assert str(error_from_json(json.loads(json.dumps(caught.value.to_json())))) == str(caught.value)
    assert source.path in str(caught.value)
    return str(caught.value)


def tarball(place: Path, data: bytes, name: str = "a.tar") -> Source:
    (place / name).write_bytes(data)
    return Source("tarball", str(place / name))


OUT = "../" * 40

MEMBERS = {
    "absolute path": ([member("/tmp/x", b"x")], "'/tmp/x': an absolute path"),
    "parent": ([member("../x", b"x")], "'../x': a path with '..'"),
    "parent within": ([member("a/../../x", b"x")], "'a/../../x': a path with '..'"),
    "parent at the end": ([member("a/..", kind=DIRECTORY)], "'a/../': a path with '..'"),
    "empty name": ([member("")], "''"),
    "link out, then a file through it": (
        [member("link", kind=SYMLINK, link="{outside}"), member("link/x", b"x")],
        "'link/x': it lies below the symbolic link 'link', which leads out of the root: '{outside}'",
    ),
    "relative link out": (
        [member("a", kind=DIRECTORY, mode=0o755), member("a/link", kind=SYMLINK, link=OUT + "{outside}"), member("a/link/x", b"x")],
        "'a/link/x': a symbolic link on its way leads out of the root",
    ),
    "link to a link out": (
        [member("one", kind=SYMLINK, link="{outside}"), member("two", kind=SYMLINK, link="one"), member("two/x", b"x")],
        "'two/x': it lies below the symbolic link 'one'",
    ),
    "links in a circle": (
        [member("one", kind=SYMLINK, link="two"), member("two", kind=SYMLINK, link="one"), member("one/x", b"x")],
        "'one/x': too many symbolic links on its way",
    ),
    "below a file": ([FILE, member("file/x", b"x")], "'file/x': 'file' on its way is no directory"),
    "hard link out": ([member("x", kind=HARDLINK, link="../outside/kept")], "'x': a path with '..'"),
    "absolute hard link": ([member("x", kind=HARDLINK, link="{outside}/kept")], "'x': an absolute path"),
    "hard link through a link": (
        [member("link", kind=SYMLINK, link="{outside}"), member("x", kind=HARDLINK, link="link/kept")], "'x': it lies below the symbolic link",
    ),
    "hard link to nothing": ([member("x", kind=HARDLINK, link="nothing")], "'x': a hard link to 'nothing', which is no file"),
    "hard link to a directory": (
        [member("d", kind=DIRECTORY, mode=0o755), member("x", kind=HARDLINK, link="d")], "'x': a hard link to the directory 'd'",
    ),
    "whiteout of nothing": ([member(".wh.")], "'.wh.': a whiteout of no name"),
    "whiteout of a parent": ([member("a/.wh...")], "'a/.wh...': a whiteout of no name"),
    "root as a file": ([member(".", b"x")], "'.': it would replace the root"),
    "unknown type": ([member("x", kind=b"Z")], "'x': its type 'Z' is unknown"),
    "several volumes": ([member("x", kind=b"M")], "'x': its type 'M' is unknown"),
    "name too long": ([member("n" * 300, b"x")], "nnn…: ENAMETOOLONG"),
    "path too long": ([member("/".join(["n" * 200] * 30), b"x")], "nnn…: ENAMETOOLONG"),
}  # fmt: skip


@pytest.mark.parametrize("case", MEMBERS)
def test_hostile_member_is_refused_by_name(place: Path, case: str) -> None:
    members, expected = MEMBERS[case]
    outside = str(place / "outside")
    message = refused(place, tarball(place, tar(FILE, *_aimed(members, outside))))
    assert expected.replace("{outside}", outside) in message


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def number(field: slice, value: bytes) -> bytes:
    """An archive with `value` in a header's field, the checksum right."""
    header = bytearray(GOOD[:512])
    header[field] = value.rjust(field.stop - field.start, b"0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + GOOD[512:]


BIG = tar(member("big", os.urandom(300_000)))
SPARSE = tar(
    member("s", b"x" * 512, pax_headers={"GNU.sparse.size": "1000", "GNU.sparse.map": "900,512"}),
)

DAMAGED = {
    "empty": (b"", "it is empty"),
    "no archive": (b"hello " * 200, "it is no tar archive"),
    "shorter than a header": (b"hello", "truncated: it ends within a header"),
    "cut in a file": (BIG[:100_000], "truncated: it ends within a file's contents"),
    "cut in a header": (GOOD[:1100], "truncated: it ends within a header"),
    "no end": (GOOD[:1024], "truncated: it has no end-of-archive blocks"),
    "wrong checksum": (flipped(tar(FILE, member("other")), 1024), "damaged: a header's checksum is wrong"),
    "number": (number(slice(124, 136), b"zz"), "is no number"),
    "negative size": (number(slice(124, 136), b"\xff" * 12), "'file': damaged: its size, owner or time"),
    "owner beyond all": (number(slice(108, 116), b"\x80" + b"\x7f" * 7), "'file': damaged: its size, owner or time"),
    "gzip cut": (gzip.compress(BIG)[:-2000], "truncated: its gzip data has no end"),
    "gzip damaged": (flipped(gzip.compress(BIG), 100_000), "damaged: its gzip data can't be read"),
    "xz cut": (lzma.compress(BIG)[:-2000], "truncated: its xz data has no end"),
    "unknown compression": (b"\x04\x22\x4d\x18" + bytes(2000), "in none of the compressions gzip, xz, bzip2 and zstd"),
    "compressed twice": (gzip.compress(gzip.compress(BIG)), "it is no tar archive"),
    "sparse map": (SPARSE, "'s': damaged: its map of holes contradicts itself"),
    "long extended header": (
        tar((info := tarfile.TarInfo("x"), b""), member("y", pax_headers={"comment": "x" * 2_000_000})), "an extended header of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_archive_is_refused(place: Path, case: str) -> None:
    data, expected = DAMAGED[case]
    assert expected in refused(place, tarball(place, data))


def test_archive_beyond_the_cap_is_refused(place: Path) -> None:
    source = tarball(place, gzip.compress(tar(member("one", bytes(600_000)), member("two", bytes(600_000)))))
    message = refused(place, source, max_layer=1_000_000)
    assert "more than 1000000 bytes, the cap for a layer" in message
    assert "--max-size" in message


def test_file_of_nothing_but_a_hole_counts_against_the_cap(place: Path) -> None:
    hole = member("hole", pax_headers={"GNU.sparse.size": str(1 << 60), "GNU.sparse.map": ""})
    assert "'hole': with it, the files of the layer come to more than" in refused(place, tarball(place, tar(hole)))


def test_bomb_is_refused_by_its_ratio(place: Path) -> None:
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=9, mtime=0) as out:
        begin = tar(member("zeros", b""))[:512]
        header = bytearray(begin)
        header[124:136] = b"%011o\0" % (7 << 30)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        out.write(bytes(header))
        for _ in range(1100):
            out.write(bytes(1 << 20))
    assert "it unpacks to more than 200 times its size" in refused(place, tarball(place, made.getvalue()))


IMAGES: dict[str, tuple[Callable[[Path], Source], str]] = {}


def image(expected: str) -> Callable[[Callable[[Path], Source]], Callable[[Path], Source]]:
    def add(make: Callable[[Path], Source]) -> Callable[[Path], Source]:
        IMAGES[make.__name__] = make, expected
        return make

    return add


def oci(place: Path, tag: str = "", **about: Any) -> Source:
    about.setdefault("layers", [GOOD])
    return Source("oci", str(layout(place / "oci", about.pop("layers"), **about)), tag)


def blob_of(place: Path, kind: str) -> Path:
    manifest = json.loads((place / "oci/index.json").read_text())["manifests"][0]
    path = place / "oci/blobs/sha256" / manifest["digest"][7:]
    if kind == "manifest":
        return path
    about = json.loads(path.read_text())
    return place / "oci/blobs/sha256" / (about["config"] if kind == "config" else about["layers"][0])["digest"][7:]


@image("it is for linux/vax, this machine is linux/")
def wrong_architecture(place: Path) -> Source:
    return oci(place, config={"architecture": "vax"})


@image("it is for windows/")
def wrong_system(place: Path) -> Source:
    return oci(place, config={"os": "windows"})


@image("its layer 1 has the media type 'application/x-rpm', which isn't known")
def unknown_media_type(place: Path) -> Source:
    return oci(place, media="application/x-rpm")


@image("its layer 1 is not distributed with the image")
def foreign_layer(place: Path) -> Source:
    return oci(place, media="application/vnd.oci.image.layer.nondistributable.v1.tar")


@image("a manifest of schema version 1; 2 is known")
def old_schema(place: Path) -> Source:
    return oci(place, manifest={"schemaVersion": 1})


@image("a manifest of the media type 'application/x-what', which isn't known")
def unknown_manifest(place: Path) -> Source:
    return oci(place, manifest={"mediaType": "application/x-what"})


@image("its configuration has the media type 'application/vnd.oci.empty.v1+json': it is no image")
def artifact(place: Path) -> Source:
    source = oci(place)
    path = blob_of(place, "manifest")
    about = json.loads(path.read_text())
    about["config"]["mediaType"] = "application/vnd.oci.empty.v1+json"
    return oci_again(place, source, about)


def oci_again(place: Path, source: Source, manifest: dict[str, Any]) -> Source:
    """The layout with another manifest."""
    from tests.support.archives import digest

    data = json.dumps(manifest).encode()
    (place / "oci/blobs/sha256" / digest(data)[7:]).write_bytes(data)
    index = json.loads((place / "oci/index.json").read_text())
    index["manifests"][0] |= {"digest": digest(data), "size": len(data)}
    (place / "oci/index.json").write_text(json.dumps(index))
    return source


@image("the blob of its layer 1 is missing: blobs/sha256/")
def missing_blob(place: Path) -> Source:
    source = oci(place)
    blob_of(place, "layer").unlink()
    return source


@image("the digest of its layer 1 is 'sha256:../../../outside/kept': only sha256: and 64 hexadecimal digits is known")
def digest_with_a_path(place: Path) -> Source:
    return oci(place, layer={"digest": "sha256:../../../outside/kept"})


@image("size mismatch: ")
def size_mismatch(place: Path) -> Source:
    return oci(place, layer={"size": 3})


@image("digest mismatch: its digest is sha256:")
def altered_layer(place: Path) -> Source:
    source = oci(place, layers=[tar(FILE, member("more", b"m" * 600))], media=GZIP)
    path = blob_of(place, "layer")
    good = path.read_bytes()
    path.write_bytes(good[:4] + bytes([good[4] ^ 1]) + good[5:])  # the time in gzip's header: unpacks all the same
    return source


@image("digest mismatch: its diff id is sha256:")
def altered_content(place: Path) -> Source:
    return oci(place, config={"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}})


@image("digest mismatch: its content is sha256:")
def altered_configuration(place: Path) -> Source:
    source = oci(place)
    path = blob_of(place, "config")
    path.write_bytes(path.read_bytes().replace(b"5:6", b"0:0"))
    return source


@image("it has no tag 'three'; there are: one, two")
def unknown_tag(place: Path) -> Source:
    return oci(place, "three", tags=("one", "two"))


@image("it holds several images, with the tags one, two")
def no_tag_of_several(place: Path) -> Source:
    return oci(place, tags=("one", "two"))


@image("its manifest's layers aren't the 2 of its configuration")
def layers_that_dont_match(place: Path) -> Source:
    return oci(place, config={"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 2}})


@image("it is no OCI image layout: it has no file oci-layout")
def no_layout(place: Path) -> Source:
    source = oci(place)
    (place / "oci/oci-layout").unlink()
    return source


@image("its layout version '9' isn't known")
def later_layout(place: Path) -> Source:
    source = oci(place)
    (place / "oci/oci-layout").write_text('{"imageLayoutVersion": "9"}')
    return source


@image("index.json is no JSON")
def index_of_nonsense(place: Path) -> Source:
    source = oci(place)
    (place / "oci/index.json").write_text("{")
    return source


@image("'/x': an absolute path")
def hostile_layer(place: Path) -> Source:
    return oci(place, layers=[GOOD, tar(member("/x"))])


@image("it has no manifest.json: docker save didn't write it")
def no_docker_archive(place: Path) -> Source:
    (place / "d.tar").write_bytes(GOOD)
    return Source("docker-archive", str(place / "d.tar"))


@image("it has no tag 'other'; there are: name:tag")
def docker_tag(place: Path) -> Source:
    return Source("docker-archive", str(docker_archive(place / "d.tar", [GOOD])), "other")


@image("a layer is missing: 0/gone.tar")
def docker_layer(place: Path) -> Source:
    return Source("docker-archive", str(docker_archive(place / "d.tar", [GOOD], Layers=["0/gone.tar"])))


@image("../outside/kept")
def docker_layer_elsewhere(place: Path) -> Source:
    return Source("docker-archive", str(docker_archive(place / "d.tar", [GOOD], Layers=["../outside/kept"])))


@image("truncated: it ends within")
def docker_cut(place: Path) -> Source:
    path = docker_archive(place / "d.tar", [BIG])
    path.write_bytes(path.read_bytes()[:200_000])
    return Source("docker-archive", str(path))


@image("ENOENT (No such file or directory)")
def nothing_there(place: Path) -> Source:
    return Source("tarball", str(place / "nothing.tar"))


@image("it is no regular file")
def directory_as_archive(place: Path) -> Source:
    (place / "d.tar").mkdir()
    return Source("tarball", str(place / "d.tar"))


AS_USER = """
import json, os, sys
from pytest_isolate.images.store import Store
from pytest_isolate.model.errors import ImageError
from pytest_isolate.model.image import Source
told = {}
for name, source in json.load(open("cases")).items():
    store = os.path.abspath(f"stores/{len(told)}")
    try:
        with Store(store) as opened:
            opened.resolve([Source(*source)])
        told[name] = ["", []]
    except ImageError as error:
        left = [each for part in ("layers", "images", "tmp") if os.path.isdir(f"{store}/{part}") for each in os.listdir(f"{store}/{part}")]
        told[name] = [str(error), left]
print(json.dumps(told))
"""


@requires("root", "unprivileged-user", "userns")
def test_all_of_them_are_refused_for_a_user_in_the_same_words(shared: Path) -> None:
    """In one process, since a process for each takes a minute. What is outside is the user's own, and could be altered."""
    (shared / "outside").mkdir()
    (shared / "outside/kept").write_text("kept")
    cases: dict[str, Source] = {}
    wanted: dict[str, str] = {}
    for group in (MEMBERS, DAMAGED, IMAGES):
        for name, (made, expected) in group.items():
            place = shared / f"case{len(cases)}"
            place.mkdir()
            cases[name], wanted[name] = (
                _made(place, made, f"{shared}/outside"),
                expected.replace("{outside}", f"{shared}/outside"),
            )
    (shared / "cases").write_text(json.dumps({name: [each.kind, each.path, each.tag] for name, each in cases.items()}))
    subprocess.run(["chown", "-R", "-h", f"{USER_ID}:{USER_ID}", shared], check=True)
    before = tree(shared / "outside")
    done = run_as_user([str(find_python()), "-c", AS_USER], cwd=shared, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {name: message for name, (message, _) in told.items() if wanted[name] not in message} == {}
    assert {name: left for name, (_, left) in told.items() if left} == {}
    assert tree(shared / "outside") == before


def _made(place: Path, case: list[Member] | bytes | Callable[[Path], Source], outside: str) -> Source:
    if isinstance(case, bytes):
        return tarball(place, case)
    return tarball(place, tar(FILE, *_aimed(case, outside))) if isinstance(case, list) else case(place)


def _aimed(members: list[Member], outside: str) -> list[Member]:
    """With ``{outside}`` filled in, in copies."""
    aimed = []
    for info, data in members:
        copied = copy.copy(info)
        copied.linkname = info.linkname.replace("{outside}", outside)
        aimed.append((copied, data))
    return aimed


@pytest.fixture
def shared() -> Iterator[Path]:
    with user_directory() as path:
        yield path


LATER = frozenset(
    {
        *MEMBERS, "cut in a header", "gzip cut", "gzip damaged", "number", "negative size", "owner beyond all", "sparse map",
        "long extended header", "compressed twice", "hostile_layer", "altered_content", "wrong checksum",
    }
)  # fmt: skip
"""What at most unpacking tells."""


@pytest.mark.parametrize("case", [*MEMBERS, *DAMAGED, *IMAGES])
def test_what_a_look_tells_is_what_unpacking_would_tell(place: Path, case: str) -> None:
    made, _ = {**MEMBERS, **DAMAGED, **IMAGES}[case]
    source = _made(place, made, str(place / "outside"))
    with Store(str(place / "store")) as store:
        try:
            store.judge(source)
        except ImageError as error:
            look = str(error)
        else:
            look = ""
        assert not (place / "store").exists()
        with pytest.raises(ImageError) as caught:
            store.resolve([source])
    if look:
        assert look == str(caught.value)
    else:
        assert case in LATER


@pytest.mark.parametrize("case", IMAGES)
def test_bad_image_is_refused(place: Path, case: str) -> None:
    make, expected = IMAGES[case]
    message = refused(place, make(place))
    assert expected in message, message
