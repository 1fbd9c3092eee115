"""``inputs=``: a test sees the paths of the project that it names, and hears what it missed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.capabilities import requires
from tests.support.roots import make_root
from tests.support.unprivileged import find_python, pytest_as_user, run_as_user, user_directory

TITLE = "isolate: outside of inputs="
ROOT = Path(__file__).parents[2]
LARGE = "x" * 100_000
FILES = {
    "pytest.ini": "[pytest]\n",
    "conftest.py": "import pytest\n\n@pytest.fixture\ndef outer():\n    return 'outer'\n",
    "src/pkg/__init__.py": "",
    "src/pkg/code.py": "def answer():\n    return 42\n",
    "helpers/tools.py": "def tool():\n    raise ValueError('of a tool')\n",
    "tests/conftest.py": "import pytest\n\n@pytest.fixture\ndef inner(outer):\n    return outer + ' inner'\n",
    "tests/data/small.txt": "small",
    "tests/data/large.bin": LARGE,
    "tests/secret.txt": "secret",
    "config/settings.toml": "a = 1",
    "large.bin": LARGE,
}


@dataclass(frozen=True)
class Project:
    """A project on disk, and how pytest is run in it."""

    path: Path
    run: Callable[..., subprocess.CompletedProcess[str]]

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text, encoding="utf-8")
        status = self.path.stat()
        for path in self.path.rglob("*"):
            os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)

    def test(self, body: str, *args: str, name: str = "tests/test_it.py") -> subprocess.CompletedProcess[str]:
        """A run of one module, whose tests all are isolated."""
        self.write(
            {name: "import os, subprocess, sys, pytest\nfrom pathlib import Path\nROOT = Path(__file__).parents[1]\n" + body}
        )
        return self.run(name, "-p", "no:cacheprovider", "-v", *args)


def passed(done: subprocess.CompletedProcess[str], **counts: int) -> None:
    found = pytest.RunResult.parse_summary_nouns(done.stdout.splitlines())
    assert {name: count for name, count in found.items() if name != "warnings"} == counts, done.stdout + done.stderr


def listing(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def _as_root(path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"}
    env = {name: value for name, value in env.items() if not name.startswith(("PYTEST_XDIST", "PYTEST_ADDOPTS"))}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin", *args]
        return subprocess.run(command, cwd=path, env=env, capture_output=True, text=True, timeout=120, check=False)

    return run


def _as_user(path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"}
    return lambda *args: pytest_as_user("-p", "pytest_isolate.plugin", *args, cwd=path, env=env)


@pytest.fixture(
    params=[
        pytest.param("root", marks=requires("root")),
        pytest.param("user", marks=requires("unprivileged-user", "userns")),
        pytest.param("user in /tmp", marks=requires("root", "unprivileged-user", "userns")),
        pytest.param("user at home", marks=requires("root", "unprivileged-user", "userns")),
    ]
)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """In a directory of pytest's (in /tmp), of the user's, right in /tmp and in the user's home."""
    if request.param == "root":
        made = Project(tmp_path, _as_root(tmp_path))
        made.write(FILES)
        yield made
        return
    with user_directory() as place:
        path = place
        if request.param == "user in /tmp":
            path = Path(run_as_user(["mktemp", "-d", "/tmp/inputs.XXXXXX"]).stdout.strip())
        elif request.param == "user at home":
            path = Path(run_as_user(["sh", "-c", 'mktemp -d "$HOME/inputs.XXXXXX"']).stdout.strip())
        made = Project(path, _as_user(path))
        made.write(FILES)
        try:
            yield made
        finally:
            if path != place:
                run_as_user(["rm", "-rf", str(path)])


@pytest.fixture
def roots(tmp_path: Path) -> Project:
    """As root alone, for what doesn't depend on who runs it."""
    made = Project(tmp_path, _as_root(tmp_path))
    made.write(FILES)
    return made


