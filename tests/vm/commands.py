"""Machines that stay up, for development: a change is tried out in one in seconds, without a boot.

python -m tests.vm up VARIANT [--name NAME]            start a machine, which stays until `down`
python -m tests.vm sync NAME [DIRECTORY]               send a checkout (default: this one) and its wheel
python -m tests.vm exec NAME [--user USER] -- COMMAND  run a command in the user's checkout; USER: root, tester or login
python -m tests.vm shell NAME [--user USER]            a terminal
python -m tests.vm list | console NAME | down NAME …
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import termios
import tty
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.vm.channel import Channel
from tests.vm.images import CACHE, ROOT, image
from tests.vm.machines import Machine
from tests.vm.page import write
from tests.vm.project import sync
from tests.vm.releases import VARIANTS
from tests.vm.users import USERS, started

__all__ = ["COMMANDS", "split"]


def up(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm up")
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--name", help="of the machine (default: the variant's)")
    parser.add_argument("--memory", type=int, default=2048, help="MiB")
    options = parser.parse_args(arguments)
    variant = VARIANTS[options.variant]
    Machine(options.name or variant.name).start(variant, image(variant), memory=options.memory, stays=True)
    return 0


def sync_command(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm sync")
    parser.add_argument("name")
    parser.add_argument("directory", type=Path, nargs="?", default=ROOT)
    options = parser.parse_args(arguments)
    return sync(Machine(options.name), options.directory)


def exec_command(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm exec")
    parser.add_argument("name")
    parser.add_argument("--user", choices=USERS, default="root")
    parser.add_argument("--cwd")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--timeout", type=float, help="seconds")
    parser.add_argument("--stdin", action="store_true", help="hand our standard input on")
    own, dashes, command = split(arguments)
    options = parser.parse_args(own)
    if not dashes:
        parser.error("the command goes after --")
    env = dict(line.split("=", 1) for line in options.env)
    start = started(options.user, command or ["bash", "-i"], env, options.cwd)
    with Channel(Machine(options.name).directory, timeout=10) as channel:
        return channel.run(
            start.argv,
            stop=start.stop,
            given=sys.stdin.fileno() if options.stdin else None,
            out=sys.stdout.buffer,
            err=sys.stderr.buffer,
            timeout=options.timeout,
        )


def shell(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm shell")
    parser.add_argument("name")
    parser.add_argument("--user", choices=USERS, default="root")
    options = parser.parse_args(arguments)
    start = started(
        options.user, ["script", "--quiet", "--command", "bash -i", "/dev/null"], {"TERM": os.environ.get("TERM", "")}
    )
    size = shutil.get_terminal_size()
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        with Channel(Machine(options.name).directory, timeout=10) as channel:
            argv = [word.replace("--pipe", "--pty") for word in start.argv]
            return channel.run(
                argv, stop=start.stop, given=0, tty=(size.lines, size.columns), out=sys.stdout.buffer, err=sys.stderr.buffer
            )
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def list_command(arguments: Sequence[str]) -> int:
    argparse.ArgumentParser(prog="python -m tests.vm list").parse_args(arguments)
    for directory in sorted((CACHE / "run").glob("*")):
        print(f"{directory.name:20} {'running' if Machine(directory.name).running() else 'ended'}")
    return 0


def console(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm console")
    parser.add_argument("name")
    print(Machine(parser.parse_args(arguments).name).log())
    return 0


def down(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm down")
    parser.add_argument("name", nargs="+")
    for name in parser.parse_args(arguments).name:
        Machine(name).stop()
    return 0


def page(arguments: Sequence[str]) -> int:
    argparse.ArgumentParser(prog="python -m tests.vm page").parse_args(arguments)
    write()
    return 0


def split(arguments: Sequence[str]) -> tuple[Sequence[str], bool, Sequence[str]]:
    """What is before and after the first `--`."""
    if "--" not in arguments:
        return arguments, False, ()
    at = arguments.index("--")
    return arguments[:at], True, arguments[at + 1 :]


COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = MappingProxyType(
    {
        "up": up,
        "sync": sync_command,
        "exec": exec_command,
        "shell": shell,
        "list": list_command,
        "console": console,
        "down": down,
        "page": page,
    }
)
