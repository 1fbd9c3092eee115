"""The decisions behind ``inputs=``: what is shown, what is refused, what is looked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_isolate.model.project import Project, outside
from pytest_isolate.model.spec import Spec, contradictions
from pytest_isolate.plugin.board import Board
from pytest_isolate.rootfs.inputs import Shown, show
from pytest_isolate.rootfs.layout import HOST, Bound, Layer, Trees
from pytest_isolate.rootfs.plan import Directory
from pytest_isolate.sandbox.paths import files_of
from pytest_isolate.sandbox.project import project_of

PLAIN = Directory(0o755)
ROOTS = Trees((Layer("/", PLAIN, HOST),), ())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("src/pkg", "data/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/deep/file").write_text("file")
    (tmp_path / "large").write_bytes(bytes(70_000))
    return tmp_path


def shown(
    project: Path, *inputs: str, trees: Trees = ROOTS, points: tuple[str, ...] = (), here: str = "/", kept: tuple[str, ...] = ()
) -> Shown | None:
    whole = Project(str(project), here, kept)
    spec = Spec(inputs=tuple(os.path.normpath(project / name) for name in inputs), project=whole)
    return show(spec, trees, points, owners=False)


def outline(found: Shown | None) -> dict[str, str]:
    assert found is not None
    return {os.path.relpath(entry.path, found.outline.root): entry.kind for entry in found.outline.entries}


def test_spec_survives_json_with_its_project() -> None:
    spec = Spec(inputs=("/p/src",), project=Project("/p", "/p/tests", ("/p/.venv",)))
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("root", "inputs", "count"),
    [("/p", ("/p/a", "/p"), 0), ("/p", ("/p2/a", "/", "/p/a"), 2), ("/", ("/a",), 1), ("/", (), 0)],
)
def test_inputs_outside_of_the_project_are_errors(root: str, inputs: tuple[str, ...], count: int) -> None:
    assert len(outside(inputs, root)) == count


def test_link_into_and_out_of_the_project_are_in_it(tmp_path: Path) -> None:
    (tmp_path / "real/data").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/out").symlink_to("/etc")
    paths = [str(tmp_path / name) for name in ("real/data", "link/data", "link/out", "real/out")]
    assert outside(paths, str(tmp_path / "link")) == []
    assert outside(paths, str(tmp_path / "real")) == []


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        (Spec(inputs=("/p/src",), writable=("/p/src",)), ["inputs+writable"]),
        (Spec(inputs=("/p/src/a",), writable=("/p/src",)), ["inputs+writable"]),
        (Spec(inputs=("/p/src",), writable=("/p/src/out", "/p/build"), hide=("/p/src/secret",)), []),
        (Spec(inputs=("/p/src", "/p/data"), hide=("/p",)), ["hide+inputs", "hide+inputs"]),
    ],
)
def test_what_takes_a_whole_input_away_contradicts_it(spec: Spec, keys: list[str]) -> None:
    assert [error.key for error in contradictions(spec)] == keys


def test_outline_holds_the_way_to_inputs_small_files_and_points(project: Path) -> None:
    (project / "cache").mkdir()
    (project / "link").symlink_to("data/deep")
    (project / "here/below").mkdir(parents=True)
    here = f"{project}/here/below"
    found = shown(project, "src/pkg", "link/file", "large", points=(f"{project}/cache", "/elsewhere"), here=here)
    assert outline(found) == {
        ".": "directory", "src": "directory", "src/pkg": "directory", "cache": "directory", "data": "directory", "data/deep": "directory",
        "data/deep/file": "copy", "link": "link", "large": "point", "here": "directory", "here/below": "directory",
    }  # fmt: skip
    assert "missing" not in outline(shown(project, "src", here=f"{project}/missing"))


def test_nested_inputs_are_one(project: Path) -> None:
    found = shown(project, "src", "src/pkg", "data/deep/file", "data")
    assert found is not None
    assert sorted(found.whole) == [f"{project}/data", f"{project}/src"]
    assert outline(found) == {".": "directory", "src": "directory", "data": "directory"}
    assert [layer.lower for layer in found.layers[1:]] == [f"{HOST}{path}" for path in found.whole]


def test_everything_asked_for_is_nothing_hidden(project: Path) -> None:
    assert shown(project, ".") is None
    assert shown(project, "src", kept=(str(project),)) is None
    assert shown(project, "src", points=(str(project),)) is None
    assert show(Spec(), ROOTS, (), owners=False) is None


def test_mounts_of_the_host_in_the_project_go_with_what_is_shown(project: Path) -> None:
    def at(path: str) -> Layer:
        return Layer(f"{project}/{path}", PLAIN, f"{HOST}{project}/{path}")

    trees = Trees(
        (*ROOTS.layers, at("src/pkg"), at("other"), at("data")),
        (Bound(f"{project}/src/ro"), Bound(f"{project}/ro"), Bound("/ro")),
    )
    found = shown(project, "src", "data", trees=trees)
    assert found is not None
    together = found.instead(trees)
    assert [layer.path.removeprefix(str(project)) for layer in together.layers] == ["/", "/src/pkg", "", "/data", "/src"]
    assert [bound.path for bound in together.binds] == [f"{project}/src/ro", "/ro"]
    assert found.has(f"{project}/src/any")
    assert found.has("/etc")
    assert not found.has(f"{project}/other")


def test_input_in_a_tree_that_stays_read_only_is_bound(project: Path) -> None:
    found = shown(project, "src", "large", trees=Trees(ROOTS.layers, (Bound(str(project)),)))
    assert found is not None
    assert {bound.path for bound in found.binds} == {f"{project}/src", f"{project}/large"}
    assert len(found.layers) == 1


def test_outline_is_another_where_a_small_file_changed(project: Path) -> None:
    def name() -> str:
        found = shown(project, "data/deep/file", "src")
        assert found is not None
        return found.outline.name

    before = name()
    assert name() == before
    (project / "src/new").touch()
    assert name() == before
    (project / "data/deep/file").write_text("other")
    assert name() != before


def test_sandbox_made_ahead_fits_until_a_file_among_the_inputs_changes(project: Path) -> None:
    spec = Spec(inputs=(f"{project}/src", f"{project}/large"), project=Project(str(project), "/", (f"{project}/data/deep/file",)))
    before = files_of(spec)
    (project / "src/new").touch()
    assert files_of(spec) == before
    (project / "data/deep/file").write_text("other")
    assert files_of(spec) != before


def test_interpreter_in_the_project_is_kept_and_other_sources_are_not(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", f"{project}/.venv")
    monkeypatch.setattr("sys.path", [f"{project}/src"])
    kept = project_of(str(project), str(project)).kept
    assert kept == (f"{project}/.venv",)


def test_virtual_environment_that_is_the_project_keeps_its_own_parts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", str(project))
    monkeypatch.setattr("site.getsitepackages", lambda: [f"{project}/lib/python3/site-packages"])
    kept = project_of(str(project), str(project), also=["/elsewhere", f"{project}/test.py"]).kept
    assert kept == tuple(f"{project}/{name}" for name in ("bin", "pyvenv.cfg", "lib/python3/site-packages", "test.py"))


def test_board_is_silently_full_and_forgets() -> None:
    board = Board(64, 10)
    for number in range(20):
        board.note(f"line {number:02}\nmore of it")
    lines = board.collected()
    assert lines[0] == "line 00 mo"
    assert 2 < len(lines) < 10
    board.clear()
    assert board.collected() == []
    board.close()
