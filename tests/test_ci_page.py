"""docs/how-to/ci.md: each CI system's file is parsed, and its commands are run as they stand on a project with a change.

What a machine of that system has and this one hasn't is put in place in small: a `sudo`, a `docker` that runs in no container, a
`pip` that has everything already.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.support.capabilities import requires
from tests.unit.test_github import cells, read
from tests.unit.test_openmetrics import samples

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "docs/how-to/ci.md").read_text(encoding="utf-8")
BLOCKS: Final = dict(re.findall(r"^<!-- ci: (\S+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))

TEST: Final = "def test_app():\n    assert len(b'x' * ({size} << 20))\n"
PYTHON: Final = f'exec "{sys.executable}"'
PROGRAMS: Final = {
    "pytest": f'{PYTHON} -m pytest "$@"',
    "pip": 'test "$*" = "install pytest-isolate-sandbox -e ."',
    "sudo": '[ "$1" = -E ] && shift; exec "$@"',
    "python3": f"""
[ "$*" = "-m venv .venv" ] || exit 2
mkdir -p .venv/bin && cd .venv/bin && ln -sf "$(command -v pip)" pip
printf '#!/bin/sh\\n{PYTHON} "$@"\\n' > python && chmod +x python
""",
    # Everything up to the image is the engine's.
    "docker": """
while [ "$1" != python:3.13 ]; do shift; done
shift
exec "$@"
""",
}


def steps(system: str) -> list[str]:
    """The commands of a block."""
    text = BLOCKS[system]
    if system == "container":
        return [text]
    if system == "jenkins":
        return re.findall(r"^\s*sh '(.*)'$", text, re.MULTILINE)
    document = yaml.safe_load(text)
    if system == "gitlab":
        return list(document["test"]["script"])
    return [step["run"] for step in document["jobs"]["test"]["steps"] if "run" in step]


@dataclass
class Job:
    """A project with a change, and the machine of a CI system that tests it."""

    directory: Path
    home: Path
    base: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        return {
            **kept, "HOME": str(self.home), "PATH": f"{self.home}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p pytest_isolate.plugin", "PYTHONDONTWRITEBYTECODE": "1",
            "GIT_CONFIG_NOSYSTEM": "1", **self.variables,
        }  # fmt: skip

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def git(self, *args: str) -> str:
        author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", *author, *args], cwd=self.directory, env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


def variables(system: str, job: Job) -> Mapping[str, str]:
    """What the system sets."""
    head = job.git("rev-parse", "HEAD")
    return {
        "github": {
            "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(job.directory), "GITHUB_STEP_SUMMARY": str(job.home / "summary.md"), "GITHUB_SHA": head,
        },
        "gitlab": {"GITLAB_CI": "true", "CI": "true", "CI_COMMIT_SHA": head, "CI_MERGE_REQUEST_DIFF_BASE_SHA": job.base},
        "jenkins": {"CHANGE_TARGET": "main", "GIT_COMMIT": head, "JENKINS_URL": "http://example.org"},
        "container": {},
    }[system]  # fmt: skip


def make_job(system: str, place: Path, change: str) -> Job:
    """A checkout as the system makes it: of the merge of a change that replaces the test by `change`."""
    directory, home = place / "project", place / "home"
    (home / "bin").mkdir(parents=True)
    for name, text in PROGRAMS.items():
        program = home / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (directory / "tests").mkdir(parents=True)
    (directory / "pyproject.toml").write_text(BLOCKS["pyproject.toml"])
    (directory / ".gitignore").write_text("/.venv\n/.isolate\n/.pytest_cache\n__pycache__\n")
    test = directory / "tests/test_app.py"
    test.write_text(TEST.format(size=10))
    job = Job(directory, home, "")
    job.git("init", "-q", "-b", "main")
    job.git("add", "-A")
    job.git("commit", "-qm", "base")
    job.base = job.git("rev-parse", "HEAD")
    job.git("update-ref", "refs/remotes/origin/main", job.base)
    job.git("checkout", "-qb", "change")
    test.write_text(change)
    job.git("commit", "-qam", "change", "--allow-empty")
    job.git("checkout", "-q", "main")
    job.git("merge", "-q", "--no-ff", "-m", "merge", "change")
    job.git("checkout", "-q", "--detach", "HEAD")
    job.variables |= variables(system, job)
    return job


SYSTEMS: Final = ("github", "gitlab", "jenkins", "container")


def test_page_has_a_block_for_each_system_of_fewer_than_ten_lines():
    assert set(BLOCKS) == {"pyproject.toml", *SYSTEMS}
    assert [system for system in SYSTEMS if len(BLOCKS[system].splitlines()) >= 10] == []


def test_files_say_what_the_systems_read():
    github = yaml.safe_load(BLOCKS["github"])
    assert github[True] == "pull_request"  # the key `on` is a truth value in YAML 1.1
    assert github["jobs"]["test"]["steps"][0] == {"uses": "actions/checkout@v4", "with": {"fetch-depth": 2}}
    gitlab = yaml.safe_load(BLOCKS["gitlab"])["test"]
    (command,) = [line for line in steps("gitlab") if "--isolate-metrics" in line]
    for report, option in (("junit", "--junitxml"), ("metrics", "--isolate-metrics")):
        assert f"{option}={gitlab['artifacts']['reports'][report]}" in shlex.split(command)
    assert gitlab["rules"] == [{"if": '$CI_PIPELINE_SOURCE == "merge_request_event"'}]


@requires("root", "cgroup-memory", "cgroup-cpu")
@pytest.mark.parametrize("system", SYSTEMS)
def test_job_is_red_where_a_test_has_grown(tmp_path_factory: pytest.TempPathFactory, system: str):
    job = make_job(system, tmp_path_factory.mktemp("ci"), TEST.format(size=20))
    *before, last = steps(system)
    for command in before:
        done = job.run(command)
        assert done.returncode == 0, done.stdout + done.stderr
    done = job.run(last)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "1 test beyond its limit" in done.stdout
    if system == "github":
        annotations = [read(line) for line in done.stdout.splitlines() if line.startswith("::error")]
        (annotation,) = [each for each in annotations if each[2].startswith("memory ")]  # on a busy machine CPU time grows too
        assert annotation[1] == {"file": "tests/test_app.py", "line": "1", "title": "grown: tests/test_app.py::test_app"}
        assert ["GROWN", "tests/test_app.py::test_app", "memory"] in [
            row[:3] for row in cells((job.home / "summary.md").read_bytes()).rows
        ]
    if system == "gitlab":
        assert samples((job.directory / "metrics.txt").read_text())["isolate_tests", (("outcome", "passed"),)] == 1
    if system in ("gitlab", "jenkins"):
        (case,) = ET.parse(job.directory / "junit.xml").iter("testcase")
        assert "isolate.memory_peak_bytes" in {each.get("name") for each in case.iter("property")}


@requires("root", "cgroup-memory", "cgroup-cpu")
@pytest.mark.parametrize(("size", "status"), [(10, 0), (100, 1)], ids=["the same", "beyond its budget"])
def test_job_is_green_without_growth_and_red_for_a_budget_alone(tmp_path_factory: pytest.TempPathFactory, size: int, status: int):
    job = make_job("gitlab", tmp_path_factory.mktemp("ci"), TEST.format(size=size))
    _install, save, compare = steps("gitlab")
    if status == 0:
        job.run(save)
    else:
        compare = compare.replace("--isolate-compare=base", "")
    done = job.run(compare)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("BUDGET" in done.stdout) == bool(status)
