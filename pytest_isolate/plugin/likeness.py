"""Classes of the test process, named on the wire and found again in the pytest process.

A warning's category and an exception's type go out as the names of their classes, bases included. Here the
first one that is known stands for it; where that isn't the class itself (it was made inside the test, or its
module was imported there only), a class of the same name is derived. Nothing is imported for it, and no
constructor of a test's class runs.
"""

from __future__ import annotations

import sys
import tracemalloc
import warnings
from typing import Any

import pytest
from _pytest._io.saferepr import saferepr

__all__ = ["described", "described_warning", "error_like", "warning_like"]

Names = list[list[str]]


def class_names(cls: type) -> Names:
    """Module and qualified name of the class and its bases, nearest first."""
    return [[base.__module__, base.__qualname__] for base in cls.__mro__ if base is not object]


def class_like(names: Names, base: type) -> type:
    """The class of that name if it is known here and below `base`, else one made after it."""
    for number, (module, qualname) in enumerate(names):
        found: Any = sys.modules.get(module)
        for part in qualname.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, base):
            return found if number == 0 else _derived(names[0], found)
    return _derived(names[0] if names else ["builtins", base.__name__], base)


def _derived(name: list[str], base: type) -> type:
    try:
        return type(name[1].rpartition(".")[2], (base,), {"__module__": name[0], "__qualname__": name[1]})
    except TypeError:  # the base refuses to be derived from
        return base


def described(error: BaseException) -> dict[str, Any]:
    """An exception or warning for the wire: class names, text, and what of its state is plain."""
    return {
        "names": class_names(type(error)),
        "text": _text(error),
        "args": [_simple(arg) for arg in error.args],
        "state": {str(name): _simple(value) for name, value in vars(error).items()},
    }


def error_like(data: dict[str, Any]) -> pytest.ExceptionInfo[BaseException]:
    """For hooks of the pytest process that look at the exception of a phase: type, text and plain state, no frames of the test."""
    try:
        raise _instance(class_like(data["names"], BaseException), data)
    except BaseException as raised:  # noqa: BLE001 - KeyboardInterrupt and the like are data here
        return pytest.ExceptionInfo.from_exception(raised)


def described_warning(message: warnings.WarningMessage) -> dict[str, Any]:
    """For the wire."""
    text = message.message
    return {
        **described(text if isinstance(text, Warning) else message.category(text)),
        "file": message.filename,
        "line": message.lineno,
        "source": message.line,
        "object": message.source is not None,
    }


def warning_like(data: dict[str, Any]) -> warnings.WarningMessage:
    """The message that `described_warning` described, of the same category and text."""
    category = class_like(data["names"], Warning)
    message = _instance(category, data)
    # An object of the test stays there; pytest only says that tracemalloc would tell where it was made.
    source = object() if data["object"] and not tracemalloc.is_tracing() else None
    assert isinstance(message, Warning)
    return warnings.WarningMessage(message, category, data["file"], data["line"], line=data["source"], source=source)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failed:  # noqa: BLE001 - a test's __str__
        return f"<{type(error).__name__} whose str() raised {type(failed).__name__}>"


def _simple(value: object) -> Any:
    return value if isinstance(value, (str, int, float, type(None))) else saferepr(value)


def _instance(cls: type, data: dict[str, Any]) -> BaseException:
    """An object of `cls` that reads as it did; constructors run only where they are Python's own."""
    text = data["text"]
    made: Any
    try:
        made = cls(*data["args"]) if cls.__module__ == "builtins" else cls.__new__(cls, *data["args"])
        made.__dict__.update(data["state"])
    except Exception:  # noqa: BLE001 - a __new__ with arguments of its own
        made = None
    if isinstance(made, BaseException) and _text(made) == text:
        return made
    try:
        shown = type(
            cls.__name__, (cls,), {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__str__": lambda _: text}
        )
        made = shown.__new__(shown, *data["args"])
        made.__dict__.update(data["state"])
    except Exception:  # noqa: BLE001
        made = None
    return (
        made
        if isinstance(made, BaseException)
        else next(b for b in (Warning, Exception, BaseException) if issubclass(cls, b))(text)
    )
