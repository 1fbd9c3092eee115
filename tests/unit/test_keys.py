"""`model.keys` and `model.parse`: one table for every place where keys are typed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.image import Source
from pytest_isolate.model.keys import KEYS
from pytest_isolate.model.net import Net
from pytest_isolate.model.parse import parse_key, parse_keys
from pytest_isolate.model.spec import IoLimit, Spec

FOUND = ("scratch", "stack", "code", "project")
"""What others find out about a spec, and nobody types."""


def test_table_has_exactly_the_fields_of_a_spec() -> None:
    assert list(KEYS) == [field.name for field in fields(Spec) if field.name not in FOUND]


@pytest.mark.parametrize("name", KEYS)
def test_example_of_a_key_is_accepted_as_text(name: str) -> None:
    key = KEYS[name]
    parse_key(name, [key.example] if key.many else key.example, "/base", text=True)


@pytest.mark.parametrize("name", KEYS)
def test_value_of_no_known_type_is_refused_naming_the_key_and_its_form(name: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse_key(name, object(), "/base")
    assert str(refusal.value).startswith(f"{name}: <object object")
    assert str(refusal.value).endswith(f"; accepted: {KEYS[name].accepted}")


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize(
    "value", [None, True, -1, 1.5, "", "x", b"x", [], [1], {}, {"a": 1}, (), {1}, 10**400, float("nan"), "\0"], ids=repr
)
def test_any_value_is_either_read_or_refused(name: str, value: Any) -> None:
    with contextlib.suppress(SpecError):
        parse_key(name, value, "/base")


@pytest.mark.parametrize("name", KEYS)
def test_help_texts_of_a_key_are_one_line_each(name: str) -> None:
    key = KEYS[name]
    for text in (key.help, key.accepted, key.default, key.form(text=True)):
        assert text
        assert "\n" not in text


def test_form_of_text_has_no_quotes_to_copy() -> None:
    assert KEYS["cpu"].form(text=True) == "share of one CPU: 20%, 0.2, 2, 150%"
    assert KEYS["env"].form(text=True).startswith("NAME=VALUE")


@pytest.mark.parametrize(
    "name,value,read",
    [
        ("pids", 64, 64), ("pids", "64", 64),
        ("swap", 0, 0),
        ("user", "root", "root"), ("user", 0, 0), ("user", "1000", 1000),
        ("hostname", "box-1.local", "box-1.local"), ("hostname", "a" * 64, "a" * 64),
        ("env", {"B": "2", "A": None}, (("A", None), ("B", "2"))),
        ("writable", ["build", Path("/x/../y"), "build"], ("/base/build", "/y")),
        ("hide", ("//etc//passwd",), ("/etc/passwd",)),
        ("io", {"read": "10MB/s", "path": "data"}, IoLimit(10_000_000, None, "/base/data")),
        ("io", {"write": 5}, IoLimit(None, 5)),
        ("net", "host", Net("host")), ("fixtures", "inside", "inside"), ("leak", "fail", "fail"), ("rootfs", "host", ()), ("upper", "disk", "disk"),
        ("rootfs", ["host", "d"], (Source("host"), Source("directory", "/base/d"))), ("rootfs", "r.tar.gz", (Source("tarball", "/base/r.tar.gz"),)),
        ("rootfs", "oci:a:b/c", (Source("oci", "/base/a:b/c"),)), ("rootfs", "docker-archive:a:1.0", (Source("docker-archive", "/base/a", "1.0"),)),
        ("rootfs", Path("/d"), (Source("directory", "/d"),)), ("rootfs", "layer:pg", (Source("layer", "pg"),)),
    ],
)  # fmt: skip
def test_object_is_read(name: str, value: Any, read: Any) -> None:
    assert parse_key(name, value, "/base") == read


@pytest.mark.parametrize(
    "name,value,problem",
    [
        ("pids", 0, "0 leaves no task for the test itself"),
        ("pids", 2.0, "2.0 is not a whole number"),
        ("pids", 1 << 30, "more than Linux can have"),
        ("memory", "64KiB", "less than 1 MiB"),
        ("disk", 4096, "no room"),
        ("io", {"read": "10MB"}, "read: '10MB' has no '/s'"),
        ("io", {"rread": 1}, "unknown entry 'rread'"),
        ("io", {"path": "/"}, "neither 'read' nor 'write'"),
        ("io", {"read": 1, "path": ""}, "'' is not a path"),
        ("net", "bridged", "'bridged' is no network mode"),
        ("hostname", "-x", "not a host name"),
        ("hostname", "a" * 65, "not a host name"),
        ("hostname", "a\n", "not a host name"),
        ("user", -1, "-1 is not accepted"),
        ("user", 2**32 - 1, "not accepted"),
        ("env", {"A=B": "1"}, "'A=B' can't be a variable's name"),
        ("env", {"A": 1}, "A=1 is not a string"),
        ("env", {"A": "\0"}, "is not a string"),
        ("writable", "build", "'build' is not a list"),
        ("writable", [b"build"], "b'build' is not a path"),
        ("hide", ["a\0b"], "is not a path"),
    ],
)
def test_object_that_cannot_be_meant_is_refused_with_the_reason(name: str, value: Any, problem: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse_key(name, value, "/base")
    assert problem in refusal.value.problem


@pytest.mark.parametrize(
    "name,value,read",
    [
        ("cpu", "20%", 0.2),
        ("io", "read=10MB/s, write=1MB/s,path=/data", IoLimit(10_000_000, 1_000_000, "/data")),
        ("env", ["A=1", "B=x=y", "C="], (("A", "1"), ("B", "x=y"), ("C", ""))),
        ("writable", ["build", "/x"], ("/base/build", "/x")),
    ],
)
def test_text_is_read(name: str, value: Any, read: Any) -> None:
    assert parse_key(name, value, "/base", text=True) == read


@pytest.mark.parametrize(
    "name,value,problem",
    [
        ("io", "10MB/s", "'10MB/s' is not NAME=VALUE"),
        ("io", "read=1,read=2", "gives an entry twice"),
        ("env", ["TZ"], "'TZ' is not NAME=VALUE"),
        ("env", ["=x"], "'' can't be a variable's name"),
        ("cpu", "", "'' is not a quantity"),
    ],
)
def test_text_that_cannot_be_meant_is_refused_with_the_form_of_text(name: str, value: Any, problem: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse_key(name, value, "/base", text=True)
    assert problem in refusal.value.problem
    assert refusal.value.accepted == KEYS[name].form(text=True)


def test_home_is_expanded_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_key("hide", ["~/.ssh"], "/base") == ("/home/me/.ssh",)


def test_every_error_of_a_place_is_found_and_names_it() -> None:
    values, errors = parse_keys({"cpu": "x", "pids": 4, "mem": 1, "net": 3}, "/", "the place", also=("profile",))
    assert values == {"pids": 4}
    assert [error.key for error in errors] == ["cpu", "mem", "net"]
    assert all(error.place == "the place" for error in errors)
    assert errors[1].accepted == ", ".join((*KEYS, "profile"))


def test_table_is_imported_without_the_readers_of_values() -> None:
    code = "import sys; import pytest_isolate.model.keys; print(*sorted(m for m in sys.modules if m == 'dataclasses' or 'isolate' in m))"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=True
    )
    assert done.stdout.split() == ["pytest_isolate", "pytest_isolate.model", "pytest_isolate.model.keys"]
