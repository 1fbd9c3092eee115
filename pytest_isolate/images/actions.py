"""What the command line's `layers` does and prints: see `command` for what it takes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from pytest_isolate.images.bar import bar
from pytest_isolate.images.choosing import Chosen, choose
from pytest_isolate.images.compression import Limits
from pytest_isolate.images.export import export
from pytest_isolate.images.holding import take_alone
from pytest_isolate.images.prune import last_used, prune
from pytest_isolate.images.store import Store
from pytest_isolate.images.verify import verify
from pytest_isolate.model.errors import IsolateError
from pytest_isolate.model.image import Source
from pytest_isolate.model.units import format_duration, format_size

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Exit status: 1 where something is wrong, or was found wrong."""
    actions: dict[str, Callable[[Store, argparse.Namespace], int]] = {
        "list": _list, "inspect": _inspect, "import": _import, "export": _export, "verify": _verify, "prune": _prune,
    }  # fmt: skip
    try:
        with Store(options.store, max_layer=getattr(options, "layer_size", None) or Limits().size) as store:
            return actions[options.action](store, options)
    except IsolateError as error:
        print(f"pytest-isolate: {error}", file=sys.stderr)
        return 1


def _list(store: Store, options: argparse.Namespace) -> int:
    store.place.exists()
    layers = store.place.layers()
    used = last_used(store, (layer.chain for layer in layers))
    images = store.all_images()
    kept = [each for each in store.all_kept() if each.chain in used]
    if options.json:
        shown = [{**layer.to_json(), "used": used.get(layer.chain)} for layer in layers]
        print(json.dumps({
            "store": store.path, "images": [record.to_json() for record in images.values()],
            "kept": [each.to_json() for each in kept], "layers": shown,
        }, indent=1))  # fmt: skip
        return 0
    now = time.time()
    sizes = {layer.chain: layer.size for layer in layers}
    rows = [
        ["image", record.name or "-", str(len(record.chains)), format_size(sum(sizes.get(chain, 0) for chain in record.chains)),
         _ago(now, used.get(record.chains[-1] if record.chains else "")), record.source]
        for record in images.values()
    ]  # fmt: skip
    rows += [
        ["made", each.name or "-", "1", format_size(sizes[each.chain]), _ago(now, used.get(each.chain)), each.chain[:12]]
        for each in kept
    ]
    rows += [
        ["layer", layer.chain[:12], "1", format_size(layer.size), _ago(now, used.get(layer.chain)), layer.source]
        for layer in layers
    ]
    _table([["", "NAME", "LAYERS", "SIZE", "LAST USED", "SOURCE"], *rows])
    print(f"{store.path}: {len(layers)} layers, {format_size(sum(sizes.values()))}")
    return 0


def _ago(now: float, used: float | None) -> str:
    if used is None:
        return "-"
    return f"{format_duration(max(0, round(now - used)))} ago" if now - used < 86400 else f"{int((now - used) // 86400)} days ago"


def _table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def _inspect(store: Store, options: argparse.Namespace) -> int:
    store.place.exists()
    chosen = choose(store, options.name)
    used = last_used(store, (layer.chain for layer in chosen.layers))
    about: dict[str, Any] = {}
    if chosen.image is not None:
        about["image"] = chosen.image.to_json()
    if chosen.kept is not None:
        about["kept"] = chosen.kept.to_json()
    about["layers"] = [
        {
            **layer.to_json(), "directory": f"{store.place.layer(layer.chain)}/diff", "used": used.get(layer.chain),
            "in_use": _in_use(store.place.layer(layer.chain)),
        }
        for layer in chosen.layers
    ]  # fmt: skip
    print(json.dumps(about, indent=1))
    return 0


def _in_use(layer: str) -> bool:
    fd = take_alone(layer)
    if fd is not None:
        os.close(fd)
    return fd is None


def _import(store: Store, options: argparse.Namespace) -> int:
    try:
        source = Source.read(options.source, os.getcwd())
    except ValueError as error:
        return int(options.refuse(str(error)))  # ends the process
    if source.kind in ("host", "layer", "directory") and not (source.kind == "directory" and not os.path.isdir(source.path)):
        options.refuse(f"{options.source}: import takes an image or an archive; a directory is used where it lies")
    if source.kind == "directory":
        source = Source("tarball", source.path)
    with bar() as progress:
        record = store.image(source, progress, options.name)
    for note in record.notes:
        print(f"pytest-isolate: {note}", file=sys.stderr)
    for chain in record.chains:
        print(chain)
    return 0


def _export(store: Store, options: argparse.Namespace) -> int:
    store.place.exists()
    with bar() as progress:
        export(store, choose(store, options.name), options.path, progress)
    return 0


def _verify(store: Store, options: argparse.Namespace) -> int:
    store.place.exists()
    chosen = [choose(store, name) for name in options.names] or [Chosen(tuple(store.place.layers()))]
    layers = {layer.chain: layer for each in chosen for layer in each.layers}
    wrong = 0
    with bar() as progress:
        for layer, altered in verify(store, layers.values(), progress):
            if altered and progress is not None:
                progress(None)
            wrong += bool(altered)
            for line in altered:
                print(f"{layer.chain[:12]}: {line}")
    print(f"{len(layers)} layers read, {wrong or 'none'} altered", file=sys.stderr)
    return 1 if wrong else 0


def _prune(store: Store, options: argparse.Namespace) -> int:
    done = prune(store, max_size=options.max_size, unused_for=options.unused_for, everything=options.all)
    for layer in done.removed:
        print(f"{layer.chain[:12]}  {format_size(layer.size)}  {layer.source}")
    for layer in done.in_use:
        print(f"pytest-isolate: in use, left: {layer.chain[:12]}  {layer.source}", file=sys.stderr)
    print(
        f"{len(done.removed)} removed, {format_size(sum(layer.size for layer in done.removed))}; {format_size(done.left)} left",
        file=sys.stderr,
    )
    return 0
