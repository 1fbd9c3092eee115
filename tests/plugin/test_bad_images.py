"""Images that can't be used: errors of collection as far as a look tells, else of the first test that needs them. As root and as a user."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.support.archives import digest, docker_archive, layout, member, tar
from tests.support.layer_suites import Suite, suite

__all__ = ["suite"]

GOOD = tar(member("usr", kind=b"5", mode=0o755), member("etc/motd", b"image\n"))
HOSTILE = tar(member("file", b"x" * 3000), member("/tmp/absolute", b"x"), member("last", b"x" * 1000))

TESTS = """
@pytest.mark.isolate(rootfs=["host", {source!r}])
@pytest.mark.parametrize("time", range({times}))
def test_{name}(time): pass
"""

COUNTING = """
from pytest_isolate.images.importing import Importer
run = Importer.run
def counted(self, source, name=""):
    with open(os.path.join(os.path.dirname(__file__), "unpacked"), "a") as file:
        file.write(f"{source}\\n")
    return run(self, source, name)
Importer.run = counted
"""


def suite_of(*sources: str, times: int = 1) -> str:
    names = [re.sub(r"\W", "_", source) for source in sources]
    return "".join(TESTS.format(source=source, name=name, times=times) for source, name in zip(sources, names, strict=True))


def bad_images(suite: Suite) -> dict[str, str]:
    """What is wrong with them, by what `rootfs=` names."""
    here = suite.directory
    layout(here / "vax", [GOOD], config={"architecture": "vax"})
    layout(here / "rpm", [GOOD], media="application/x-rpm")
    missing = layout(here / "missing", [GOOD])
    (missing / "blobs/sha256" / digest(GOOD)[7:]).unlink()
    altered = layout(here / "altered", [GOOD])
    (altered / "blobs/sha256" / digest(GOOD)[7:]).write_bytes(GOOD[:-1] + b"x")
    layout(here / "tagged", [GOOD], tags=("one", "two"))
    docker_archive(here / "docker.tar", [GOOD], Layers=["gone.tar"])
    (here / "nonsense.tar.gz").write_bytes(b"hello " * 1000)
    (here / "lz4.tar").write_bytes(b"\x04\x22\x4d\x18" + bytes(3000))
    (here / "cut.tar").write_bytes(HOSTILE[:2000])
    (here / "empty.tar").touch()
    (here / "file").touch()
    return {
        "oci:vax": "it is for linux/vax, this machine is linux/",
        "oci:rpm": "its layer 1 has the media type 'application/x-rpm', which isn't known",
        "oci:missing": "the blob of its layer 1 is missing: blobs/sha256/",
        "oci:altered": "digest mismatch: its digest is sha256:",
        "oci:tagged:three": "it has no tag 'three'; there are: one, two",
        "docker-archive:docker.tar": "a layer is missing: gone.tar",
        "nonsense.tar.gz": "it is no tar archive, and in none of the compressions gzip, xz, bzip2 and zstd",
        "lz4.tar": "it is no tar archive, and in none of the compressions",
        "cut.tar": "truncated: it ends within a file's contents",
        "empty.tar": "it is empty",
        "file": "it is a file",
    }


def errors(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if re.match(r"  \S+ of test_\w+\.py\S*: rootfs: ", line)]


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_what_a_look_tells_is_an_error_of_collection_and_nothing_is_unpacked(suite: Suite, how: str):
    wrong = bad_images(suite)
    suite.write("conftest.py", COUNTING)
    suite.write("test_bad.py", suite_of(*wrong, times=2))
    suite.write("test_good.py", "@pytest.mark.isolate\ndef test_good(): pass")
    suite.own()
    distributed = (*(("-p", "xdist") if suite.root else ()), "-n", "2") if how == "xdist" else ()
    output = suite.run("--continue-on-collection-errors", *distributed)
    assert "1 passed, 1 error" in output, output
    told = errors(output)
    assert len(told) == len(wrong), output
    for source, problem in wrong.items():
        (line,) = [line for line in told if f"::test_{re.sub(r'[^0-9A-Za-z_]', '_', source)}: " in line]
        assert problem in line
        assert str(suite.directory / source.removeprefix("oci:").removeprefix("docker-archive:").removesuffix(":three")) in line
    assert not (suite.directory / "unpacked").exists()
    assert not (suite.directory / "store/layers").exists()


def test_base_of_a_layer_that_is_to_be_made_is_looked_at_too(suite: Suite):
    layout(suite.directory / "vax", [GOOD], config={"architecture": "vax"})
    suite.write(
        "test_bad.py",
        """
