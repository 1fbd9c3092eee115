"""`isolate_layer` and `isolate_snapshot` through the real plugin, as root and as an unprivileged user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.layer_suites import Suite, suite
from tests.support.pytest_process import ROOT, run_pytest
from tests.support.roots import make_root
from tests.support.unprivileged import USER_ID, find_python, run_as_user

__all__ = ["suite"]

LAYERS = """
one = isolate_layer("one", steps=[f"mkdir {PLACE} && cat input > {PLACE}/f && date +%N >> {PLACE}/f", ["touch", f"{PLACE}/gone"]], inputs=["input"])

@isolate_layer("two", base=[one])
def two():
    (PLACE / "g").write_text((PLACE / "f").read_text())
    (PLACE / "f").unlink()
    (PLACE / "gone").unlink()

@pytest.mark.isolate(rootfs=[one])
@pytest.mark.parametrize("time", range(2))
def test_one(time):
    print("content", (PLACE / "f").read_text().replace("\\n", " "))
    (PLACE / "f").unlink()
    (PLACE / "new").touch()

@pytest.mark.isolate(rootfs=[two])
def test_two():
    assert os.listdir(PLACE) == ["g"]

@pytest.mark.isolate(rootfs=["host", one, two])
def test_listed_one_by_one():
    assert os.listdir(PLACE) == ["g"]

def test_plain():
    assert not PLACE.exists()
"""


def contents(output: str) -> set[str]:
    return {line for line in output.splitlines() if line.startswith("content ")}


def test_layer_is_made_once_and_again_when_an_input_changes(suite: Suite):
    suite.write("test_it.py", LAYERS)
    suite.write("input", "first\n")
    first = suite.run()
    assert "5 passed" in first, first
    assert len(contents(first)) == 1
    second = suite.run()
    assert contents(second) == contents(first)
    suite.write("input", "second\n")
    third = suite.run()
    assert "5 passed" in third, third
    assert contents(third) != contents(first)
    assert "content second" in third


def test_workers_of_xdist_make_a_layer_once(suite: Suite):
    suite.write("test_it.py", LAYERS.replace("range(2)", "range(8)"))
    suite.write("input", "first\n")
    output = suite.run(*(("-p", "xdist") if suite.root else ()), "-n", "2")
    assert "11 passed" in output, output
    assert len(contents(output)) == 1, output


def test_failing_step_is_told_with_its_output_in_each_test_that_wants_the_layer(suite: Suite):
    suite.write(
        "test_it.py",
        """
bad = isolate_layer("bad", steps=["echo going to fail; exit 3"])
@isolate_layer("raises")
def raises():
    raise ValueError("not today")

@pytest.mark.isolate(rootfs=[bad])
@pytest.mark.parametrize("time", range(2))
def test_bad(time): pass

@pytest.mark.isolate(rootfs=[raises])
def test_raises(): pass

@pytest.mark.isolate
def test_good(): pass
""",
    )
    output = suite.run()
    assert "1 passed, 3 errors" in output, output
    assert output.count("layer 'bad' of isolate_layer at test_it.py") >= 2
    assert "step 'echo going to fail; exit 3' ended with status 3:" in output
    assert "\ngoing to fail" in output
    assert "ValueError: not today" in output


def test_layer_on_an_image_with_its_inputs_in_sight(suite: Suite):
    make_root(suite.directory / "image", etc__motd="image\n")
    if not suite.root and os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{USER_ID}:{USER_ID}", suite.directory], check=True)
    suite.write("data", "input\n")
    suite.write(
        "test_it.py",
        """
HERE = os.path.dirname(__file__)
base = isolate_layer("base", base="image", steps=[["mkdir", "/srv"], f"cat /etc/motd '{HERE}/data' > /srv/both"], inputs=["data"])

@isolate_layer("python", base=[base])
def python():
    pathlib.Path("/srv/python").write_text(pathlib.Path("/srv/both").read_text().upper())

@pytest.mark.isolate(rootfs=[python])
def test_it():
    assert sorted(os.listdir("/srv")) == ["both", "python"]
    assert pathlib.Path("/srv/python").read_text() == "IMAGE\\nINPUT\\n"
    assert subprocess.run(["cat", "/srv/both"], capture_output=True).stdout == b"image\\ninput\\n"

@pytest.mark.isolate(net="none")
def test_factory(isolate_factory):
    box = isolate_factory(rootfs=[base])
    assert box.run(["cat", "/srv/both"]).stdout == b"image\\ninput\\n"
