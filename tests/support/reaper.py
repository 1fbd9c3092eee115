"""Runs whose every process is accounted for, also what was orphaned on the way: they come to us instead of to PID 1.

So a test can tell that a run has left nothing, and needs no machine to itself for that: what runs beside it are other processes' children.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Final

from tests.support.remains import remains_of

__all__ = ["Reaper"]

_PROGRAM: Final = """
import ctypes, json, os, signal, sys, time

record, seconds, *command = sys.argv[1:]
if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
first = os.fork()
if first == 0:
    os.execvp(command[0], command)

def tell(**what):
    with open(record + "~", "w") as file:
        json.dump({"pid": first, **what}, file)
    os.rename(record + "~", record)

def read(path):
    try:
        with open(path, "rb") as file: return file.read().replace(b"\\0", b" ").decode(errors="replace").strip()
    except OSError: return ""

def below(pid):
    found = read(f"/proc/{pid}/task/{pid}/children").split()
    return [f"process {child} {read(f'/proc/{child}/cmdline')}" for child in found] + [more for child in found for more in below(child)]

tell()
ended = status = None
left = []
while True:
    try: pid, how = os.waitpid(-1, 0 if ended is None else os.WNOHANG)
    except ChildProcessError: break
    if pid == first:
        ended, status = time.monotonic(), how
    elif pid == 0:
        if time.monotonic() > ended + float(seconds):
            left = below(os.getpid())
            break
        time.sleep(0.01)
tell(left=left)
if os.WIFSIGNALED(status):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.WEXITSTATUS(status))
"""


class Reaper:
    """One command, and all that comes of it.

    Attributes:
        begin: to be put in front of the command. It takes over the command's exit status, or the signal that ended it, once all its
            processes are gone, or `seconds` after its own end.
    """

    def __init__(self, python: str, directory: Path, seconds: float = 5) -> None:
        self._record = directory / f"reaped-{os.urandom(4).hex()}.json"
        self._seconds = seconds
        self.begin = [python, "-I", "-S", "-c", _PROGRAM, str(self._record), str(seconds)]

    @property
    def pid(self) -> int:
        """Of the command. Waits until it is started; raises AssertionError if it isn't."""
        deadline = time.monotonic() + 30
        while not self._record.exists():
            assert time.monotonic() < deadline, "the command was not started"
            time.sleep(0.002)
        return int(json.loads(self._record.read_text())["pid"])

    def left(self) -> set[str]:
        """What is left once the command `begin` has ended: processes, and what is named after the run."""
        told = json.loads(self._record.read_text())
        assert "left" in told, "whoever looks after the processes has not come to its end"
        deadline = time.monotonic() + self._seconds
        while (named := remains_of(told["pid"])) and time.monotonic() < deadline:
            time.sleep(0.02)
        return {*told["left"], *named}
