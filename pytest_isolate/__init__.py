"""pytest-isolate: each marked test in its own Linux sandbox."""

__version__ = "0.1.0"