def test_only_inputs_are_there_and_writes_are_thrown_away(project: Project) -> None:
    os.symlink("tests/data", project.path / "link")
    body = """
@pytest.mark.isolate(inputs=["src", "tests/data", "large.bin"])
def test_sees(inner):
    assert inner == "outer inner"
    shown = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if "__pycache__" not in path.parts}
    assert shown == {
        "conftest.py", "large.bin", "src", "src/pkg", "src/pkg/__init__.py", "src/pkg/code.py",
        "tests", "tests/conftest.py", "tests/data", "tests/data/large.bin", "tests/data/small.txt", "tests/test_it.py",
    }
    assert not (ROOT / "config").exists()
    with pytest.raises(FileNotFoundError):
        (ROOT / "config/settings.toml").read_text()

@pytest.mark.isolate(inputs=["src", "tests/data", "large.bin"])
def test_other_programs_see_the_same():
    done = subprocess.run(["ls", "-A"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["conftest.py", "large.bin", "src", "tests"]
    assert subprocess.run(["cat", ROOT / "config/settings.toml"], capture_output=True).returncode == 1
    code = "import sys; sys.path.insert(0, 'src'); import pkg.code; print(pkg.code.answer())"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT) == b"42\\n"

@pytest.mark.isolate(inputs=["src", "tests/data", "large.bin"])
def test_writes():
    for name in ("large.bin", "tests/data/small.txt", "tests/data/large.bin", "src/pkg/code.py", "conftest.py"):
        with open(ROOT / name, "a") as file:
            file.write("inside")
        assert (ROOT / name).read_text().endswith("inside")
    (ROOT / "config").mkdir()
    (ROOT / "config/made").write_text("x")
    (ROOT / "tests/data/large.bin").unlink()
    (ROOT / "src/pkg/code.py").rename(ROOT / "src/pkg/moved.py")
    (ROOT / "conftest.py").unlink()

@pytest.mark.isolate(inputs=["link/small.txt", "tests/data/small.txt", "src/pkg", "src"])
def test_links_and_nested():
    assert sorted(os.listdir(ROOT)) == ["conftest.py", "link", "src", "tests"]
    assert os.readlink(ROOT / "link") == "tests/data"
    assert os.listdir(ROOT / "link") == ["small.txt"]
    assert (ROOT / "link/small.txt").read_text() == "small"
    assert (ROOT / "src/pkg/code.py").exists()

@pytest.mark.isolate(inputs=["."])
def test_all():
    assert (ROOT / "config/settings.toml").read_text() == "a = 1"
"""
    before = listing(project.path)
    done = project.test(body)
    after = listing(project.path)
    passed(done, passed=5)
    assert {name: text for name, text in after.items() if name != "tests/test_it.py"} == before