""",
    )
    output = suite.run()
    assert "2 passed" in output, output


def test_layers_of_several_trees_and_of_none_are_as_they_are_written_down(suite: Suite):
    suite.write(
        "test_it.py",
        """
several = isolate_layer("several", steps=[f"mkdir -p {PLACE}/d && touch {PLACE}/f && ln {PLACE}/f {PLACE}/d/g && echo 2 > /tmp/isolate-layers"])
nothing = isolate_layer("nothing", steps=["true"])

@pytest.mark.isolate(rootfs=[several])
def test_several():
    assert (PLACE / "f").samefile(PLACE / "d/g")
    assert os.path.exists("/tmp/isolate-layers")

@pytest.mark.isolate(rootfs=[nothing])
def test_nothing(): pass
""",
    )
    output = suite.run()
    assert "2 passed" in output, output
    arguments = ["-m", "pytest_isolate", "layers", "verify", "--store", f"{suite.directory}/store"]
    if suite.root:
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    else:
        done = run_as_user([find_python() or "", *arguments])
    assert done.stderr == "2 layers read, none altered\n"


def test_fixture_selects_a_layer(suite: Suite):
    suite.write(
        "test_it.py",
        """
@pytest.fixture(scope="session", params=["a", "b"])
def letter(request):
    return request.param

@pytest.fixture(scope="session")
def layer(isolate_layer, letter):
    return isolate_layer("letter", steps=f"mkdir {PLACE} && touch {PLACE}/{letter}")

@pytest.fixture
def narrow():
    return "host"

@pytest.mark.isolate(rootfs="fixture:layer")
def test_it(layer, letter):
    assert os.listdir(PLACE) == [letter]

@pytest.mark.isolate(rootfs="fixture:narrow")
def test_narrow(narrow): pass
""",
    )
    output = suite.run()
    assert "2 passed, 1 error" in output, output
    assert (
        "fixture 'narrow' isn't set up before the test's sandbox is; accepted: the name of a fixture that the test uses and that is wider"
        in output
    )


SNAPSHOT = """
@pytest.fixture(scope="module", params=["x", "y"])
@isolate_snapshot
def files(request, tmp_path_factory):
    print("made", request.param)
    PLACE.mkdir()
    (PLACE / "content").write_text(request.param)
    (PLACE / "lives").touch()
    return PLACE

@pytest.fixture(scope="module")
@isolate_snapshot
def more():
    PLACE.mkdir()
    (PLACE / "more").touch()
    return {"names": ["more"], "number": 1}

@pytest.mark.isolate
@pytest.mark.parametrize("time", range(2))
def test_own_copy(files, time):
    assert isinstance(files, pathlib.Path)
    assert (files / "content").read_text() in "xy"
    assert sorted(os.listdir(files)) == ["content", "lives"]
    (files / "content").write_text("changed")
    (files / "lives").unlink()

@pytest.mark.isolate
def test_two_of_them(files, more):
    assert sorted(os.listdir(files)) == ["content", "lives", "more"]
    assert more == {"names": ["more"], "number": 1}

@pytest.fixture(scope="module")
@isolate_snapshot
def on_top(files):
    assert sorted(os.listdir(files)) == ["content", "lives"]
    (files / "lives").unlink()
    (files / "top").touch()

@pytest.mark.isolate
def test_one_on_the_other(on_top):
    assert sorted(os.listdir(PLACE)) == ["content", "top"]

@pytest.mark.isolate
def test_without():
    assert not PLACE.exists()
"""


def test_snapshot_of_a_fixture_is_each_test_s_own(suite: Suite):
    suite.write("test_it.py", SNAPSHOT)
    output = suite.run()
    assert "9 passed" in output, output
    assert output.count("made x") == output.count("made y") == 1
    assert not list((suite.directory / "store/tmp").iterdir())


WITHIN = """
HERE = pathlib.Path(__file__).parent
made = isolate_layer("made", steps=[f"mkdir {HERE}/src/made && echo x > {HERE}/src/made/x"])

def check():
    assert {"a", "deep"} <= set(os.listdir(HERE / "src"))
    assert not (HERE / "data/c").exists()
    (HERE / "src/deep/b").write_text("written")
    (HERE / "src/a").write_text("written")
    (HERE / "new").touch()

