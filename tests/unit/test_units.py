"""`model.units`: what is read, what is refused, and that nothing in between is guessed."""

from __future__ import annotations

import random

import pytest

from pytest_isolate.model.units import format_duration, format_size, parse_cpu, parse_duration, parse_rate, parse_size, shown


@pytest.mark.parametrize(
    "text,cpus",
    [
        ("20%", 0.2),
        (0.2, 0.2),
        (2, 2.0),
        ("150%", 1.5),
        ("2", 2.0),
        (" 50 % ", 0.5),
        ("1%", 0.01),
        (0.01, 0.01),
        ("8192", 8192.0),
    ],
)
def test_cpu_share_is_read_as_a_number_of_cpus(text: object, cpus: float) -> None:
    assert parse_cpu(text) == pytest.approx(cpus)
    assert isinstance(parse_cpu(text), float)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20 bananas",
        "20%%",
        "-20%",
        -1,
        0,
        "0%",
        0.009,
        True,
        None,
        "nan",
        float("nan"),
        float("inf"),
        "1e3",
        "20m",
        8193,
        10**400,
        [1],
        b"20%",
    ],
    ids=shown,
)
def test_cpu_share_that_cannot_be_meant_is_refused_with_the_value(text: object) -> None:
    with pytest.raises(ValueError, match=r"quantity|unit|CPU|measure") as refusal:
        parse_cpu(text)
    assert shown(text) in str(refusal.value)


@pytest.mark.parametrize(
    "text,size",
    [
        (0, 0), (1048576, 1048576), ("1048576", 1048576), ("64MiB", 64 << 20), ("64 MiB", 64 << 20), ("1.5GB", 1_500_000_000), ("1.5GiB", 3 << 29),
        ("1kB", 1000), ("1KiB", 1024), ("1TB", 10**12), ("1TiB", 1 << 40), ("7B", 7), ("9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_size_is_read_in_bytes_exactly(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "64m",
        "64M",
        "64mb",
        "64mib",
        "1.5",
        "1.5B",
        1.5,
        -1,
        "-1",
        True,
        None,
        "64 MiB/s",
        "0x10",
        "1_000",
        "８MB",
        "9" * 20 + "TB",
        2**63,
    ],
)
def test_size_that_is_ambiguous_or_impossible_is_refused_with_the_value(text: object) -> None:
    with pytest.raises(ValueError, match=r"quantity|unit|bytes|measure|kernel") as refusal:
        parse_size(text)
    assert shown(text) in str(refusal.value)


@pytest.mark.parametrize(
    "text,rate",
    [(1048576, 1048576), ("1048576", 1048576), ("10MB/s", 10_000_000), ("512KiB/s", 512 << 10), ("1 MB/s", 1_000_000)],
)
def test_rate_is_read_in_bytes_per_second(text: object, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["10MB", "10mbit", "10MB/min", 0, "0", "0B/s", -5, "/s", True, None])
def test_rate_without_its_unit_or_of_nothing_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"/s|quantity|unit|stops|measure"):
        parse_rate(text)


@pytest.mark.parametrize(
    "text,seconds",
    [
        (2, 2.0),
        (0.5, 0.5),
        ("500ms", 0.5),
        ("5s", 5.0),
        ("2min", 120.0),
        ("1h", 3600.0),
        ("5", 5.0),
        ("1.5 s", 1.5),
        ("20us", 2e-5),
    ],
)
def test_duration_is_read_in_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", [0, "0s", -1, "5m", "5 sec", "", None, True, "1h30min", "inf", "169h", "9" * 30 + "ms", 10**400], ids=shown
)
def test_duration_that_cannot_be_meant_is_refused_with_the_value(text: object) -> None:
    with pytest.raises(ValueError, match=r"quantity|unit|ends|week|measure") as refusal:
        parse_duration(text)
    assert shown(text) in str(refusal.value)


@pytest.mark.parametrize(
    "size,text",
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (64 << 20, "64.0 MiB"), (3 << 29, "1.5 GiB"), (1 << 40, "1.0 TiB")],
)
def test_size_is_shown_in_the_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize("seconds,text", [(0.0012, "1.2 ms"), (0.5, "500 ms"), (3.45, "3.45 s"), (125, "2 min 05 s")])
def test_duration_is_shown_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_reading_random_text_gives_a_number_or_a_value_error_and_never_anything_else() -> None:
    rng = random.Random(2)
    alphabet = "0123456789.%eE+- /sMiBkGTmnhu\0\u0660é"
    for _ in range(20_000):
        text = "".join(rng.choices(alphabet, k=rng.randrange(12)))
        for parse in (parse_cpu, parse_size, parse_rate, parse_duration):
            try:
                value = parse(text)
            except ValueError:
                continue
            assert value >= 0, (parse, text)


def test_value_is_shown_short_and_without_an_error_of_its_own() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown("64m") == "'64m'"
    assert shown(Rude()) == "<Rude object>"
    assert len(shown("x" * 1000)) == 200