def test_what_is_missed_is_named_with_the_remedy(project: Project) -> None:
    body = """
import sqlite3

@pytest.mark.isolate(inputs=["src"])
def test_open():
    open(ROOT / "config/settings.toml")

@pytest.mark.isolate(inputs=["src"])
def test_stat():
    os.stat(ROOT / "tests/secret.txt")

@pytest.mark.isolate(inputs=["src"])
def test_import(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "helpers")
    import tools

@pytest.mark.isolate(inputs=["src"])
def test_swallowed():
    for path in ("config", "config/settings.toml", "never/there"):
        try:
            os.listdir(path)
        except OSError:
            pass
    assert 0

@pytest.mark.isolate(inputs=["src"])
def test_database():
    sqlite3.connect("large.bin").execute("select * from nothing")

@pytest.mark.isolate(inputs=["src"])
def test_forked():
    if (pid := os.fork()) == 0:
        try:
            open("config/settings.toml")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert 0

@pytest.mark.isolate(inputs=["src"])
def test_dies():
    try:
        open("config/settings.toml")
    except OSError:
        os.abort()

@pytest.mark.isolate(inputs=["src"])
def test_made_inside():
    (ROOT / "config").mkdir()
    (ROOT / "config/settings.toml").write_text("mine")
    (ROOT / "config/settings.toml").read_text()
    assert 0

@pytest.mark.isolate(inputs=["src"])
def test_elsewhere():
    open("/nonexistent/settings.toml")

@pytest.mark.isolate(inputs=["src"])
def test_passes():
    assert not os.path.exists(ROOT / "config")

@pytest.mark.isolate
def test_without():
    open(ROOT / "never/there")
"""
    text = project.test(body).stdout
    sections = {name: part.partition(TITLE)[2] for name, part in _failures(text).items()}
    assert _named(sections["test_open"]) == ["config/settings.toml"]
    assert 'remedy: add what the test needs to inputs=: "config/settings.toml"' in sections["test_open"]
    assert _named(sections["test_stat"]) == ["tests/secret.txt"]
    assert _named(sections["test_import"]) == ["helpers/tools.py"]
    assert _named(sections["test_swallowed"]) == ["config", "config/settings.toml"]
    assert _named(sections["test_database"]) == ["large.bin"]
    assert _named(sections["test_forked"]) == ["config/settings.toml"]
    assert _named(sections["test_dies"]) == ["config/settings.toml"]
    assert [name for name, section in sections.items() if not section] == ["test_made_inside", "test_elsewhere", "test_without"]


def _failures(text: str) -> dict[str, str]:
    parts = text.partition("= FAILURES =")[2].partition("short test summary")[0]
    found: dict[str, str] = {}
    name = ""
    for line in parts.splitlines():
        if line.startswith("___") and " test_" in line:
            name = line.strip("_ ")
        found[name] = found.get(name, "") + line + "\n"
    del found[""]
    return found


def _named(section: str) -> list[str]:
    return [line.strip() for line in section.partition("remedy:")[0].splitlines() if line.startswith("  ")]


def test_tracebacks_asserts_and_wide_fixtures_are_as_without(project: Project) -> None:
    project.write({"conftest.py": FILES["conftest.py"] + "@pytest.fixture(scope='session')\ndef settings(pytestconfig):\n"
                   "    return (pytestconfig.rootpath / 'config/settings.toml').read_text()\n"})  # fmt: skip
    body = """
sys.path[:0] = [str(ROOT / "helpers"), str(ROOT / "src")]
import tools, pkg.code

@pytest.mark.isolate(inputs=["src"])
def test_wide(settings):
    assert settings == "a = 1"

@pytest.mark.isolate(inputs=["src"])
def test_assert():
    value = pkg.code.answer()
    assert value == 43, "not so"

@pytest.mark.isolate(inputs=["src"])
def test_traceback():
    tools.tool()
"""
    done = project.test(body)
    passed(done, passed=1, failed=2)
    assert '>       assert value == 43, "not so"' in done.stdout
    assert "assert 42 == 43" in done.stdout
    assert ">       tools.tool()" in done.stdout
    assert "E   ValueError: of a tool" in done.stdout or "ValueError: of a tool" in done.stdout
    assert TITLE not in done.stdout  # reading lines for a traceback isn't the test's doing


@requires("root")
def test_coverage_and_workers_work(roots: Project) -> None:
    pytest.importorskip("coverage")
    body = """
sys.path.insert(0, str(ROOT / "src"))

@pytest.mark.isolate(inputs=["src"])
@pytest.mark.parametrize("number", range(4))
def test_answer(number):
    import pkg.code
    assert pkg.code.answer() == 42
"""
    passed(roots.test(body, "-p", "xdist", "-n", "2"), passed=4)
    roots.write({"tests/test_it.py": (roots.path / "tests/test_it.py").read_text()})
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "coverage", "run", "--source=src", "-m", "pytest", "-p", "pytest_isolate.plugin", "tests"]
    done = subprocess.run(command, cwd=roots.path, env=env, capture_output=True, text=True, check=False)
    passed(done, passed=4)
    report = subprocess.run(
        [sys.executable, "-m", "coverage", "report"], cwd=roots.path, capture_output=True, text=True, check=False
    )
    assert report.stdout.splitlines()[-1].split()[-1] == "100%", report.stdout


