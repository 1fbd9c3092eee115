"""What of the host a test needs in a root file system that isn't the host's: interpreter, modules, packages, the project.

Each appears at its own path, because that is where imports that come later, tracebacks and child interpreters look.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from typing import Final

import pytest

from pytest_isolate.images.runtime import make_runtime, too_old
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.image import Code, Stack
from pytest_isolate.model.paths import outermost, within
from pytest_isolate.sandbox.roots import FindCode

__all__ = ["own_code"]

_SHARED: Final = frozenset(("/", "/usr", "/usr/local", "/usr/lib", "/usr/bin", "/lib", "/bin", "/usr/lib64", "/lib64"))
"""Belong to the system, not to Python, though an interpreter may call one its prefix."""


def own_code(config: pytest.Config) -> FindCode:
    """What finds out, for the layers that it is given, when it is needed."""

    def find(stack: Stack, store: str) -> Code:
        projects = _directories([str(config.rootpath), str(config.invocation_params.dir)])
        executable = sys.executable
        trees = [path for path in _trees(executable) if not any(within(path, project) for project in projects)]
        modules = list(_extension_modules())
        real = os.path.realpath(executable)
        if why := too_old(stack.directories, [real, *modules]):
            raise SetupError(
                "start a test on rootfs=", detail=f"this interpreter can't run there: {why}",
                hint="take an image whose C library is as new as the host's, or run only programs of the image in it: isolate_factory(rootfs=…)",
            )  # fmt: skip
        runtime = make_runtime(store, executable, modules, [*projects, *trees])
        return Code(tuple(trees), tuple(projects), runtime)

    return find


def _trees(executable: str) -> list[str]:
    paths = sysconfig.get_paths()
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    found = [*prefixes, paths["stdlib"], paths["platstdlib"], *sys.path, *_package_directories(), os.path.realpath(executable)]
    real = [os.path.realpath(path) for path in found if path]
    given = [os.path.normpath(path) for path in found if path and os.path.isabs(path)]
    return _directories(
        path for path in (*real, *given) if path not in _SHARED and os.path.exists(path) and not os.path.islink(path)
    )


def _package_directories() -> Iterator[str]:
    """Of packages that were imported from elsewhere than sys.path: editable installs."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and os.path.basename(file) == "__init__.py" and "." not in module.__name__:
            yield os.path.dirname(file)


def _extension_modules() -> Iterator[str]:
    """Those of the standard library and those that are loaded."""
    dynamic = sysconfig.get_config_var("DESTSHARED") or ""
    if os.path.isdir(dynamic):
        yield from (
            entry.path for entry in sorted(os.scandir(dynamic), key=lambda entry: entry.name) if entry.name.endswith(".so")
        )
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".so") and os.path.isfile(file) and os.path.dirname(file) != dynamic:
            yield file


def _directories(paths: Iterable[str]) -> list[str]:
    """The outermost of `paths`, without links."""
    return sorted(outermost({os.path.realpath(path) if os.path.islink(path) else path for path in paths} - {"/"}))
