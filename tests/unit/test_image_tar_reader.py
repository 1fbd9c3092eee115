"""Headers of tar archives, as several programs write them."""

from __future__ import annotations

import tarfile

import pytest

from pytest_isolate.images.tar_reader import TarReader
from pytest_isolate.images.tree_record import Entry, differences, digest, lines
from pytest_isolate.model.errors import ImageError
from tests.support.archives import member, tar


def read(data: bytes, chunk: int = 1000) -> list[tuple[object, bytes]]:
    """Every member with its contents, from pieces that don't end where headers do."""
    reader = TarReader(data[at : at + chunk] for at in range(0, len(data), chunk))
    return [(each, b"".join(map(bytes, reader.data()))) for each in reader.members()]


LONG = "/".join(["directory" * 5] * 9)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("chunk", [1, 511, 512, 513, 100_000])
def test_members_are_read_from_pieces_of_any_length(form: int, chunk: int) -> None:
    name = "d" * 90 + "/" + "f" * 90 if form == tarfile.USTAR_FORMAT else LONG
    data = tar(
        member(name, b"x" * 1500, mode=0o4751, uid=7, gid=8),
        member("link", kind=b"2", link="to" * 40),
        member("empty"),
        form=form,
    )
    found = read(data, chunk)
    assert [(each.name.decode(), each.kind, each.size, content) for each, content in found] == [
        (name, "0", 1500, b"x" * 1500), ("link", "2", 0, b""), ("empty", "0", 0, b""),
    ]  # fmt: skip
    assert (found[0][0].mode, found[0][0].uid, found[0][0].gid, found[0][0].mtime) == (0o4751, 7, 8, 1_600_000_000_000_000_000)
    assert found[1][0].link == b"to" * 40


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"),
    [
        ("1.5", 1_500_000_000),
        ("-1.5", -1_500_000_000),
        ("-0.25", -250_000_000),
        ("7", 7_000_000_000),
        ("3.0000000019", 3_000_000_001),
    ],
)
def test_times_of_pax_are_exact(seconds: str, nanoseconds: int) -> None:
    ((found, _),) = read(tar(member("x", pax_headers={"mtime": seconds})))
    assert found.mtime == nanoseconds


def test_numbers_beyond_octal_are_read() -> None:
    ((found, _),) = read(tar(member("x", uid=2**31, gid=2**30, mtime=2**34), form=tarfile.GNU_FORMAT))
    assert (found.uid, found.gid, found.mtime) == (2**31, 2**30, 2**34 * 10**9)


def test_headers_for_all_hold_until_one_says_otherwise() -> None:
    data = tar(member("x"), member("y", pax_headers={"uid": "9"}))
    header = tarfile.TarInfo.create_pax_global_header({"uid": "5"})
    assert [each.uid for each, _ in read(header + data)] == [5, 9]


def test_extended_header_that_contradicts_itself_is_refused() -> None:
    data = tar(member("y", pax_headers={"comment": "x"}))
    with pytest.raises(ImageError, match="an extended header can't be read"):
        read(data.replace(b"13 comment=x", b"99 comment=x"))


def test_lines_name_what_differs() -> None:
    before = {b"": Entry("d", 0o755), b"a\tb": Entry("f", 0o644, size=1, content=b"\1" * 32), b"gone": Entry("p")}
    after = {b"": Entry("d", 0o755, uid=5), b"a\tb": Entry("f", 0o600, size=1, content=b"\1" * 32), b"new": Entry("w")}
    assert list(differences(lines(before), lines(after))) == [".: owner", "a\\tb: mode", "gone: missing", "new: added"]
    assert digest(lines(before)) != digest(lines(after))


def test_names_of_one_file_are_written_down_as_such() -> None:
    one = Entry("f", 0o644, content=b"\2" * 32, identity=3)
    assert [line.split(b"\t")[0] for line in lines({b"b": one, b"a": one, b"c": Entry("f")})] == [b"f", b"h", b"f"]
