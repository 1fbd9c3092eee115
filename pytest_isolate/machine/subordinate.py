"""What the mapping of more than one id takes: newuidmap(1), and a range of subuid(5).

Apart from `reading`, because every rootless builder needs it, and the facts only one that fails.
"""

from __future__ import annotations

import os
import pwd

__all__ = ["find_program", "subordinate_range"]


def find_program(name: str) -> str:
    """The path of a program, empty if there is none (shutil.which costs its import)."""
    paths = (os.path.join(folder, name) for folder in (*os.get_exec_path(), "/usr/bin", "/usr/sbin"))
    return next((path for path in paths if os.access(path, os.X_OK)), "")


def subordinate_range(path: str, uid: int) -> tuple[int, int] | None:
    """First id and count of the first range of subuid(5) or subgid(5) that belongs to `uid`, by name or number."""
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        owner = str(uid)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, rest = line.strip().partition(":")
                if name in (owner, str(uid)):
                    first, _, count = rest.partition(":")
                    return int(first), int(count)
    except (OSError, ValueError):
        return None
    return None
