"""The same suite run plainly and with --isolate-all, and everything that pytest said, as data to compare.

Each run is a pytest of its own with no other plugin than those named. What must differ between two runs of
the same suite (times, addresses, temporary directories) is replaced; what the plugin adds on purpose (its
figures, its lines on the terminal) is left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["How", "Said", "both", "copied", "differences", "run"]

How = Literal["plain", "off", "marked", "all"]
_PLUGIN = ["-p", "pytest_isolate.plugin"]
_OPTIONS: dict[str, list[str]] = {
    "plain": [],
    "off": [*_PLUGIN, "--no-isolate"],
    "marked": _PLUGIN,
    "all": [*_PLUGIN, "--isolate-all"],
}

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "tests" / "suites"

_RECORDER = """
import json, os, pytest

class Recorder:
    def __init__(self, path):
        self.path = path
        open(path, "w").close()

    def add(self, entry):
        with open(self.path, "a", encoding="utf-8", errors="surrogatepass") as file:
            file.write(json.dumps(entry, default=repr) + "\\n")

    def pytest_runtest_logreport(self, report):
        crash = getattr(report.longrepr, "reprcrash", None)
        known = ("nodeid", "_id", "location", "keywords", "outcome", "longrepr", "when", "user_properties", "sections",
                 "duration", "start", "stop", "isolate", "isolate_imports", "node", "worker_id", "testrun_uid", "item_index")
        own = [pair for pair in report.user_properties if not pair[0].startswith("isolate.")]
        self.add({
            "kind": type(report).__name__, "nodeid": report.nodeid, "when": report.when, "outcome": report.outcome,
            "longrepr": report.longreprtext, "structure": [hasattr(report.longrepr, name) for name in ("toterminal", "reprcrash", "reprtraceback", "chain")],
            "crash": [str(crash.path), crash.lineno, crash.message] if crash else None,
            "sections": report.sections, "keywords": sorted(report.keywords), "location": report.location,
            "tuples": [type(report.location).__name__, [type(p).__name__ for p in report.sections + own]],
            "properties": own,
            "has_wasxfail": hasattr(report, "wasxfail"),
            "extra": {name: value for name, value in vars(report).items() if name not in known},
            "times": report.stop >= report.start > 0 and report.duration >= 0,
        })

    def pytest_warning_recorded(self, warning_message, when, nodeid, location):
        message = warning_message.message
        self.add({
            "kind": "warning", "when": when, "nodeid": nodeid, "category": warning_message.category.__name__,
            "module": warning_message.category.__module__, "text": str(message), "location": location,
            "file": os.path.basename(warning_message.filename), "line": warning_message.lineno,
            "is": [isinstance(message, kind) for kind in (DeprecationWarning, UserWarning, ResourceWarning)],
        })

    def pytest_collectreport(self, report):
        self.add({"kind": "collected", "nodeid": report.nodeid, "outcome": report.outcome})

    def pytest_deselected(self, items):
        self.add({"kind": "deselected", "items": [item.nodeid for item in items]})

    def pytest_runtest_logstart(self, nodeid, location):
        self.add({"kind": "start", "nodeid": nodeid, "location": location})

    def pytest_runtest_logfinish(self, nodeid, location):
        self.add({"kind": "finish", "nodeid": nodeid, "location": location})

    def pytest_keyboard_interrupt(self, excinfo):
        self.add({"kind": "interrupt", "type": excinfo.typename, "text": str(excinfo.value)})

    def pytest_sessionfinish(self, session, exitstatus):
        self.add({"kind": "end", "status": int(exitstatus), "failed": session.testsfailed, "collected": session.testscollected,
                  "stop": str(session.shouldstop), "fail": str(session.shouldfail)})

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(os.environ["PLAIN_RUNS_RECORD"]), "plain-runs-recorder")
"""


@dataclass(frozen=True)
class Said:
    """What one run said: hook calls in order, and the terminal's lines."""

    status: int
    entries: list[dict[str, Any]]
    terminal: list[str]
    raw: str = field(repr=False)
    error: str = field(repr=False)

    def of(self, path: str) -> list[dict[str, Any]]:
        """What concerns the tests of one file."""
        return [entry for entry in self.entries if str(entry.get("nodeid", "")).startswith(path)]

    def reports(self, path: str = "") -> list[dict[str, Any]]:
        return [entry for entry in self.of(path) if "longrepr" in entry]