@requires("root")
def test_virtual_environment_in_the_project_stays(roots: Project) -> None:
    venv = roots.path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = next(venv.glob("lib/python*/site-packages"))
    ours = Path(pytest.__file__).parents[1]
    (packages / "ours.pth").write_text(f"{ours}\n{roots.path / 'helpers'}\n")
    (packages / "installed.py").write_text("here = True\n")
    roots.write(
        {
            "tests/test_it.py": """
import pytest, subprocess, sys
@pytest.mark.isolate(inputs=["src"])
def test_imports():
    import installed
    assert installed.__file__.startswith(sys.prefix)
    code = "import installed, pytest; print(installed.here)"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"True\\n"
    with pytest.raises(ImportError):
        import tools
"""
        }
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [venv / "bin/python", "-m", "pytest", "-p", "pytest_isolate.plugin", "tests"]
    passed(subprocess.run(command, cwd=roots.path, env=env, capture_output=True, text=True, check=False), passed=1)


@requires("root")
def test_writable_hidden_and_pytests_own_places_in_the_project(roots: Project) -> None:
    (roots.path / "build").mkdir()
    body = """
@pytest.mark.isolate(inputs=["src", "tests"], writable=["build"], hide=["tests/secret.txt", "config"])
def test_all(tmp_path, cache):
    (ROOT / "build/artefact").write_text("made")
    (tmp_path / "kept").write_text("kept")
    assert (ROOT / "tests/secret.txt").read_text() == ""
    assert not (ROOT / "config").exists()
    assert (ROOT / "tests/data/small.txt").exists()
    assert tmp_path.is_relative_to(ROOT)
"""
    roots.write({"tests/test_it.py": "import os, pytest\nfrom pathlib import Path\nROOT = Path(__file__).parents[1]\n" + body})
    passed(roots.run("tests", "--basetemp=out"), passed=1)
    assert (roots.path / "build/artefact").read_text() == "made"
    assert (roots.path / "out/test_all0/kept").read_text() == "kept"


@requires("root")
def test_inputs_that_change_on_the_host_are_seen_by_the_next_test(roots: Project) -> None:
    body = """
@pytest.fixture(scope="module", params=["first", "second"])
def made(request):
    (ROOT / "small.txt").write_text(request.param)
    (ROOT / "tests/data/new.txt").write_text(request.param)
    return request.param

@pytest.mark.isolate(inputs=["small.txt", "tests/data"])
def test_made(made):
    assert (ROOT / "small.txt").read_text() == made
    assert (ROOT / "tests/data/new.txt").read_text() == made
"""
    roots.write({"small.txt": "before"})
    passed(roots.test(body), passed=2)


@requires("root")
def test_inputs_that_cannot_be_meant_are_collection_errors(roots: Project) -> None:
    body = """
@pytest.mark.isolate(inputs=["src", "/etc"])
def test_outside():
    pass

@pytest.mark.isolate(inputs=["src/pkg"], writable=["src"])
def test_writable():
    pass

@pytest.mark.isolate(inputs=["src"], hide=["src"])
def test_hidden():
    pass

@pytest.mark.isolate(inputs="src")
def test_no_list():
    pass
"""
    done = roots.test(body)
    assert done.returncode == 2
    for line in (
        f"inputs: '/etc' is outside of the project '{roots.path}'",
        f"inputs+writable: writable='{roots.path}/src' makes the host's own of all of inputs='{roots.path}/src/pkg'",
        f"hide+inputs: hide='{roots.path}/src' hides all of inputs='{roots.path}/src'",
        "inputs: 'src' is not a list; accepted: list of paths in the project",
    ):
        assert line in done.stdout


def test_input_that_does_not_exist_fails_its_test(project: Project) -> None:
    body = """
@pytest.mark.isolate(inputs=["nowhere"])
def test_missing():
    pass
"""
    done = project.test(body)
    passed(done, errors=1)
    assert f"inputs= {project.path}/nowhere: ENOENT" in done.stdout
    assert f"make {project.path}/nowhere on the host" in done.stdout


def test_command_line_and_ini_take_inputs(project: Project) -> None:
    body = """
def test_sees():
    assert sorted(os.listdir(ROOT)) == ["conftest.py", "src", "tests"]
"""
    passed(project.test(body, "--isolate-all", "--isolate-inputs=src"), passed=1)
    project.write({"pytest.ini": "[pytest]\nisolate_all = true\nisolate_inputs = src\n"})
    passed(project.test(body), passed=1)


def test_command_sees_the_inputs_of_its_working_directory(project: Project) -> None:
    command = ["-m", "pytest_isolate", "run", "--inputs=src", "--inputs=large.bin", "--", "ls", "-A"]
    if isinstance(project.run, type(_as_root)) and project.run.__qualname__.startswith("_as_root"):
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *command], cwd=project.path, env=env, capture_output=True, text=True, check=False)
    else:
        done = run_as_user([str(find_python()), *command], cwd=project.path)
    assert done.stdout.split() == ["large.bin", "src"], done.stderr
    outside = run_as_user([str(find_python()), "-m", "pytest_isolate", "run", "--inputs=/etc", "--", "true"], cwd=project.path)
    assert outside.returncode == 2
    assert "inputs: '/etc' is outside of the project" in outside.stderr


