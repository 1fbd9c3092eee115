"""Programs started where the kernel really refuses something: what comes out is its own answer, not a mock's.

A case is a prelude of Python that spoils the process for good and then executes the command.
"""

from __future__ import annotations

import textwrap
from typing import Final

__all__ = ["FILTER", "NO_NAMESPACES", "NO_OPEN_TREE", "spoiled"]

_FILTER: Final = """
import ctypes, errno, os, platform, struct
libc = ctypes.CDLL(None, use_errno=True)

def must(result):
    if result: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def refuse(numbers, answer=errno.EPERM):
    # seccomp(2), cBPF: load nr; one jump per call; allow; refuse
    code = [struct.pack("HBBI", 0x20, 0, 0, 0)]
    code += [struct.pack("HBBI", 0x15, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    code += [struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000), struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | answer)]
    text = ctypes.create_string_buffer(b"".join(code))
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    program = Program(len(code), ctypes.cast(text, ctypes.c_void_p))
    must(libc.prctl(38, 1, 0, 0, 0))
    must(libc.prctl(22, 2, ctypes.byref(program), 0, 0))

CALLS = {"open_tree": 428, "unshare": {"x86_64": 272, "aarch64": 97}[platform.machine()]}
"""

FILTER: Final = _FILTER + 'refuse([CALLS["unshare"]])'
"""unshare(2) is EPERM, as under Docker's profile."""

NO_OPEN_TREE: Final = _FILTER + 'refuse([CALLS["open_tree"]], errno.ENOSYS)'
"""open_tree(2) is ENOSYS, as on Linux before 5.2."""

NO_NAMESPACES: Final = """
import os
libc = __import__("ctypes").CDLL(None, use_errno=True)
uid, gid = os.geteuid(), os.getegid()
if libc.unshare(0x10000000): raise OSError("no user namespace to spoil")
for name, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
    with open(f"/proc/self/{name}", "w") as file: file.write(text)
with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write("0")
"""
"""user.max_user_namespaces=0, which every user namespace has of its own."""


def spoiled(prelude: str, *command: str) -> list[str]:
    """Arguments of an interpreter that runs `prelude` and becomes ``python COMMAND``."""
    return ["-c", textwrap.dedent(prelude) + f"\nimport os, sys\nos.execv(sys.executable, [sys.executable, *{list(command)!r}])"]
