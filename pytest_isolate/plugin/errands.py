"""What a test asks, from inside its sandbox, of other sandboxes: questions over the channel, done by the pytest process.

The pytest process waits for the test's reports meanwhile; a question that takes time is taken up again with each turn of
that waiting, so that it holds up neither a time limit nor another question. What a test made dies with it, and what it
was waiting for is dropped.
"""

from __future__ import annotations

import base64
import subprocess
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.model.errors import IsolateError, error_from_json
from pytest_isolate.plugin.wire import Frame
from pytest_isolate.sandbox import Sandbox

if TYPE_CHECKING:
    from pytest_isolate.plugin.factory import Factory
    from pytest_isolate.plugin.made import Steps

__all__ = ["OWN", "Errands", "failure", "packed", "raised", "unpacked"]

OWN: Final = -1
"""In place of a sandbox's number: the one that the test itself is in."""

_BYTES: Final = "$bytes"
_PLAIN: Final = {"ValueError": ValueError, "TypeError": TypeError}


class Errands:
    """Those of one test process.

    Args:
        item: the test.
        box: the sandbox that it is in.
        answer: sends a frame to the test process.
    """

    def __init__(self, item: pytest.Item, box: Sandbox, answer: Callable[[Frame], None]) -> None:
        self._item = item
        self._box = box
        self._answer = answer
        self._factory: Factory | None = None
        self._under_way: dict[int, Steps[Any]] = {}

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._under_way)

    def take(self, frame: Frame) -> None:
        """Begin with one question; what takes no time is answered at once."""
        number = frame["id"]
        if self._factory is None:
            from pytest_isolate.plugin.factory import of_run

            self._factory = of_run(self._item.config)
            self._factory.serve(self._item, self._box)
        factory = self._factory
        try:
            result = factory.perform(frame["what"], frame["box"], unpacked(frame["about"]))
        except (Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - it is the test's
            self._answer({"id": number, "error": failure(error)})
            return
        if hasattr(result, "send"):  # it takes time
            self._under_way[number] = result
            self._step(number)
        else:
            self._answer({"id": number, "value": packed(result)})

    def step(self) -> None:
        """Look after everything that is under way."""
        for number in list(self._under_way):
            self._step(number)

    def _step(self, number: int) -> None:
        try:
            next(self._under_way[number])
        except StopIteration as end:
            self._done(number, {"value": packed(end.value)})
        except Exception as error:  # noqa: BLE001 - it is the test's
            self._done(number, {"error": failure(error)})

    def _done(self, number: int, answer: Frame) -> None:
        del self._under_way[number]
        self._answer({"id": number, **answer})

    def close(self) -> None:
        """The test process has ended."""
        for steps in self._under_way.values():
            with suppress(Exception):
                steps.close()
        self._under_way.clear()
        if self._factory is not None:
            self._factory.served()


# --- values and errors as JSON ------------------------------------------------------------------------------------


def packed(value: Any) -> Any:
    """`value` with its bytes as text."""
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: packed(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [packed(part) for part in value]
    return value


def unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and _BYTES in value:
            return base64.b64decode(value[_BYTES])
        return {name: unpacked(part) for name, part in value.items()}
    if isinstance(value, list):
        return [unpacked(part) for part in value]
    return value


def failure(error: BaseException) -> dict[str, Any]:
    """What `raised` makes the same error of again."""
    match error:
        case IsolateError():
            return {"kind": "isolate", "error": error.to_json()}
        case subprocess.TimeoutExpired():
            about = {"cmd": list(error.cmd), "timeout": error.timeout, "output": error.output, "stderr": error.stderr}
            return {"kind": "timeout", **packed(about)}
        case OSError():
            return {"kind": "os", "args": [error.errno, error.strerror, error.filename]}
        case pytest.skip.Exception():
            return {"kind": "skip", "text": error.msg}
        case ValueError() | TypeError():
            return {"kind": "plain", "type": type(error).__name__, "text": str(error)}
    return {"kind": "other", "text": "".join(traceback.format_exception(error))}


def raised(data: dict[str, Any]) -> BaseException:
    """The error that `failure` described."""
    match data["kind"]:
        case "isolate":
            return error_from_json(data["error"])
        case "timeout":
            about = unpacked({name: value for name, value in data.items() if name != "kind"})
            return subprocess.TimeoutExpired(**about)
        case "os":
            return OSError(*data["args"])
        case "skip":
            return pytest.skip.Exception(data["text"], _use_item_location=True)
        case "plain":
            return _PLAIN.get(data["type"], ValueError)(data["text"])
    return RuntimeError(f"the pytest process could not do it:\n{data['text']}")
