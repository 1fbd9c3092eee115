"""What an image says of its processes: variables, user and working directory, in an image made by umoci. As root and as a user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.callers import Caller, caller
from tests.support.capabilities import requires
from tests.support.image_tools import tool
from tests.support.roots import make_root
from tests.support.unprivileged import USER_ID

__all__ = ["caller"]


@pytest.fixture
def image(caller: Caller) -> Iterator[Path]:
    """An OCI layout with the tags ``named`` and ``bare``, of which only the first has a configuration."""
    with ExitStack() as stack:
        place = caller.directory / "image"
        root = make_root(caller.directory / "root", etc__motd="image\n", srv__here="there\n")
        tool("umoci", "init", "--layout", place)
        for tag in ("bare", "named"):
            tool("umoci", "new", "--image", f"{place}:{tag}")
            tool("umoci", "insert", "--image", f"{place}:{tag}", root, "/")
        settings = (
            "--config.env",
            "WHO=image",
            "--config.env",
            "PATH=/usr/bin:/opt/bin",
            "--config.user",
            "web",
            "--config.workingdir",
            "/srv",
        )
        tool("umoci", "config", "--image", f"{place}:named", *settings)
        if not caller.is_root and os.geteuid() == 0:
            for path in (place, *place.rglob("*")):
                os.chown(path, USER_ID, USER_ID)
        stack.callback(tool, "rm", "-rf", root, place)
        yield place


def told(caller: Caller, image: str, command: str, **spec: object) -> list[str]:
    code = f"""
with box(rootfs=parse_key("rootfs", "oci:" + {image!r}, "/"), **{spec!r}) as opened:
    done = opened.run(["sh", "-c", {command!r}], timeout=30)
    tell((done.stdout + done.stderr).decode().splitlines())
"""
    return caller.run(code, env={"XDG_DATA_HOME": str(caller.directory / "data")})  # type: ignore[no-any-return]


ALL = 'cat here; echo "$WHO"; echo "$PATH"; id -u; pwd; cat /etc/motd'


@requires("root", "umoci")
def test_programs_run_as_the_image_says(caller: Caller, image: Path) -> None:
    assert told(caller, f"{image}:named", ALL) == ["there", "image", "/usr/bin:/opt/bin", "33", "/srv", "image"]


@requires("root", "umoci")
def test_keys_of_the_spec_come_before_what_the_image_says(caller: Caller, image: Path) -> None:
    assert told(caller, f"{image}:named", ALL, user="root", env=(("WHO", "spec"),))[1:5] == [
        "spec",
        "/usr/bin:/opt/bin",
        "0",
        "/srv",
    ]


@requires("root", "umoci")
def test_an_image_that_says_nothing_has_docker_s_defaults(caller: Caller, image: Path) -> None:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert told(caller, f"{image}:bare", 'echo "$PATH"; id -u; pwd') == [path, "0", "/"]


@requires("root", "umoci")
def test_tag_that_is_not_there_is_told_with_those_that_are(caller: Caller, image: Path) -> None:
    done = caller.python(
        "-m",
        "pytest_isolate",
        "run",
        f"--rootfs=oci:{image}:other",
        "--",
        "true",
        env={"XDG_DATA_HOME": str(caller.directory / "data")},
    )
    assert done.returncode != 0
    assert "other" in done.stderr
    assert "bare" in done.stderr
    assert "named" in done.stderr
