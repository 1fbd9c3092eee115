"""The command line, also as `pytest-isolate`: `run [--KEY=VALUE …] -- COMMAND`, `shell`, `layers`, `budgets`, `report`, `doctor`."""

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
from pytest_isolate.images.bar import bar
from pytest_isolate.model.errors import IsolateError, SpecError
from pytest_isolate.model.keys import KEYS, UPLINKS, Key
from pytest_isolate.model.net import Net
from pytest_isolate.model.parse import parse_keys
from pytest_isolate.model.project import outside
from pytest_isolate.model.spec import Spec, absent, contradictions
from pytest_isolate.model.units import format_duration
from pytest_isolate.model.usage import Usage
from pytest_isolate.report.html import command as reports
from pytest_isolate.sandbox import Pool, Process, Sandbox
from pytest_isolate.sandbox.roots import Roots

__all__ = ["main"]

_USAGE_ERROR: Final = 2
_TIMED_OUT: Final = 124
_NOT_BUILT: Final = 125
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127
_PYTEST_ONLY: Final = ("fixtures", "forward", "budget")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of `run` and `shell`: the command's own; 128 + N if signal N ended it; 124 timeout, 125 no sandbox, as timeout(1), docker.

    Of `doctor`: 0 if a bare ``@pytest.mark.isolate`` works, else 1. Of all: 2 for what can't be meant.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(arguments)
    others: dict[str, Callable[[argparse.Namespace], int]] = {
        "doctor": _doctor, "layers": layers.run, "budgets": _budgets, "report": _report,
    }  # fmt: skip
    if other := others.get(options.subcommand):
        return other(options)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.subcommand == "shell":
        return _shell(options, command)
    if not command:
        parser.error("run needs a command: pytest-isolate run -- COMMAND")
    try:
        spec = _spec(options)
    except ExceptionGroup as group:
        for error in group.exceptions:
            _say(error)
        return _USAGE_ERROR
    if options.keep and (why := _refused(options.keep)):
        _say(f"command line: --keep: {why}")
        return _USAGE_ERROR
    roots = Roots(options.store)
    pool = Pool(cgroup=options.cgroup, depth=0, uplink=options.uplink, roots=roots)
    try:
        with bar() as progress:
            roots.progress = progress
            spec = roots.resolved(spec)
        for note in spec.stack.notes if spec.stack else ():
            _say(note)
        return _run(Sandbox(spec, pool=pool), pool, command, usage=options.usage, keep=options.keep)
    except IsolateError as error:
        _say(error)
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
    run.add_argument("--store", metavar="PATH", help="directory of the layer store, as for --isolate-store")
    run.add_argument("--usage", action="store_true", help="print what it used to standard error")
    run.add_argument("--keep", metavar="DIR", help="make DIR of the files that it wrote, for shell, or to be mounted as layers")
    run.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    _add_shell(commands)
    about = "Try out what this machine can give, and say what to type where it can't."
    doctor = commands.add_parser("doctor", help="what this machine can give, and what to type where it can't", description=about)
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.add_argument("--cgroup", metavar="PATH", help="delegated cgroup directory, as for --isolate-cgroup")
    layers.add_parser(commands)
    _add_budgets(commands)
    reports.add_parser(commands)
    return parser


def _add_budgets(commands: Any) -> None:
    about = "Budgets for tests, from what they used in recorded runs."
    actions = commands.add_parser("budgets", help=about[:-1].lower(), description=about).add_subparsers(
        title="actions", required=True, metavar="ACTION", dest="action"
    )
    about = "Print [tool.pytest-isolate.budgets] with limits that the tests of the runs kept to, and headroom."
    made = actions.add_parser("suggest", help="print limits with headroom as TOML", description=about)
    made.add_argument(
        "runs", metavar="RUN.json|BASELINE", nargs="*", help="files of --isolate-json, or baselines (default: all baselines)"
    )
    made.add_argument("--baselines", metavar="DIR", help="where baselines are (default: .isolate/baselines)")
    made.add_argument("--headroom", metavar="SHARE", default="30%", help="what is added to the greatest value (default: 30%%)")
    made.add_argument("--figures", metavar="FIGURE,…", default="", help="which to limit (default: cpu,memory,pids)")
    made.add_argument(
        "--by",
        choices=("file", "test"),
        default="file",
        help="an entry for each test, or for each file and for tests that need more",
    )
    made.add_argument("--write", action="store_true", help="add it to ./pyproject.toml, which must have no such table")


