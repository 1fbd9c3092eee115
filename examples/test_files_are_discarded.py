"""Every write goes to a layer of the test's own.

Look for: the tests run one after another and each would ruin the next; none does, and this directory is unchanged afterwards.
"""

import os
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.isolate
HERE = Path(__file__).parent


def test_overwrites_this_file():
    Path(__file__).write_text("")
    assert Path(__file__).stat().st_size == 0


def test_the_file_is_whole_again():
    assert Path(__file__).stat().st_size > 1000


def test_deletes_the_examples():
    shutil.rmtree(HERE / "failures")
    for example in HERE.glob("*.md"):
        example.unlink()
    assert not (HERE / "README.md").exists()


def test_the_examples_are_back():
    assert (HERE / "README.md").exists()
    assert (HERE / "failures").is_dir()


def test_writes_beside_the_suite():
    (HERE / "litter.txt").write_text("litter")


def test_finds_no_litter():
    assert not (HERE / "litter.txt").exists()


def test_tmp_path_is_kept_as_ever(tmp_path):
    # pytest's own directories are real: what a failed test left in tmp_path can be looked at afterwards.
    (tmp_path / "kept.txt").write_text("kept")
    assert os.listdir(tmp_path) == ["kept.txt"]
