"""`model.spec` and `model.layers`: equality, JSON, contradictions, precedence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_isolate.model.image import Code, ImageConfig, Source, Stack
from pytest_isolate.model.layers import Layer, merge
from pytest_isolate.model.net import Bandwidth, Net, Publish
from pytest_isolate.model.spec import IoLimit, Spec, contradictions

FULL = Spec(
    cpu=0.2, memory=64 << 20, swap=0, pids=9, disk=1 << 20, io=IoLimit(1, None, "/d"), net=Net("bridge", network="n", aliases=("a",)), publish=(Publish(80),), bandwidth=Bandwidth(rx=8000), forward="none", timeout=5.0, rootfs=(Source("oci", "/i", "t"),), upper="disk", stack=Stack(("/l",), False, ImageConfig((("A", "1"),), "u"), ("n",)), code=Code(("/t",), ("/p",), "/r"), writable=("/w",),
    hide=("/h",), env=(("A", "1"), ("B", None)), hostname="box", user=1000, fixtures="inside", leak="fail",
    budget=(("cpu", 1.0), ("pids", 3)),
)  # fmt: skip


def test_spec_survives_json() -> None:
    assert Spec.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL
    assert hash(Spec.from_json(json.loads(json.dumps(FULL.to_json())))) == hash(FULL)


def test_bare_spec_is_empty_as_json() -> None:
    assert Spec().to_json() == {}
    assert Spec.from_json({}) == Spec()


def test_json_of_a_later_version_with_more_keys_is_read() -> None:
    assert Spec.from_json({"pids": 3, "unheard_of": 1}) == Spec(pids=3)


def test_specs_that_differ_in_what_the_test_process_does_share_a_sandbox() -> None:
    assert (
        FULL.sandbox()
        == Spec.from_json(
            {**FULL.to_json(), "timeout": 9.0, "env": [], "fixtures": "shared", "leak": "report", "budget": {"cpu": 2.0}}
        ).sandbox()
    )
    assert FULL.sandbox() != Spec().sandbox()


def test_weakened_spec_has_the_given_keys_at_their_defaults() -> None:
    assert FULL.without(["memory", "swap"]) == Spec.from_json(
        {k: v for k, v in FULL.to_json().items() if k not in ("memory", "swap")}
    )


@pytest.mark.parametrize(
    "values,key",
    [
        ({"disk": 2 << 20, "memory": 1 << 20}, "disk+memory"),
        ({"disk": 3 << 20, "memory": 1 << 20, "swap": 1 << 20}, "disk+memory"),
        ({"swap": 1}, "swap+memory"),
        ({"swap": 0}, "swap+memory"),
        ({"writable": ("/",)}, "writable"),
        ({"writable": ("/proc/self",)}, "writable"),
        ({"writable": ("/dev",)}, "writable"),
        ({"writable": ("/a/b",), "hide": ("/a",)}, "hide+writable"),
        ({"writable": ("/a",), "hide": ("/a/b",)}, "hide+writable"),
        ({"hide": ("/",)}, "hide"),
        ({"hide": ("/proc",)}, "hide"),
        ({"hostname": "x" * 64, "net": Net("bridge", network="bridge")}, "hostname+net"),
        ({"hostname": "a..b", "net": Net("bridge", network="bridge")}, "hostname+net"),
    ],
)
def test_contradiction_is_found_and_names_its_keys(values: dict[str, Any], key: str) -> None:
    (error,) = contradictions(Spec(**values))
    assert error.key == key
    assert error.accepted


@pytest.mark.parametrize(
    "values",
    [
        {}, {"disk": 1 << 20, "memory": 1 << 20}, {"disk": 2 << 20, "memory": 1 << 20, "swap": 1 << 20}, {"disk": 2 << 20, "memory": 1 << 20, "upper": "disk"}, {"disk": 1 << 20}, {"memory": 1 << 20, "swap": 0},
        {"writable": ("/a",), "hide": ("/ab",)}, {"writable": ("/devices",)}, {"hide": ("/proc/cpuinfo",)},
        {"hostname": "x" * 64}, {"hostname": "a.b", "net": Net("bridge", network="bridge")},
    ],
)  # fmt: skip
def test_spec_without_contradiction_is_accepted(values: dict[str, Any]) -> None:
    assert contradictions(Spec(**values)) == []


def test_closest_layer_wins_key_by_key_and_the_origin_of_each_key_is_known() -> None:
    merged = merge(
        [
            Layer("marker", {"cpu": 1.0, "env": (("A", "1"),)}),
            Layer("profile", {"cpu": 2.0, "pids": 3}),
            Layer("ini", {"env": (("B", "2"),), "pids": 4}),
        ]
    )
    assert merged.spec == Spec(cpu=1.0, pids=3, env=(("A", "1"),))
    assert merged.places == {"cpu": "marker", "env": "marker", "pids": "profile"}
    assert merged.errors == ()


def test_contradiction_between_layers_names_the_place_of_each_key() -> None:
    (error,) = merge([Layer("the marker", {"memory": 1 << 20}), Layer("the ini file", {"disk": 2 << 20})]).errors
    assert error.place == "disk of the ini file, memory of the marker"


def test_contradiction_within_a_layer_names_it_once() -> None:
    (error,) = merge([Layer("the marker", {"memory": 1 << 20, "disk": 2 << 20})]).errors
    assert error.place == "the marker"


def test_key_that_lacks_its_companion_is_accepted_while_closer_layers_are_to_come() -> None:
    assert merge([Layer("option", {"swap": 0})], partial=True).errors == ()
    (error,) = merge([Layer("option", {"swap": 0})]).errors
    assert error.place == "option"
    assert len(merge([Layer("option", {"disk": 2 << 20, "memory": 1 << 20})], partial=True).errors) == 1


def test_spec_without_its_network_has_nothing_of_bridges() -> None:
    spec = Spec(net=Net("bridge", network="n"), publish=(Publish(80),), bandwidth=Bandwidth(rx=8000), pids=3)
    assert spec.without(["net"]) == Spec(pids=3)
    assert spec.without(["bandwidth"]) == Spec(net=Net("bridge", network="n"), publish=(Publish(80),), pids=3)
