"""What of a project is the interpreter's, and so stays where ``inputs=`` shows a part of the project only."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterable, Iterator

import pytest_isolate
from pytest_isolate.model.paths import within
from pytest_isolate.model.project import Project

__all__ = ["project_of"]


def project_of(root: str, here: str, also: Iterable[str] = ()) -> Project:
    """The project at `root` for a process in the working directory `here`.

    Args:
        also: paths that are to be shown beside the inputs.
    """
    real = os.path.realpath(root)
    kept = (path for path in (*_interpreter(real), *also) if any(path != tree and within(path, tree) for tree in (root, real)))
    return Project(real, os.path.realpath(here), tuple(dict.fromkeys(kept)))


def _interpreter(root: str) -> Iterator[str]:
    """Its prefixes, the directories that packages are installed in for it, and our own package. Other entries of sys.path are sources."""
    packages = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix):
        if os.path.realpath(prefix) != root:
            yield prefix
        else:  # a virtual environment made in the project's directory itself
            yield from (os.path.join(prefix, name) for name in ("bin", "pyvenv.cfg"))
            packages.append(os.path.dirname(os.__file__))
    yield from packages
    yield os.path.dirname(pytest_isolate.__file__)