made = isolate_layer("made", base="oci:vax", steps="true")
pytestmark = pytest.mark.isolate(rootfs=[made])
def test_one(): pass
def test_two(): pass
""",
    )
    suite.own()
    output = suite.run()
    assert "1 error" in output, output
    (told,) = errors(output)
    assert told.startswith(
        f"pytestmark of test_bad.py: rootfs: base of layer 'made': oci:{suite.directory}/vax: it is for linux/vax"
    )


def test_images_of_deselected_and_of_disabled_tests_are_nobody_s_business(suite: Suite):
    suite.write("test_it.py", suite_of(*bad_images(suite)) + "@pytest.mark.isolate\ndef test_good(): pass")
    suite.own()
    assert "1 passed, 11 deselected" in suite.run("-k", "good")
    assert "12 passed" in suite.run("--no-isolate")


def test_images_that_were_unpacked_need_no_second_look(suite: Suite):
    image = layout(suite.directory / "image", [GOOD])
    suite.write("test_it.py", "@pytest.mark.isolate(rootfs=['host', 'oci:image'])\ndef test_it(): open('/etc/motd').close()")
    suite.own()
    assert "1 passed" in suite.run()
    shutil.rmtree(image / "blobs")
    assert "1 passed" in suite.run()


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_what_only_unpacking_tells_is_told_once_and_found_out_once(suite: Suite, how: str):
    layout(suite.directory / "hostile", [GOOD, HOSTILE])
    suite.write("conftest.py", COUNTING)
    suite.write("test_it.py", suite_of("oci:hostile", times=6) + "@pytest.mark.isolate\ndef test_good(): pass")
    suite.own()
    distributed = (*(("-p", "xdist") if suite.root else ()), "-n", "2") if how == "xdist" else ()
    output = suite.run(*distributed)
    assert "1 passed, 6 errors" in output, output
    whole = [
        line for line in output.splitlines() if "'/tmp/absolute': an absolute path" in line and not line.startswith("ERROR ")
    ]
    short = re.findall(r"rootfs .*oci:\S+/hostile can't be had, as test_it\.py::test_oci_hostile\[\d\] says", output)
    # Each worker of xdist writes reports of its own.
    assert len(whole) == (2 if how == "xdist" else 1), output
    assert len(set(short)) == len(whole), output
    assert (suite.directory / "unpacked").read_text() == f"oci:{suite.directory}/hostile\n"
    for part in ("layers", "images", "tmp"):
        assert not list((suite.directory / "store" / part).iterdir())


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_image_that_is_mended_is_taken_by_the_next_run(suite: Suite, how: str):
    image = layout(suite.directory / "image", [tar(member("etc/file", b"x" * 2_000_000))])
    blob = max((image / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    good = blob.read_bytes()
    blob.write_bytes(good[:-2000] + b"y" + good[-1999:])
    suite.write("test_it.py", suite_of("oci:image", times=2))
    suite.own()
    distributed = (*(("-p", "xdist") if suite.root else ()), "-n", "2") if how == "xdist" else ()
    bad = suite.run(*distributed)
    assert "2 errors" in bad, bad
    assert "digest mismatch" in bad
    blob.write_bytes(good)
    assert "2 passed" in suite.run(*distributed)