@requires("root")
def test_more_sandboxes_have_inputs_too(roots: Project) -> None:
    body = """
@pytest.mark.isolate
def test_factory(isolate_factory):
    box = isolate_factory(inputs=["src"])
    assert box.run(["ls", "-A"], cwd=str(ROOT)).stdout == b"src\\n"
    assert box.run(["ls", "-A"]).stdout == b"src\\n"
    with pytest.raises(Exception, match="'/etc' is outside of the project"):
        isolate_factory(inputs=["/etc"])
"""
    passed(roots.test(body), passed=1)


def test_inputs_in_a_root_of_layers(project: Project) -> None:
    root = make_root(project.path / "image", etc__motd="image")
    (project.path / "cwd").mkdir()
    body = f"""
@pytest.mark.isolate(rootfs={str(root)!r}, inputs=["src", "large.bin", "tests/data/small.txt"])
def test_image(inner):
    assert open("/etc/motd").read() == "image"
    assert sorted(os.listdir(ROOT)) == ["conftest.py", "large.bin", "src", "tests"]
    assert sorted(os.listdir(ROOT / "tests")) == ["conftest.py", "data", "test_it.py"]
    assert subprocess.run(["ls", ROOT], capture_output=True, text=True).stdout.split() == ["conftest.py", "large.bin", "src", "tests"]
    with open(ROOT / "large.bin", "a") as file:
        file.write("inside")
    open(ROOT / "config/settings.toml")

@pytest.mark.isolate
def test_programs(isolate_factory):
    box = isolate_factory(rootfs={str(root)!r}, inputs=["src"])
    assert box.run(["ls", "-A", str(ROOT)]).stdout == b"src\\n"
    assert box.run(["ls", "-A", "/"]).stdout.split()[0] == b"bin"
"""
    done = project.test(body, f"--isolate-store={project.path}/store")
    passed(done, failed=1, passed=1)
    assert _named(done.stdout.partition(TITLE)[2]) == ["config/settings.toml"]
    assert (project.path / "large.bin").read_text() == LARGE