def run(directory: Path, *args: str, how: How, env: dict[str, str] | None = None, keep_cache: bool = False) -> Said:
    """Run what `directory` holds: without the plugin, with it switched off, with what is marked or all isolated."""
    base = directory.parent / f"base-{how}"
    recorder = directory.parent / "recorder"
    recorder.mkdir(exist_ok=True)
    (recorder / "plain_runs_recorder.py").write_text(_RECORDER)
    record = directory.parent / "record.jsonl"
    if not keep_cache:
        shutil.rmtree(directory / ".pytest_cache", ignore_errors=True)
    command = [sys.executable, "-m", "pytest", "-p", "plain_runs_recorder", f"--basetemp={base}", f"--rootdir={directory}"]
    command += _OPTIONS[how]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    variables |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(recorder)]),
        "PLAIN_RUNS_RECORD": str(record),
        "COLUMNS": "120",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",  # text and bytes on a pipe in the order in which they were written
        **(env or {}),
    }
    done = subprocess.run([*command, *args], cwd=directory, env=variables, capture_output=True, timeout=120)
    text, error = done.stdout.decode(errors="backslashreplace"), done.stderr.decode(errors="backslashreplace")
    entries = [_normal(json.loads(line), base) for line in record.read_text().splitlines()] if record.exists() else []
    return Said(done.returncode, entries, _terminal(text, base), text, error)


def copied(suite: str, tmp_path: Path) -> Path:
    """A suite of `tests/suites` in a directory of its own."""
    directory = tmp_path / "suite"
    shutil.copytree(SUITES / suite, directory, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


def both(suite: str, tmp_path: Path, *args: str, env: dict[str, str] | None = None) -> tuple[Said, Said]:
    """(plain, isolated) runs of a suite of `tests/suites`."""
    directory = copied(suite, tmp_path)
    return run(directory, *args, how="plain", env=env), run(directory, *args, how="all", env=env)


def differences(plain: Sequence[dict[str, Any]], isolated: Sequence[dict[str, Any]]) -> list[str]:
    """Field by field, and in order; empty if there is none."""
    found = []
    for number, (one, other) in enumerate(zip(plain, isolated, strict=False)):
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                what = f"{one.get('kind')} {one.get('nodeid')} {one.get('when')}"
                found.append(f"#{number} {what}: {name}:\n  plain:    {one.get(name)!r}\n  isolated: {other.get(name)!r}")
    if len(plain) != len(isolated):
        found.append(f"{len(plain)} entries plainly, {len(isolated)} isolated")
        shorter, longer = sorted((plain, isolated), key=len)
        found += [
            f"  only in one: {entry.get('kind')} {entry.get('nodeid')} {entry.get('when')}" for entry in longer[len(shorter) :]
        ]
    return found


_CHANGING = [
    (re.compile(r"\[gw\d+\]"), "[gw]"),
    (re.compile(r"cache from \S+ ago"), "cache from TIME ago"),
    (re.compile(r"0x[0-9a-f]{6,}"), "0xADDRESS"),
    (re.compile(r"\b\d+\.\d+s\b"), "TIMEs"),
    (re.compile(r"\bisolate_(box|factory|layer), "), ""),  # in lists of the fixtures that there are
    (re.compile(r"\bin \d+\.\d+ ?s(econds)?"), "in TIME"),
    (re.compile(r"={3,}|-{3,}|_{3,}|!{3,}"), "==="),
]


def _normal(value: Any, base: Path) -> Any:
    if isinstance(value, str):
        value = value.replace(str(base), "BASE")
        for pattern, text in _CHANGING[:6]:
            value = pattern.sub(text, value)
        return value
    if isinstance(value, list):
        return [_normal(part, base) for part in value]
    if isinstance(value, dict):
        return {name: _normal(part, base) for name, part in value.items()}
    return value


def _terminal(text: str, base: Path) -> list[str]:
    """The terminal's lines without what isolation adds: its header line and its section."""
    lines: list[str] = []
    skipping = False
    for line in text.splitlines():
        bare = re.sub("\x1b\\[[0-9;]*m", "", line)
        if bare.startswith("isolate: "):
            continue
        if re.match(r"=+ isolate: ", bare):
            skipping = True
        elif skipping and bare.startswith("==="):
            skipping = False
        if not skipping:
            line = line.replace(str(base), "BASE")
            for pattern, replacement in _CHANGING:
                line = pattern.sub(replacement, line)
            lines.append(line.rstrip())
    return lines
