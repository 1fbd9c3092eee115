"""The command line, also as `pytest-isolate`: `python -m pytest_isolate run [--KEY=VALUE …] -- COMMAND`, `doctor`, `layers`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, NoReturn

from pytest_isolate import __version__
from pytest_isolate.images import command as layers
from pytest_isolate.model.errors import IsolateError, SpecError
from pytest_isolate.model.keys import KEYS, UPLINKS, Key
from pytest_isolate.model.parse import parse_keys
from pytest_isolate.model.project import outside
from pytest_isolate.model.spec import Spec, absent, contradictions
from pytest_isolate.model.units import format_duration
from pytest_isolate.model.usage import Usage
from pytest_isolate.sandbox import Pool, Process, Sandbox

__all__ = ["main"]

_USAGE_ERROR: Final = 2
_TIMED_OUT: Final = 124
_NOT_BUILT: Final = 125
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127
_PYTEST_ONLY: Final = ("fixtures", "forward")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of `run`: the command's own; 128 + N if signal N ended it; 124 timeout, 125 no sandbox, as timeout(1), docker.

    Of `doctor`: 0 if a bare ``@pytest.mark.isolate`` works, else 1. Of both: 2 for what can't be meant.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.subcommand == "doctor":
        return _doctor(options)
    if options.subcommand == "layers":
        return layers.run(options)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("run needs a command: pytest-isolate run -- COMMAND")
    try:
        spec = _spec(options)
    except ExceptionGroup as group:
        for error in group.exceptions:
            print(f"pytest-isolate: {error}", file=sys.stderr)
        return _USAGE_ERROR
    try:
        return _run(spec, command, options)
    except IsolateError as error:
        print(f"pytest-isolate: {error}", file=sys.stderr)
        return _NOT_BUILT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pytest-isolate", description="Sandboxes for tests, and for any command.")
    parser.add_argument("--version", action="version", version=f"pytest-isolate-sandbox {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="subcommand")
    run = commands.add_parser("run", help="run a command in a sandbox", description="Run a command in a sandbox.")
    for key in _keys():
        run.add_argument(
            f"--{key.name}",
            action="append" if key.many else "store",
            metavar=key.metavar,
            help=f"{key.help}; {key.form(text=True)} (default: {key.default})".replace("%", "%%"),
        )
    run.add_argument("--cgroup", metavar="PATH", help="delegated cgroup directory, relative to each hierarchy's mount point")
    run.add_argument(
        "--uplink",
        choices=UPLINKS,
        default="auto",
        help="how a bridge network reaches the outside",
    )
    run.add_argument("--usage", action="store_true", help="print what it used to standard error")
    run.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    about = "Try out what this machine can give, and say what to type where it can't."
    doctor = commands.add_parser("doctor", help="what this machine can give, and what to type where it can't", description=about)
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.add_argument("--cgroup", metavar="PATH", help="delegated cgroup directory, as for --isolate-cgroup")
    layers.add_parser(commands)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    from pytest_isolate.probe import cache
    from pytest_isolate.probe.examine import examine
    from pytest_isolate.report.doctor import painted, render_doctor
    from pytest_isolate.report.lines import Style

    key = cache.key_of(options.cgroup)
    try:
        report = examine(options.cgroup)
    except SpecError as error:
        print(f"pytest-isolate: {error}", file=sys.stderr)
        return _USAGE_ERROR
    cache.store(report, key)
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        style = Style(shutil.get_terminal_size().columns, sys.stdout.encoding)
        for line in render_doctor(report, style):
            print(painted(line, colour=_coloured()))
    return 0 if report.ready else 1


def _coloured() -> bool:
    """NO_COLOR and FORCE_COLOR as no-color.org and force-color.org have them; otherwise whether a terminal reads it."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def _keys() -> Iterator[Key]:
    return (key for key in KEYS.values() if key.name not in _PYTEST_ONLY)


def _spec(options: argparse.Namespace) -> Spec:
    """Raises ExceptionGroup of SpecError."""
    given = {key.name: value for key in _keys() if (value := getattr(options, key.name)) is not None}
    values, errors = parse_keys(given, os.getcwd(), "command line", text=True)
    spec = Spec(**values)
    found = (*contradictions(spec), *absent(spec), *outside(spec.inputs, os.getcwd()))
    errors += [error.at("command line") for error in found]
    if errors:
        raise ExceptionGroup("bad options", errors)
    return spec


def _print_network(box: Sandbox, notes: Sequence[str]) -> None:
    """What was changed on the host for it, where it is, and where its published ports are."""
    for note in notes:
        print(f"pytest-isolate: {note}", file=sys.stderr)
    if box.address is not None:
        print(f"pytest-isolate: {box.address.ip} on network {box.address.network}", file=sys.stderr)
    for (port, protocol), (host, host_port) in box.ports.items():
        print(f"pytest-isolate: published {host}:{host_port} -> {port}/{protocol}", file=sys.stderr)


def _run(spec: Spec, command: list[str], options: argparse.Namespace) -> int:
    pool = Pool(cgroup=options.cgroup, depth=0, uplink=options.uplink)
    try:
        with Sandbox(spec, pool=pool) as box:
            _print_network(box, pool.notes)
            started = time.monotonic()
            with _forwarding() as forward_to:
                try:
                    process = box.popen(command, foreground=True)
                except OSError as error:
                    print(f"pytest-isolate: {error.filename}: {error.strerror}", file=sys.stderr)
                    return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
                forward_to(process)
                status = _wait(box, process, spec.timeout)
            left = box.processes()
            usage = replace(box.usage(), wall_seconds=time.monotonic() - started, leaked_processes=len(left))
            for info in left:
                print(f"pytest-isolate: left behind: {info}", file=sys.stderr)
            if options.usage:
                _print_usage(usage)
    finally:
        pool.close()
    return 1 if status == 0 and left and spec.leak == "fail" else status


def _wait(box: Sandbox, process: Process, timeout: float | None) -> int:
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        print(f"pytest-isolate: killed after {format_duration(timeout or 0)}", file=sys.stderr)
        box.kill()
        process.wait()
        return _TIMED_OUT
    if box.events().oom_kills:
        print(f"pytest-isolate: out of memory: {', '.join(box.events().oom_victims)}", file=sys.stderr)
    return 128 - code if code < 0 else code


@contextmanager
def _forwarding() -> Iterator[Callable[[Process], None]]:
    """Signals meant for the command reach it, also those that come while it is being started; the terminal comes back afterwards.

    Yields what is to be told of the command's process.
    """
    started: list[Process] = []
    early: list[int] = []

    def forward(number: int, _frame: object) -> None:
        if started:
            started[0].send_signal(number)
        else:
            early.append(number)

    def forward_to(process: Process) -> None:
        started.append(process)
        for number in early:
            process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    former: dict[int, Any] = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield forward_to
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        if os.isatty(0):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
            os.tcsetpgrp(0, os.getpgrp())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])


def _print_usage(usage: Usage) -> None:
    for name, value in usage.properties():
        print(f"{name} {value:.6f}" if isinstance(value, float) else f"{name} {value}", file=sys.stderr)


def _exit() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _exit()