@pytest.mark.isolate(upper="disk", inputs=["src"])
def test_host(): check()

@pytest.mark.isolate(upper="disk", inputs=["src/a", "src/deep"])
def test_file(): check()

@pytest.mark.isolate(upper="disk", inputs=["src"], rootfs=["host", made])
def test_layer():
    check()
    assert (HERE / "src/made/x").read_text() == "x\\n"

@pytest.mark.isolate(upper="disk", inputs=["src"], rootfs="image")
def test_image(): check()

@pytest.mark.isolate(upper="disk", inputs=["."])
def test_all():
    (HERE / "data/c").write_text("written")
"""


@pytest.mark.parametrize("store", ["store", "src/store"])
def test_writes_go_to_a_store_within_the_project_that_inputs_cut(suite: Suite, store: str):
    """overlayfs refuses parts that lie in one another (ELOOP): the store's directories lie in the tree that they are laid over."""
    make_root(suite.directory / "image")
    for name in ("src/a", "src/deep/b", "data/c"):
        (suite.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (suite.directory / name).write_text("host")
    suite.write("test_it.py", WITHIN)
    suite.own()
    output = suite.run(f"--isolate-store={suite.directory}/{store}")
    assert "5 passed" in output, output
    for name in ("src/a", "src/deep/b", "data/c"):
        assert (suite.directory / name).read_text() == "host"
    assert not (suite.directory / "new").exists()


PLAIN = """
@pytest.fixture(scope="module")
@isolate_snapshot
def files():
    PLACE.mkdir()
    return PLACE

@pytest.fixture
def through(files):
    return files

def test_plain_first(files): pass

@pytest.mark.isolate
def test_isolated(files):
    assert files.is_dir()

def test_plain_through_another(through): pass

@pytest.mark.skip
def test_skipped(files): pass

def test_plain_without(): pass

class TestOfAClass:
    @pytest.fixture(scope="class")
    @isolate_snapshot
    def own(self):
        PLACE.mkdir()

    def test_plain(self, own, files): pass
"""


def test_plain_test_that_uses_a_snapshot_is_told_to_be_isolated(suite: Suite):
    suite.write("test_it.py", PLAIN)
    output = suite.run()
    assert "2 passed, 1 skipped, 3 errors" in output, output
    for name, fixtures in (
        ("test_plain_first", "snapshot fixture 'files'"),
        ("test_plain_through_another", "snapshot fixture 'files'"),
        ("test_plain", "snapshot fixtures 'files' and 'own'"),
    ):
        assert f"{name} isn't isolated, and would not find the files of the {fixtures}: they are layers of sandboxes" in output
    assert "remedy: mark it with @pytest.mark.isolate" in output


def test_snapshot_that_fails_or_gives_what_cannot_come_out(suite: Suite):
    suite.write(
        "test_it.py",
        """
@pytest.fixture(scope="module")
@isolate_snapshot
def raises():
    assert 1 == 2, "made wrong"

@pytest.fixture(scope="module")
@isolate_snapshot
def an_object():
    return object()

@pytest.fixture
@isolate_snapshot
def narrow():
    return 1

@pytest.mark.isolate
def test_raises(raises): pass

@pytest.mark.isolate
def test_object(an_object): pass

@pytest.mark.isolate
def test_narrow(narrow): pass
""",
    )
    output = suite.run()
    assert "3 errors" in output, output
    assert "AssertionError: made wrong" in output
    assert "only what JSON knows, and paths, come out of a sandbox" in output
    assert "snapshot fixture 'narrow' has function scope" in output


def test_snapshot_of_a_generator_is_refused_where_it_is_written():
    from pytest_isolate import isolate_snapshot

    with pytest.raises(TypeError, match="a snapshot has no teardown"):

        @isolate_snapshot
        def fixture() -> Iterator[int]:
            yield 1


def test_without_isolation_a_snapshot_is_a_fixture_as_any_other(tmp_path_factory: pytest.TempPathFactory):
    suite = Suite(tmp_path_factory.mktemp("suite"), root=True)
    suite.write("test_it.py", SNAPSHOT.replace("exist_ok=True", "").replace("PLACE.mkdir()", "PLACE.mkdir(exist_ok=True)"))
    done = run_pytest(suite.directory, "-q", "--no-isolate", "-k", "own_copy and x and 0")
    assert "1 passed" in done.stdout, done.stdout
    assert (suite.place / "content").read_text() == "changed"
