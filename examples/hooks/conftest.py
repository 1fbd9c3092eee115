"""The three hooks: who may set a rule for all sandboxes, see what each test used, and add to the report.

Look for: in the table at the end of the output every test has a cap, though none asks for one; with `--junitxml=out.xml`, the property
`cpu_share` of each test; with `--isolate-json=out.json`, the member `labels`.
"""

import os
from dataclasses import replace
from typing import Any

import pytest

from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import Usage


def pytest_isolate_spec(item: pytest.Item, spec: Spec) -> Spec | None:
    """No test of this directory without a memory cap; those marked `big` may use more."""
    if spec.memory is not None:
        return None
    return replace(spec, memory=(256 if item.get_closest_marker("big") else 64) << 20)


def pytest_isolate_usage(item: pytest.Item, usage: Usage) -> None:
    """How busy the test was, beside its figures."""
    if usage.cpu_seconds is not None and usage.wall_seconds:
        item.user_properties.append(("cpu_share", round(usage.cpu_seconds / usage.wall_seconds, 2)))


def pytest_isolate_report(config: pytest.Config, document: dict[str, Any]) -> None:
    """Who answers for these tests, for whoever reads the report."""
    document["labels"] = {"suite": config.rootpath.name, "branch": os.environ.get("GIT_BRANCH", "")}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "big: the test may use 256 MiB")
