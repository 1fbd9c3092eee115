"""The project's own rules that a machine can check: what imports what, and that the documents agree with the files."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "pytest_isolate"

LAYERS: Final = {
    "model": set(),
    "kernel": {"model"},
    "network": {"kernel", "model"},
    "machine": {"kernel", "model"},
    "rootfs": {"machine", "kernel", "model"},
    "images": {"machine", "kernel", "model"},
    "sandbox": {"images", "rootfs", "network", "machine", "kernel", "model"},
    "probe": {"sandbox", "images", "rootfs", "network", "machine", "kernel", "model"},
    "report": {"probe", "images", "rootfs", "network", "machine", "kernel", "model"},
    "plugin": {"report", "probe", "sandbox", "images", "rootfs", "network", "machine", "kernel", "model"},
}
"""What each package may import, besides itself."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES: Final = sorted(PACKAGE.rglob("*.py"))
OUTSIDE_PLUGIN: Final = [path for path in MODULES if "plugin" not in path.parts]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import of a module, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def fresh_python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *flags, "-c", code], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", OUTSIDE_PLUGIN, ids=module_name)
def test_module_outside_the_plugin_imports_alone_without_pytest(path: Path):
    name = module_name(path)
    done = fresh_python(f"import sys, {name}; sys.exit('pytest came along' if 'pytest' in sys.modules else 0)", "-W", "error")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [path for path in MODULES if "plugin" in path.parts], ids=module_name)
def test_plugin_module_imports_alone_without_a_warning(path: Path):
    done = fresh_python(f"import {module_name(path)}", "-W", "error")
    assert done.returncode == 0, done.stderr


def test_only_the_plugin_imports_pytest():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in OUTSIDE_PLUGIN
        for line, name in imports(path)
        if name.split(".")[0] in ("pytest", "_pytest", "pluggy", "xdist")
    ]
    assert found == []


def test_imports_point_one_way():
    found = []
    for path in MODULES:
        own = path.relative_to(PACKAGE).parts[0]
        for line, name in imports(path):
            parts = name.split(".")
            if (
                own in LAYERS
                and parts[0] == "pytest_isolate"
                and parts[1:2]
                and parts[1] in LAYERS
                and parts[1] not in LAYERS[own] | {own}
            ):
                found.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {name}")
    assert found == []


def test_only_plugin_and_command_line_print_or_exit():
    calls = []
    for path in OUTSIDE_PLUGIN:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                path.name not in ("__main__.py", "builder.py")  # the builder is a program of its own
                and path != PACKAGE / "images/actions.py"
                and isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("print", "exit", "sys.exit", "quit")
            ):
                calls.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert calls == []


def test_run_without_an_isolated_test_imports_no_pyroute2_and_starts_no_process(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile("def test(): pass")
    pytester.makeconftest("""
        import os, sys
        def pytest_unconfigure():
            children = open(f"/proc/self/task/{os.getpid()}/children").read()
            loaded = [name for name in ("pyroute2", "asyncio", "filelock", "pytest_isolate.rootfs") if name in sys.modules]
            print(f"children={children.split()} loaded={loaded}")
    """)
    result = pytester.runpytest_subprocess("-p", "pytest_isolate.plugin")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*children=[[][]] loaded=[[][]]*"])


def test_what_every_run_loads_is_loaded_past_the_hook_that_rewrites_asserts(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    from pytest_isolate.plugin.bare_imports import MODULES

    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile("def test(): pass")
    pytester.makeconftest("""
        import sys
        def pytest_unconfigure():
            ours = {name: type(module.__loader__).__name__ for name, module in sys.modules.items() if name.startswith("pytest_isolate.")}
            print("loaded", *(f"{name}={loader}" for name, loader in ours.items()))
    """)
    result = pytester.runpytest_subprocess("-p", "pytest_isolate.plugin", "--collect-only")
    (line,) = [line for line in result.outlines if line.startswith("loaded ")]
    loaders = dict(word.split("=") for word in line.split()[1:])
    for name in ("plugin", "plugin.bare_imports"):
        assert loaders.pop(f"pytest_isolate.{name}") == "AssertionRewritingHook"
    assert loaders == {f"pytest_isolate.{name}": "SourceFileLoader" for name in MODULES}


def readme_commands() -> dict[str, str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = {}
    for title in ("Run it", "Test it"):
        section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, f"README has no section {title!r}"
        blocks = re.findall(r"^```\w*\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
        assert len(blocks) == 1, f"{title!r} has {len(blocks)} blocks"
        (line,) = blocks[0].splitlines()
        found[title] = line
    return found


@pytest.mark.parametrize("title", ["Run it", "Test it"])
def test_readme_has_one_command_of_one_line(title: str):
    command = readme_commands()[title]
    parsed = subprocess.run(["bash", "-nc", command], capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, parsed.stderr
    ends = {"Run it": [".venv/bin/pytest", "examples"], "Test it": ["-m", "tests"]}
    assert shlex.split(command)[-2:] == ends[title]


def test_ci_runs_the_readme_commands_as_they_are_written():
    assert "readme_command" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_every_example_is_listed_and_every_listed_one_exists():
    examples = ROOT / "examples"
    listed = set(re.findall(r"\]\(([\w/]+\.py)\)", (examples / "README.md").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(examples)) for path in examples.rglob("*.py") if "__pycache__" not in path.parts}


def test_every_example_says_what_to_look_for():
    for path in (ROOT / "examples").rglob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert "Look for:" in (docstring or ""), path


def test_entry_point_and_distribution_are_not_those_of_the_other_project():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    assert project["name"] == "pytest-isolate-sandbox"
    assert project["entry-points"]["pytest11"] == {"isolate_sandbox": "pytest_isolate.plugin"}


def test_no_module_has_grown_past_its_screenfuls():
    assert [str(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 450] == []
