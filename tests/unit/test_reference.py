"""The reference of keys says what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_reference_of_keys_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate_reference.py"))
    page = made["PAGE"].read_text(encoding="utf-8")
    assert page == made["filled"](page), "run: python docs/generate_reference.py"
    for part in made["PARTS"]:
        assert f"<!-- begin: {part} -->" in page
