"""Virtual machines as a test tier: `python -m tests.vm [--only VARIANT …] [--tests SELECTION] [--write] [-- TESTARGS]`, or `tox -e vm`.

Each variant is booted in software emulation, the project's tests are run in it by each user, their reports are brought back; the exit
status is 1 if anything failed, anywhere; 125 if there was no machine. `--write` puts the results into `docs/reference/support.json` and the table of
`docs/reference/support.md`. Needs root and Debian's mmdebstrap, e2fsprogs and qemu-system-x86; for the variant
`arm64` qemu-system-arm, qemu-user-static and arch-test.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError
from typing import Final

from tests.vm.channel import Unreachable
from tests.vm.commands import COMMANDS, split
from tests.vm.commands import __doc__ as commands_doc
from tests.vm.images import ROOT, NotInstalled, demand_tools, image
from tests.vm.machines import BootFailed
from tests.vm.page import DATA, PAGE, write
from tests.vm.releases import VARIANTS, Variant
from tests.vm.results import VariantResult, load, save
from tests.vm.selections import SELECTIONS
from tests.vm.tier import Tier, TierError
from tests.vm.users import USERS

_SECONDS: Final = {"essence": 900, "contract": 3600, "full": 7200}


def main() -> int:
    arguments = sys.argv[1:]
    try:
        if arguments and arguments[0] in COMMANDS:
            return COMMANDS[arguments[0]](arguments[1:])
        return _tier(arguments)
    except (NotInstalled, BootFailed, Unreachable, TierError, CalledProcessError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 125


def _tier(arguments: Sequence[str]) -> int:
    own, _, tests = split(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm", description=__doc__, epilog=commands_doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT", help=", ".join(VARIANTS)
    )
    parser.add_argument("--user", nargs="+", choices=USERS, default=(), help="default: the variant's")
    parser.add_argument("--tests", choices=SELECTIONS, default="essence", help="see tests/vm/selections.py (default: essence)")
    parser.add_argument("--full", action="store_const", dest="tests", const="full", help="the same as --tests full")
    parser.add_argument(
        "--parallel", type=int, default=os.cpu_count() or 1, help="machines at a time (default: one for each CPU)"
    )
    parser.add_argument("--seconds", type=float, help=f"that one user's tests may take (default: {_SECONDS})")
    parser.add_argument("--out", type=Path, default=ROOT / "build/vm", help="for logs and reports (default build/vm)")
    parser.add_argument("--write", action="store_true", help=f"put the results into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args(own)
    lock = threading.Lock()
    start = time.monotonic()

    def say(line: str) -> None:
        with lock:
            print(f"{time.monotonic() - start:5.0f} s  {line}", flush=True)

    tier = Tier(
        out=options.out,
        tests=tuple(tests) or SELECTIONS[options.tests],
        seconds=options.seconds or _SECONDS[options.tests],
        say=say,
        users=options.user,
    )
    variants = [VARIANTS[name] for name in options.only]
    for variant in variants:
        demand_tools(variant)
    for variant in variants:
        image(variant)
    results, bad = _run_all(tier, variants, options.parallel)
    if options.write:
        kept = load(DATA)
        for name in kept.keys() & results.keys() if options.user else ():  # the other users' results still hold
            results[name] = replace(results[name], suites={**kept[name].suites, **results[name].suites})
        save(DATA, {**kept, **results})
        write()
    for name in bad:
        say(f"{name}: failed, see {options.out}/{name}")
    return 1 if bad else 0


def _run_all(tier: Tier, variants: Sequence[Variant], parallel: int) -> tuple[dict[str, VariantResult], list[str]]:
    """The results of the variants that brought some, and the names of those that failed in any way."""
    results, bad = {}, []
    with ThreadPoolExecutor(parallel) as pool:
        for variant, future in [(variant, pool.submit(tier.run, variant)) for variant in variants]:
            try:
                results[variant.name] = result = future.result()
            except Exception as error:  # the other variants go on
                tier.say(f"{variant.name}: {''.join(traceback.format_exception(error))}")
                bad.append(variant.name)
            else:
                if not result.good:
                    bad.append(variant.name)
    return results, bad


if __name__ == "__main__":
    sys.exit(main())
