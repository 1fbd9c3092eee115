"""The worker seen from whoever asks it: started when the first question comes, ended with `close`."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

from pytest_isolate.images.owners import Owners
from pytest_isolate.kernel.channel import pair
from pytest_isolate.kernel.fresh_interpreter import start
from pytest_isolate.model.errors import ImageError, error_from_json

__all__ = ["Worker", "package_directory"]


class Worker:
    """Starts the process and waits until it says who owns what it makes.

    Attributes:
        owners: see `Owners`.
        gone: it ended by itself, or was killed.

    Raises:
        ImageError: it could not be started.
        MissingCapability: ``userns``.
    """

    def __init__(self) -> None:
        self.gone = False
        self._channel, theirs = pair()
        self._log = os.memfd_create("pytest-isolate-layers")
        try:
            with theirs:
                self._process = start("pytest_isolate.images.worker", theirs.fileno(), self._log)
        except OSError as error:
            self._channel.close()
            os.close(self._log)
            raise ImageError(f"the process that unpacks layers could not be started: {error}") from None
        try:
            self.owners = Owners.from_json(self._answer(None, None)["owners"])
        except BaseException:
            self.close()
            raise

    def ask(
        self,
        operation: str,
        fds: Sequence[int] = (),
        *,
        progress: Callable[[int], None] | None = None,
        altered: Callable[[list[str]], None] | None = None,
        **about: Any,
    ) -> dict[str, Any]:
        """Have something done, and wait.

        Raises:
            IsolateError: what it answers with; ImageError if it is gone.
        """
        with suppress(OSError):  # gone: receiving says so
            self._channel.send({"op": operation, **about}, tuple(fds))
        return self._answer(progress, altered)

    def _answer(self, progress: Callable[[int], None] | None, altered: Callable[[list[str]], None] | None) -> dict[str, Any]:
        while (received := self._channel.receive()) is not None:
            message, _ = received
            if "error" in message:
                raise error_from_json(message["error"])
            if "done" in message:
                if progress is not None:
                    progress(message["done"])
            elif "altered" in message:
                if altered is not None:
                    altered(message["altered"])
            else:
                return message
        raise self._gone()

    def _gone(self) -> ImageError:
        self.gone = True
        status = self._process.wait()
        said = os.pread(self._log, 1 << 16, 0).decode(errors="replace").strip().splitlines()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return ImageError(f"the process that unpacks layers ended with {how}{f': {said[-1]}' if said else ''}", "try again")

    def close(self) -> None:
        """End it, whatever it does."""
        self._channel.close()
        self._process.kill()
        self._process.wait()
        os.close(self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def package_directory(name: str) -> str | None:
    """Where a package of this interpreter lies, which the worker's doesn't look for; None: nowhere."""
    found = importlib.util.find_spec(name)
    return os.path.dirname(os.path.dirname(found.origin)) if found is not None and found.origin else None
