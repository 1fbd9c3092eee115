"""The plugin: what pytest loads. Options, ini keys and the marker always; what isolates, with the first test that asks for it.

Each part is a module with a `register(config)`; this one only says in which order.
"""

from __future__ import annotations

import pytest

# The first loads the others.
from pytest_isolate.plugin import bare_imports, collected, conflict, hookspecs, marks, settings, terminal, watch
from pytest_isolate.plugin.fixtures import isolate_box, isolate_factory, isolate_layer
from pytest_isolate.plugin.options import pytest_addoption

__all__ = [
    "bare_imports", "isolate_box", "isolate_factory", "isolate_layer", "pytest_addhooks", "pytest_addoption", "pytest_configure",
]  # fmt: skip

conflict.refuse()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Raises pytest.UsageError for whatever options, ini keys and profiles say that can't be meant."""
    found = config.stash[settings.settings_key] = settings.configure(config)
    collected.register(config)
    terminal.register(config)
    marks.register(config)
    if found.plan:
        from pytest_isolate.plugin import plan

        plan.register(config)
    if found.budgets:
        from pytest_isolate.plugin import budget_patterns

        budget_patterns.register(config)
    if found.preload and not (found.no_isolate or config.option.collectonly):
        from pytest_isolate.plugin.preload import preload

        preload(found.preload)
    if found.writes:
        from pytest_isolate.plugin import outputs

        outputs.register(config)
    if getattr(config.option, "htmlpath", None) and not (found.no_isolate or hasattr(config, "workerinput")):
        from pytest_isolate.plugin import html_columns

        html_columns.register(config)
    watch.register(config)