def _add_shell(commands: Any) -> None:
    about = "Open the files that a test or command wrote again, in a sandbox like its own. What is changed there is thrown away."
    shell = commands.add_parser("shell", help="a shell in the files that a test wrote", description=about)
    shell.add_argument("kept", metavar="NODEID|DIR", help="the test, of a run with --isolate-keep, or the directory")
    shell.add_argument(
        "--keep-to", metavar="DIR", help="where to look for tests: the --isolate-keep-to of the run (default: pytest's cache)"
    )
    shell.add_argument("--remove", action="store_true", help="remove the kept files instead, also those of subordinate ids")
    shell.add_argument("--cgroup", metavar="PATH", help="delegated cgroup directory, as for run")
    shell.add_argument("command", nargs=argparse.REMAINDER, help="what to run instead of $SHELL, after --")


def _shell(options: argparse.Namespace, command: list[str]) -> int:
    from pytest_isolate.sandbox import kept_directories

    try:
        kept = kept_directories.find(
            options.kept, [options.keep_to] if options.keep_to else list(kept_directories.bases(os.getcwd()))
        )
        if options.remove:
            kept_directories.remove(kept)
            return 0
    except (IsolateError, OSError) as error:
        _say(error)
        return _USAGE_ERROR
    # A time limit is for tests; the sandbox whose network it was in is gone.
    spec = replace(kept.spec, timeout=None, net=Net() if kept.spec.net.container else kept.spec.net)
    places = [place for place in kept.places if os.path.isdir(place)]
    pool = Pool(places=lambda: places, cgroup=options.cgroup, cwd=kept.cwd, depth=0)
    try:
        box = Sandbox(spec, pool=pool, kept=kept.path)
        return _run(box, pool, command or [os.environ.get("SHELL") or "/bin/sh"], cwd=kept.cwd)
    except IsolateError as error:
        _say(error)
        return _NOT_BUILT


def _refused(directory: str) -> str:
    """Why nothing can be kept at `directory`; empty if it can."""
    from pytest_isolate.sandbox.kept_directories import refusal

    try:
        if os.listdir(directory):
            return f"{directory} isn't empty; accepted: a directory that is empty, or that isn't there"
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"{directory}: {error.strerror}"
    place = os.path.dirname(os.path.abspath(directory))
    why = refusal(place)
    return f"nothing can be kept in {place}: {why}" if why else ""


def _budgets(options: argparse.Namespace) -> int:
    from pytest_isolate.model.units import counted
    from pytest_isolate.report.files import write
    from pytest_isolate.report.suggest_options import Refused, suggestion, with_table

    try:
        made, table = suggestion(options, os.getcwd())
        if not options.write:
            print(table, end="")
            return 0
        path = os.path.join(os.getcwd(), "pyproject.toml")
        write(path, with_table(path, table))
    except (Refused, OSError) as error:
        _say(error)
        return _USAGE_ERROR
    _say(f"{counted(len(made.entries), 'budget')} for {counted(made.tests, 'test')} added to {path}")
    return 0


def _say(what: object) -> None:
    print(f"pytest-isolate: {what}", file=sys.stderr)


def _report(options: argparse.Namespace) -> int:
    try:
        reports.make(options.document, options.output)
    except SpecError as error:
        _say(error)
        return _USAGE_ERROR
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from pytest_isolate.probe import cache
    from pytest_isolate.probe.examine import examine
    from pytest_isolate.report.doctor import painted, render_doctor
    from pytest_isolate.report.lines import Style

    key = cache.key_of(options.cgroup)
    try:
        report = examine(options.cgroup)
    except SpecError as error:
        _say(error)
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


def _run(
    box: Sandbox, pool: Pool, command: list[str], *, usage: bool = False, keep: str | None = None, cwd: str | None = None
) -> int:
    spec = box.spec
    try:
        with box:
            _print_network(box, pool.notes)
            started = time.monotonic()
            with _forwarding() as forward_to:
                try:
                    process = box.popen(command, foreground=True, cwd=cwd)
                except OSError as error:
                    print(f"pytest-isolate: {error.filename}: {error.strerror}", file=sys.stderr)
                    return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
                forward_to(process)
                status = _wait(box, process, spec.timeout)
            left = box.processes()
            used = replace(box.usage(), wall_seconds=time.monotonic() - started, leaked_processes=len(left))
            for info in left:
                print(f"pytest-isolate: left behind: {info}", file=sys.stderr)
            if usage:
                _print_usage(used)
            if keep and not _keep(box, keep):
                return status or 1
    finally:
        pool.close()
    return 1 if status == 0 and left and spec.leak == "fail" else status


def _keep(box: Sandbox, directory: str) -> bool:
    """Whether it could be done."""
    try:
        changes = box.keep(directory, {"cwd": os.getcwd()})
    except (IsolateError, OSError) as error:
        _say(error)
        return False
    _say(f"{len(changes)} changed paths kept in {os.path.abspath(directory)}")
    return True


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