@requires("root")
def test_changes_of_inputs_are_told(roots: Project) -> None:
    body = """
@pytest.mark.isolate(inputs=["src", "large.bin", "tests/data/small.txt"])
def test_writes(isolate_box):
    for name in ("src/pkg/code.py", "large.bin", "tests/data/small.txt", "new.txt"):
        with open(ROOT / name, "a") as file:
            file.write("inside")
    told = {(change.kind, change.path) for change in isolate_box.changes()}
    assert {("C", str(ROOT / "src/pkg/code.py")), ("C", str(ROOT / "large.bin")), ("C", str(ROOT / "tests/data/small.txt")),
            ("A", str(ROOT / "new.txt"))} <= told
    assert not [path for kind, path in told if kind == "D" or "config" in path]
"""
    passed(roots.test(body), passed=1)


def test_rootdir_behind_a_link_and_plan(roots: Project) -> None:
    (roots.path / "real").mkdir()
    project = Project(roots.path / "real", _as_root(roots.path))
    project.write(FILES)
    link = roots.path / "by link"
    link.symlink_to("real")
    project.write(
        {
            "tests/test_it.py": """
import os, pytest
from pathlib import Path

@pytest.mark.isolate(inputs=["src"])
def test_sees(inner, pytestconfig):
    assert sorted(os.listdir(pytestconfig.rootpath)) == ["conftest.py", "src", "tests"]
    assert os.listdir() == ["by link", "real"] or "real" in os.listdir()
    open(pytestconfig.rootpath / "config/settings.toml")
"""
        }
    )
    done = project.run(f"--rootdir={link}", str(link / "tests"), "-p", "no:cacheprovider")
    passed(done, failed=1)
    assert _named(done.stdout.partition(TITLE)[2]) == ["config/settings.toml"]
    lines = project.run(f"--rootdir={link}", str(link / "tests"), "--isolate-plan").stdout
    assert f"  overlay {project.path} (the inputs alone below, writes are thrown away)" in lines
    assert f"  overlay {project.path}/src (the host's below, writes are thrown away)" in lines
    assert f"inputs     {link}/src" in lines


@requires("unprivileged-user", "userns")
def test_project_in_none_of_the_user_s_trees_is_read_only_as_without_inputs() -> None:
    body = """
import os, pytest
from pathlib import Path
ROOT = Path(__file__).parents[1]

@pytest.mark.isolate(inputs=["src", "large.bin"])
def test_sees(inner):
    assert sorted(os.listdir(ROOT)) == ["conftest.py", "large.bin", "src", "tests"]
    for name in ("src/pkg/code.py", "large.bin"):
        with pytest.raises(OSError):
            open(ROOT / name, "a")
"""
    with user_directory({**FILES, "tests/test_it.py": body}) as place:
        env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = pytest_as_user(
            "-p", "pytest_isolate.plugin", "-p", "no:cacheprovider", f"--rootdir={place}", str(place / "tests"), cwd="/", env=env
        )
        passed(done, passed=1)


def test_profile_takes_inputs(roots: Project) -> None:
    roots.write({"pyproject.toml": '[tool.pytest-isolate.profiles.hermetic]\ninputs = ["src"]\n'})
    body = """
@pytest.mark.isolate(profile="hermetic")
def test_sees():
    assert sorted(os.listdir(ROOT)) == ["conftest.py", "src", "tests"]
"""
    passed(roots.test(body), passed=1)


def test_writes_of_inputs_go_to_the_disk_where_asked(project: Project) -> None:
    body = """
@pytest.mark.isolate(inputs=["src", "large.bin"], upper="disk")
def test_writes():
    for name in ("src/pkg/code.py", "large.bin", "new.txt"):
        with open(ROOT / name, "a") as file:
            file.write("inside")
    assert (ROOT / "large.bin").read_text().endswith("inside")
"""
    before = listing(project.path)
    passed(project.test(body, f"--isolate-store={project.path}/store"), passed=1)
    assert {name: text for name, text in listing(project.path).items() if not name.startswith("store/")} == {
        **before, "tests/test_it.py": (project.path / "tests/test_it.py").read_bytes()
    }  # fmt: skip
