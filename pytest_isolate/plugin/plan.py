"""``--isolate-plan``: prints each test's sandbox and runs nothing.

The run becomes a collection (``--collect-only``), so that plugins which measure or distribute runs stay out of
it; under xdist it happens in the one process, the way ``--collect-only`` does. What is printed is `planner`'s part.
"""

from __future__ import annotations

import pytest

from pytest_isolate.plugin.settings import settings_key

__all__ = ["register"]


def register(config: pytest.Config) -> None:
    """To be called once in `pytest_configure`, after the settings are in the stash and before xdist's (a `trylast`)."""
    if config.stash[settings_key].plan:
        from pytest_isolate.plugin.planner import Planner

        config.option.collectonly = True
        config.pluginmanager.register(Planner(config), "isolate-planner")
