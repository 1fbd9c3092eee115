"""What the ``rootfs=`` of a spec comes to on this machine: layers of the store, and what an image says of its processes.

Looked up by whoever orders sandboxes, not by the builder: a layer that isn't in the store yet takes its time, and may ask the user
for patience.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from pytest_isolate.model.errors import IsolateError, SetupError, SpecError
from pytest_isolate.model.image import Code, ImageConfig, Source, Stack
from pytest_isolate.model.spec import Env, Spec

if TYPE_CHECKING:
    from pytest_isolate.images.store import Progress, Store

__all__ = ["FindCode", "Roots"]

FindCode = Callable[[Stack, str], Code]
"""Of the layers, and the store's directory; raises IsolateError."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Docker's, for images that name none."""


class Roots:
    """The root file systems of one run. Remembers what it found, errors too.

    Args:
        store: path of the layer store; None: the user's.
        run: what the processes of one run have in common, see `Store`.

    Attributes:
        progress: is told how far an import is.
    """

    def __init__(self, store: str | None = None, run: str = "") -> None:
        self._path, self._run = store, run
        self.progress: Callable[[Progress], None] | None = None
        self._store: Store | None = None
        self._stacks: dict[tuple[Source, ...], Stack | IsolateError] = {}
        self._codes: dict[tuple[Source, ...], Code | IsolateError] = {}

    @property
    def store(self) -> Store:
        """Opened when it is first needed. Raises ImageError."""
        if self._store is None:
            from pytest_isolate.images.store import Store

            self._store = Store(self._path, run=self._run)
        return self._store

    def resolved(self, spec: Spec, find_code: FindCode | None = None) -> Spec:
        """`spec` with its stack, and a place for its writable layer.

        Args:
            find_code: says what of the host a test needs on these layers; None: programs run there, as the image has them.

        Raises:
            IsolateError: an image can't be imported, a layer isn't there, a test can't be run on them.
        """
        if spec.upper == "disk":
            spec = replace(spec, scratch=os.path.join(self.store.path, "uppers"))
        if not spec.rootfs:
            return spec
        for source in spec.rootfs:
            if source.kind in ("recipe", "fixture"):
                raise SpecError("rootfs", f"{source} means something in a test of pytest's alone", "the other forms of rootfs=")
        stack = _or_raise(self._stacks, spec.rootfs, lambda: self.store.resolve(spec.rootfs, self.progress))
        if stack.host:
            return replace(spec, stack=stack)
        code = None
        if find_code is not None:
            code = _or_raise(self._codes, spec.rootfs, lambda: find_code(stack, self.store.path))
        config = stack.config or ImageConfig()
        if code is None and spec.user == "self" and config.user:
            spec = replace(spec, user=_user_id(config.user, stack))
        return replace(spec, stack=stack, code=code, env=_merged(config, spec.env, test=code is not None))

    def close(self) -> None:
        """Let go of the layers in use."""
        if self._store is not None:
            self._store.close()
            self._store = None
        self._stacks.clear()


_T = TypeVar("_T")


def _or_raise(known: dict[tuple[Source, ...], _T | IsolateError], key: tuple[Source, ...], find: Callable[[], _T]) -> _T:
    if key not in known:
        try:
            known[key] = find()
        except IsolateError as error:
            known[key] = error
    found = known[key]
    if isinstance(found, IsolateError):
        raise found
    return found


def _merged(config: ImageConfig, asked: Env, *, test: bool) -> Env:
    """The image's variables and over them the spec's. A test keeps finding its own programs, after the image's."""
    env: dict[str, str | None] = dict(config.env)
    path = env.get("PATH") or _PATH
    own = os.environ.get("PATH", "") if test else ""
    env["PATH"] = f"{path}:{own}" if own else path
    return tuple(sorted({**env, **dict(asked)}.items()))


def _user_id(text: str, stack: Stack) -> int:
    """The number of an image's user, looked up in the image. Raises SetupError."""
    name = text.partition(":")[0]
    if name.isdecimal():
        return int(name)
    for directory in reversed(stack.directories):
        try:
            with open(f"{directory}/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
                for line in file:
                    fields = line.split(":")
                    if fields[0] == name and len(fields) > 2:
                        return int(fields[2])
        except FileNotFoundError:
            continue
        break
    raise SetupError(
        "use the image's user", text, detail="its /etc/passwd doesn't know that name", hint='give another: user="root"'
    )
