"""A root file system that isn't like Debian's: mmdebstrap's tarball of busybox alone, without a C library. As root and as a user."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_images import SHOWN, run
from tests.support.archives import TAR, layout, member, tar
from tests.support.callers import Caller, caller
from tests.support.capabilities import requires
from tests.support.image_tools import busybox_tarball, listing
from tests.support.layer_suites import Suite, suite
from tests.support.unprivileged import user_directory

__all__ = ["caller", "suite"]

pytestmark = requires("root", "mmdebstrap")

OLD_LIBC = tar(member("lib/x86_64-linux-gnu/libc.so.6", b"\x7fELF GLIBC_2.2.5\0GLIBC_2.17\0", mode=0o755))
"""What a loader would find where Debian has its C library, and what is looked at."""


@pytest.fixture(scope="module")
def busybox() -> Iterator[Path]:
    """The tarball, where the user can read it."""
    with user_directory() as path:
        path.chmod(0o755)
        made = busybox_tarball(path)
        made.chmod(0o644)
        yield made


def test_tarball_of_mmdebstrap_is_what_tar_makes_of_it(caller: Caller, busybox: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir(mode=0o755)
    subprocess.run(["tar", "-C", shown, "--numeric-owner", "-xpf", busybox], check=True)
    found, merged = run(caller, SHOWN, str(busybox))
    assert merged == listing(shown)
    with tarfile.open(busybox) as archive:
        devices = [each for each in archive if each.isdev() and not each.isfifo()]
    assert found["notes"][0].startswith(f"{busybox}: device nodes left out: {len(devices)} (")
    assert len(found["notes"]) == 1


def test_programs_run_in_it_and_nothing_of_the_host_is_there(caller: Caller, busybox: Path) -> None:
    code = f"""
rootfs = parse_key("rootfs", [{str(busybox)!r}], "/")
with box(rootfs=rootfs) as opened:
    done = opened.run(["sh", "-c", "readlink /proc/self/exe; ls -d /lib* /usr/lib* 2>/dev/null; id -u; echo x > /etc/new && cat /etc/new"])
    tell([done.stdout.decode().split(), done.stderr.decode()])
"""
    words, errors = caller.run(code)
    assert words[0].endswith("/busybox")
    assert words[-2:] == ["0", "x"]
    assert not [word for word in words if word.startswith("/lib64")]
    assert errors == ""


INSIDE = """
HERE = os.path.dirname(__file__)

@pytest.mark.isolate(rootfs="busybox.tar")
def test_in_it(isolate_factory):
    assert not os.path.exists("/etc/debian_version")
    assert subprocess.run(["/bin/busybox", "echo", "hello"], capture_output=True, text=True).stdout == "hello\\n"
    import sys
    done = subprocess.run([sys.executable, "-c", "import ssl, sqlite3; print(1)"], capture_output=True, text=True)
    assert done.stdout == "1\\n", done.stderr

@pytest.mark.isolate(rootfs=["busybox.tar", "oci:old"])
def test_with_an_old_library():
    pass

@pytest.mark.isolate
def test_programs_with_an_old_library(isolate_factory):
    box = isolate_factory(rootfs=[f"{HERE}/busybox.tar", f"oci:{HERE}/old"])
    assert box.run(["busybox", "cat", "/etc/passwd"]).stdout == b"root:x:0:0::/root:/bin/sh\\n"
"""


def test_tests_run_in_it_and_one_that_cannot_start_says_why(suite: Suite, busybox: Path) -> None:
    shutil.copy2(busybox, suite.directory / "busybox.tar")
    layout(suite.directory / "old", [OLD_LIBC], media=TAR, config={"config": {}})
    suite.write("test_it.py", INSIDE.replace("\\\\n", "\\n"))
    suite.own()
    output = suite.run()
    assert "2 passed, 1 error" in output, output
    assert "test_with_an_old_library" in output
    assert "libc.so.6 is glibc 2.17, and" in output
    assert "remedy: take an image" in output
