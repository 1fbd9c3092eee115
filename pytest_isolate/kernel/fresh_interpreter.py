"""Processes of ours beside pytest: fresh interpreters, so that no thread, memory or descriptor of the pytest process is in them.

Each has a session of its own, a channel to whoever started it, and a pidfd of that one, to end when it ends, by SIGKILL too.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import subprocess

__all__ = ["ignore_terminal", "start"]

_BOOT: Final = "import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; main(sys.argv[2:])"
_PACKAGES: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def start(module: str, channel: int, log: int) -> subprocess.Popen[bytes]:
    """Run ``main`` of a module of ours with the fds of the channel and of the caller's pidfd, without waiting for it.

    Args:
        module: whole name. Its interpreter finds our package and the standard library, nothing else.
        channel: fd of the new process's end.
        log: fd of a file that takes what it prints.

    Raises:
        OSError: it could not be started.
    """
    import subprocess  # here, because what is started loads this module too, and has no use for it

    me = os.pidfd_open(os.getpid())
    try:
        return subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-X", f"utf8={sys.flags.utf8_mode}"),
                *("-c", _BOOT.format(module=module), _PACKAGES, str(channel), str(me)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(channel, me),
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(me)


def ignore_terminal() -> None:
    """In such a process: Ctrl-C, a hang-up and their kind are pytest's to handle."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
