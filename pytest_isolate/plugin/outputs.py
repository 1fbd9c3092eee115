"""What is made of a finished run beside the terminal's section: its document, and the files that are asked for.

pytest_sessionfinish comes also where the run was interrupted or broke, so that what did run is never lost.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Generator, Mapping
from typing import Any, Final

import pytest

from pytest_isolate import __version__
from pytest_isolate.plugin.collected import baselines_key, collected_key
from pytest_isolate.plugin.settings import settings_key

__all__ = ["Outputs", "register"]


def register(config: pytest.Config) -> None:
    """To be called once, in a run that makes something of its document; nothing in xdist's workers."""
    if collected_key not in config.stash:
        return
    if asked := config.stash[settings_key].baselines:
        from pytest_isolate.plugin.baselines import Baselines

        config.stash[baselines_key] = Baselines(asked)
    config.pluginmanager.register(Outputs(config), "isolate-outputs")


_WHOLE: Final = ("tool", "run", "machine", "totals")
_OF_A_TEST: Final = {
    "nodeid": str,
    "outcome": str,
    "usage": dict,
    "spec": dict,
    "problems": list,
    "weakened": list,
    "notes": list,
}


def _lost(before: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """What a document lacks that files are made from, by name; empty: nothing."""
    for name, value in before.items():
        if not isinstance(document.get(name), type(value)):
            return repr(name)
        if name in _WHOLE and (gone := value.keys() - document[name].keys()):
            return f"{min(gone)!r} of {name!r}"
    for number, test in enumerate(document["tests"], 1):
        for name, kind in _OF_A_TEST.items():
            if not isinstance(test, dict) or not isinstance(test.get(name), kind):
                return f"{name!r} of test {number}"
    return ""


class Outputs:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = config.stash[settings_key]
        self._collected = config.stash[collected_key]
        self._failures: list[str] = []

    # After xdist's, which ends the workers, and after wide fixtures' teardown, also where that raises, which would end the call of
    # hooks that are no wrappers. The terminal's section comes later.
    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, object, None]:
        yield
        self._finish(session, exitstatus)

    def _finish(self, session: pytest.Session, exitstatus: int) -> None:
        """Make the document, and of it what is asked for; not for GitHub alone where nothing was isolated."""
        if (
            not self._settings.writes
            and not self._config.hook.pytest_isolate_report.get_hookimpls()
            and not self._collected.finished()
        ):
            return
        document = self._document(session, int(exitstatus))
        baselines = self._config.stash.get(baselines_key, None)
        if baselines is not None:
            baselines.compare(session, document)
        document, files = self._told(session, document)
        if baselines is not None:
            baselines.save(session, document)
        for path, text in files:
            self._write(session, path, text)
        if (github := self._config.pluginmanager.get_plugin("isolate-github")) is not None:
            github.write()

    def _made(self, document: dict[str, Any]) -> list[tuple[str, str]]:
        """Paths and texts of the files. Nothing is written yet: of a document that isn't one all this raises."""
        settings, files = self._settings, []
        if settings.json:
            files.append((settings.json, json.dumps(document, indent=1)))
        if settings.metrics:
            from pytest_isolate.report.openmetrics import metrics

            files.append((settings.metrics, metrics(document)))
        if settings.html:
            from pytest_isolate.report.html.page import page

            files.append((settings.html, page(document)))
        if (baselines := self._config.stash.get(baselines_key, None)) is not None:
            baselines.make(document)
        github = self._config.pluginmanager.get_plugin("isolate-github")
        if github is not None and document["tests"]:
            github.make(document)
        return files

    def _write(self, session: pytest.Session, path: str, text: str) -> None:
        from pytest_isolate.report.files import write

        try:
            write(path, text)
        except OSError as error:
            # The path was tried before the tests; what a full disk makes of it mustn't pass for a report.
            self._fail(session, f"{path} could not be written: {error.strerror}")

    def _fail(self, session: pytest.Session, text: str) -> None:
        self._failures.append(text)
        session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR

    def _told(self, session: pytest.Session, document: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """The document, after `pytest_isolate_report`, and its files; without what that did to it where the result is no document."""
        hook = self._config.hook.pytest_isolate_report
        if not hook.get_hookimpls():
            return document, self._made(document)
        before = copy.deepcopy(document)
        try:
            hook(config=self._config, document=document)
            json.dumps(document, allow_nan=False)
            if lost := _lost(before, document):
                raise ValueError(f"{lost} is gone, or something else")
            return document, self._made(document)
        except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - whatever it is
            from pytest_isolate.plugin.spec_hook import implementers

            names = " or ".join(implementers(self._config.hook, hook.name, self._config))
            self._fail(session, f"{hook.name} of {names}: {type(error).__name__}: {error}; the report is as it was without it")
            return before, self._made(before)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        while self._failures:
            terminalreporter.write_line(f"isolate: {self._failures.pop(0)}", red=True)

    def pytest_unconfigure(self) -> None:
        """Where there was no summary (``--no-summary``, ``-p no:terminal``): the exit status alone would be a riddle."""
        while self._failures:
            sys.stderr.write(f"isolate: {self._failures.pop(0)}\n")

    def _document(self, session: pytest.Session, exitstatus: int) -> dict[str, Any]:
        from pytest_isolate.probe import cache
        from pytest_isolate.report.document import document
        from pytest_isolate.report.record import Run
        from pytest_isolate.report.surroundings import commit_of, machine

        config, settings = self._config, self._settings
        root = str(config.rootpath)
        about = {
            "tool": {"name": "pytest-isolate-sandbox", "version": __version__, "pytest": pytest.__version__},
            "run": {
                "started": self._collected.started,
                "seconds": time.time() - self._collected.started,
                "exit_status": exitstatus,
                "interrupted": exitstatus == pytest.ExitCode.INTERRUPTED
                or self._collected.interrupted
                or bool(session.shouldstop or session.shouldfail),
                "arguments": list(config.invocation_params.args),
                "rootdir": root,
                "commit": commit_of(root, os.environ),
            },
            "machine": machine(settings.cgroup),
        }
        report = cache.load(settings.cgroup)
        capabilities = report.to_json()["capabilities"] if report is not None else ()
        run = self._collected.finished() or Run()
        return document(run, plain=self._collected.plain, about=about, capabilities=capabilities)
