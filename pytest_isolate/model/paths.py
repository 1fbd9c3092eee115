"""Which paths lie in one another, told by their names."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["outermost", "within"]


def within(path: str, tree: str) -> bool:
    """Whether `path` is `tree` or below it."""
    return tree in ("/", path) or path.startswith(tree + "/")


def outermost(paths: Iterable[str]) -> list[str]:
    """Without those that are in others; shallow ones first."""
    found: list[str] = []
    for path in sorted(set(paths), key=lambda path: (path.count("/"), path)):
        if not any(within(path, other) for other in found):
            found.append(path)
    return found
