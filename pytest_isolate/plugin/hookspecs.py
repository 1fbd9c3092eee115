"""Hooks that conftest files and other plugins can implement. Known to every run where the package is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec
    from pytest_isolate.model.usage import Usage

__all__ = ["pytest_isolate_report", "pytest_isolate_spec", "pytest_isolate_usage"]


@pytest.hookspec(firstresult=True)
def pytest_isolate_spec(item: pytest.Item, spec: Spec) -> Spec | None:
    """Have the last word on a test's sandbox.

    Called once for each test that is going to be isolated, when everything is collected and markers, command line and ini
    are merged; under xdist in each worker. A conftest file is asked for the tests in its directory. Stops at the first
    answer that isn't None.

    Args:
        item: the test.
        spec: what was asked for; frozen, so `dataclasses.replace` makes another one.

    Returns:
        None: as asked for. Or another spec: keys in base units (bytes, seconds, CPUs) or in the forms that the marker takes.
        What can't be meant, and what the hook raises, is a collection error of the test's file that names the plugin.
    """


def pytest_isolate_usage(item: pytest.Item, usage: Usage) -> None:
    """See what a test used, right after its sandbox ended.

    Called in the process that ran the test (a worker under xdist), at the end of the teardown phase, however the test
    ended; not for a test that an interrupt cut off or whose sandbox couldn't be built. Pairs that are appended to
    `item.user_properties` go out with the test's last report. What the hook raises is an error of the test's teardown; outcome,
    figures and the reports of the earlier phases stay.

    Args:
        item: the test.
        usage: its figures; None for those that the machine can't give.
    """


def pytest_isolate_report(config: pytest.Config, document: dict[str, Any]) -> None:
    """Read or change the document of a run, before anything is written from it.

    Called once at the end of the run, an interrupted one too, in the process that reports it: pytest's own, or xdist's
    controller, which loads the conftest files of the directories named on the command line (or `testpaths`) and no deeper ones.
    The document is made for this hook alone if nothing else wants it.

    Args:
        config: of that process.
        document: as ``--isolate-json`` would write it, to be changed in place. What isn't JSON afterwards or lacks a member, and what
            the hook raises, is said at the end and fails the run; the files are then written from the document as it was made.
    """
