"""The file of ``--isolate-html`` as text: its policy, what of a document is in it, how large it is, what it says where Bokeh is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pytest_isolate.__main__ import main
from pytest_isolate.report.files import write
from pytest_isolate.report.html.packing import SAMPLE_ROWS, packed
from pytest_isolate.report.html.page import page
from tests.support.documents import HOSTILE, compared, run_document

ROOT = Path(__file__).parents[2]


class Parts(HTMLParser):
    """What a browser makes of the file: elements that load something, and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.loading: list[str | None] = []
        self.policy = ""
        self._within: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "script":
            self._within = attributes
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"] or ""
        self.loading += [
            value for name, value in attrs if name in ("src", "href", "action", "data") and not (value or "").startswith("#")
        ]

    def handle_data(self, data: str) -> None:
        if self._within is not None:
            self.scripts.append((self._within, data))

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._within = None


def data_of(text: str) -> Any:
    (found,) = [script for attributes, script in Parts(text).scripts if attributes.get("type") == "application/json"]
    return json.loads(found)["document"]


def test_policy_has_the_hash_of_each_script_and_allows_no_connection(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write(str(path), page(compared(run_document(30))))
    parts = Parts(path.read_bytes().decode("utf-8"))
    scripts = [script for attributes, script in parts.scripts if attributes == {}]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert len(scripts) == 3
    assert parts.policy.split("; ")[:2] == ["default-src 'none'", f"script-src {' '.join(hashes)}"]
    assert "connect-src" not in parts.policy  # so that default-src holds
    assert parts.loading == ["data:,"]


def test_names_come_through_as_they_are_and_end_no_script(tmp_path: Path) -> None:
    document = run_document(len(HOSTILE))
    for test, nodeid in zip(document["tests"], HOSTILE, strict=True):
        test["nodeid"] = nodeid
    document["run"]["rootdir"] = "/srv/<script>"
    path = tmp_path / "page.html"
    write(str(path), page(document))
    text = path.read_bytes().decode("utf-8")  # lone surrogates too
    assert [test["nodeid"] for test in data_of(text)["tests"]] == list(HOSTILE)
    assert len(Parts(text).scripts) == 4
    assert "<title>Sandboxes of &lt;script&gt;</title>" in text


def test_page_of_a_document_is_the_same_each_time() -> None:
    assert page(compared(run_document(30))) == page(compared(run_document(30)))


def test_five_thousand_tests_with_many_samples_are_less_than_five_megabytes() -> None:
    document = compared(run_document(5000, sampled=5000))
    rows = sum(len(test["samples"]["rows"]) for test in document["tests"])
    assert rows > 4 * SAMPLE_ROWS
    assert len(page(run_document(5000)).encode()) < 5e6
    small = packed(document)
    assert small["samples_thinned"]
    kept = [test["samples"]["rows"] for test in small["tests"]]
    for test, rows_kept in zip(document["tests"], kept, strict=True):
        whole = test["samples"]["rows"]
        assert len(rows_kept) <= 20
        assert max(row[1] or 0 for row in rows_kept) == max(row[1] or 0 for row in whole)
        assert [row[0] for row in rows_kept] == sorted(row[0] for row in rows_kept)
        # When the kill was first seen is when it was first seen.
        assert next(row[0] for row in rows_kept if row[4]) == pytest.approx(next(row[0] for row in whole if row[4]), rel=1e-5)


def test_few_samples_are_all_there() -> None:
    document = run_document(8)
    small = packed(document)
    assert not small["samples_thinned"]
    assert [len(test["samples"]["rows"]) for test in small["tests"]] == [41] * 8


def test_packed_document_has_every_figure_and_spec() -> None:
    document = run_document(200)
    small = packed(document)
    for before, after in zip(document["tests"], small["tests"], strict=True):
        figures = {name: value for name, value in zip(small["usage_columns"], after["usage"], strict=True) if value is not None}
        assert figures == {name: pytest.approx(value, rel=1e-5) for name, value in before["usage"].items()}
        assert small["specs"][after["spec"]] == before["spec"]


def command(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": f"{path}:{ROOT}" if path else str(ROOT), "PATH": "/usr/bin"}
    return subprocess.run(
        [sys.executable, "-m", "pytest_isolate", "report", *arguments], env=env, capture_output=True, text=True, check=False
    )


def test_command_makes_the_page_of_a_file_and_imports_no_bokeh(tmp_path: Path) -> None:
    document = run_document(20)
    (tmp_path / "run.json").write_text(json.dumps(document))
    code = "import sys; from pytest_isolate.__main__ import main; main(['report', 'run.json', '-o', 'out/page.html']); sys.exit('bokeh' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert (tmp_path / "out/page.html").read_text() == page(document)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "can't be read: No such file or directory"),
        (b"", "is no JSON, or not all of it"),
        (json.dumps(run_document(5)).encode()[:2000], "is no JSON, or not all of it"),
        (b"\xff\xfe\x00", "is no JSON, or not all of it"),
        (json.dumps({**run_document(2), "plain_tests": float("nan")}).encode(), "has not the form that its version promises"),
        (b"[]", "has no list of tests"),
        (b'{"version": 1, "tests": {}}', "has no list of tests"),
        (b'{"version": 2, "tests": []}', "has version 2 of the form, and this is a reader of version 1"),
        (b'{"version": 1, "tests": [1]}', "has not the form that its version promises"),
    ],
)
def test_command_says_what_is_wrong_with_a_file(
    content: bytes | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "run.json"
    if content is not None:
        source.write_bytes(content)
    assert main(["report", str(source), "-o", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"pytest-isolate: command line: report: {source} {why}")
    assert "; accepted: " in said
    assert not (tmp_path / "page.html").exists()


def test_command_says_where_it_can_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run_document(1)))
    assert main(["report", str(tmp_path / "run.json"), "-o", str(tmp_path / "run.json/page.html")]) == 2
    assert "page.html can't be written: Not a directory" in capsys.readouterr().err


def stand_in(directory: Path, version: str | None) -> Path:
    """A directory for the front of PYTHONPATH in which there is a Bokeh of that version, without its scripts."""
    (directory / "bokeh").mkdir()
    (directory / "bokeh/__init__.py").write_text("raise ImportError('nobody needs this')")
    if version:
        (directory / f"bokeh-{version}.dist-info").mkdir()
        (directory / f"bokeh-{version}.dist-info/METADATA").write_text(
            f"Metadata-Version: 2.1\nName: bokeh\nVersion: {version}\n"
        )
    return directory


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("2.4.3", r"Bokeh 2\.4\.3 is installed, and the page is made for 3\.8 up to, but not, 4;"),
        ("4.0.0", r"Bokeh 4\.0\.0 is installed, and the page is made for 3\.8 up to, but not, 4;"),
        ("3.9.0", r"Bokeh 3\.9\.0 has no bokeh\.min\.js: No such file or directory \(.*\)"),
    ],
)
def test_bokeh_that_does_not_fit_is_named_with_the_command_that_brings_one(version: str, why: str, tmp_path: Path) -> None:
    done = command("run.json", "-o", "page.html", path=stand_in(tmp_path, version))
    assert done.returncode == 2
    assert re.search(why, done.stderr)
    assert "python -m pip install 'pytest-isolate-sandbox[html]'" in done.stderr
