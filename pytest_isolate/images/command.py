"""The command line's `layers`: what is in the store, what goes in and out of it, and whether it is whole.

Only what it takes: `run` and `doctor` read this too, and have no use for the store.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

from pytest_isolate.model.units import parse_duration, parse_size

__all__ = ["add_parser", "run"]

_DAYS: Final = {"d": 86400, "w": 7 * 86400}


def add_parser(commands: Any) -> None:
    """The part of the command line that is about layers."""
    layers = commands.add_parser(
        "layers",
        help="the layer store: images, and layers that tests made",
        description="The store of layers that rootfs= stacks.",
    )
    actions = layers.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.add_argument(
            "--store", metavar="DIRECTORY", help="the store (default: pytest-isolate in $XDG_DATA_HOME, or in ~/.local/share)"
        )
        return made

    listed = action("list", "list images and layers")
    listed.add_argument("--json", action="store_true", help="print JSON")
    inspected = action("inspect", "print as JSON all that is known of an image or a layer")
    inspected.add_argument("name", metavar="NAME|CHAIN", help="of an image or a layer; of a chain id the first digits do")
    imported = action("import", "unpack an image or an archive, unless that is done")
    imported.add_argument(
        "source", metavar="SOURCE", help="oci:PATH[:TAG], docker-archive:PATH[:TAG], or a *.tar, *.tar.gz, *.tar.xz, *.tar.zst"
    )
    imported.add_argument("--name", default="", help="a name to find it by")
    imported.add_argument(
        "--max-size", dest="layer_size", type=parse_size, metavar="SIZE", help="what one layer may come to (default: 20GB)"
    )
    exported = action("export", "write a layer as a tar archive, an image as an OCI layout")
    exported.add_argument("name", metavar="NAME|CHAIN", help="of an image or a layer; of a chain id the first digits do")
    exported.add_argument("path", metavar="PATH", help="a file; of an image a new directory, or a file that ends in .tar")
    verified = action("verify", "read layers and name every path that isn't as it was when it was put in")
    verified.add_argument("names", nargs="*", metavar="NAME|CHAIN", help="which (default: all)")
    pruned = action("prune", "remove layers, those unused for longest first; never one in use")
    pruned.add_argument("--max-size", type=parse_size, metavar="SIZE", help="until what is left is no larger")
    pruned.add_argument(
        "--unused-for", type=_duration, metavar="DURATION", help="those that nobody used for so long: 12h, 30d, 2w"
    )
    pruned.add_argument("--all", action="store_true", help="every one that isn't in use")
    layers.set_defaults(refuse=layers.error)


def run(options: argparse.Namespace) -> int:
    """Exit status: 1 where something is wrong, or was found wrong, 2 for what can't be meant."""
    from pytest_isolate.images import actions

    if options.action == "prune" and options.max_size is None and options.unused_for is None and not options.all:
        options.refuse("prune needs --max-size, --unused-for or --all")
    return actions.run(options)


def _duration(text: str) -> float:
    if match := re.fullmatch(r"(\d{1,5})([dw])", text.strip(), re.ASCII):
        return float(int(match[1]) * _DAYS[match[2]])
    return parse_duration(text)
