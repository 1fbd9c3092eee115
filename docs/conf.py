"""Sphinx configuration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from pytest_isolate import __version__

project = "pytest-isolate"
author = "the pytest-isolate developers"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
# No inventories are fetched: the documentation must build without a network.
intersphinx_mapping = {}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
nitpick_ignore_regex = [("py:.*", r".*")]  # standard library types in signatures; no inventory to look them up in
html_theme = "furo"
html_title = f"{project} {version}"
