"""Suites with layers, run by pytest with the real plugin: by root, or by an unprivileged user."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.capabilities import requires
from tests.support.pytest_process import run_pytest
from tests.support.unprivileged import USER_ID, pytest_as_user, user_directory

__all__ = ["Suite", "suite"]

HEAD = """
import os, pathlib, subprocess
import pytest
from pytest_isolate import isolate_layer, isolate_snapshot
PLACE = pathlib.Path("PLACE")
"""


class Suite:
    """A directory with a suite, and somebody who runs it.

    Attributes:
        place: where layers have their files, outside of pytest's own directories; nothing may come to be there on the host.
    """

    def __init__(self, directory: Path, *, root: bool) -> None:
        self.directory, self.root = directory, root
        self.place = directory / "made"

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(HEAD.replace('PLACE"', f'{self.place}"') + text if name.endswith(".py") else text)
        if not self.root and os.geteuid() == 0:
            os.chown(path, USER_ID, USER_ID)

    def own(self) -> None:
        """All files are the caller's, whoever wrote them."""
        if not self.root and os.geteuid() == 0:
            subprocess.run(["chown", "-R", "-h", f"{USER_ID}:{USER_ID}", self.directory], check=True)

    def run(self, *args: str) -> str:
        """What pytest prints, with status and outcome."""
        args = ("-q", "-rA", f"--isolate-store={self.directory}/store", *args)
        done = run_pytest(self.directory, *args) if self.root else pytest_as_user(*args, cwd=self.directory)
        assert not self.place.exists(), done.stdout
        return done.stdout + done.stderr


@pytest.fixture(
    params=[pytest.param("root", marks=requires("root")), pytest.param("user", marks=requires("unprivileged-user", "userns"))]
)
def suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    if request.param == "root":
        yield Suite(tmp_path_factory.mktemp("suite"), root=True)
        return
    with ExitStack() as stack:
        yield Suite(stack.enter_context(user_directory()), root=False)
