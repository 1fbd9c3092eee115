"""Frames: what goes in comes out, or its stand-in with a note; pieces in any cut."""

from __future__ import annotations

import enum
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_isolate.plugin.wire import Inbox, Line, decode, encode, pair, send


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1.5, "ü\u2028\0", [], (), {}, (1, (2, [3, ()])), {"a": (None,)}, {1: "int", (1, 2): "tuple", None: 0},
        {"()": [1]}, {"{}": {"()": (1,)}}, [{"a": {"b": ({},)}}], "x" * 100_000, 10**40,
    ],
)  # fmt: skip
def test_plain_values_come_back_equal_and_of_the_same_type(value: Any) -> None:
    data, notes = encode({"value": value})
    back = decode(data)["value"]
    assert back == value
    assert type(back) is type(value)
    assert notes == []


@pytest.mark.parametrize(
    "value,shown", [(Colour.RED, 1), (Text("x"), "x"), (Path("/a"), "/a"), (True, True)], ids=["IntEnum", "str", "Path", "bool"]
)
def test_subclasses_come_back_as_what_they_are_without_a_note(value: Any, shown: Any) -> None:
    data, notes = encode({"value": [value]})
    assert decode(data)["value"] == [shown]
    assert notes == []


def test_objects_are_replaced_by_their_repr_with_a_note_each() -> None:
    data, notes = encode({"value": [object, b"x", {1}]})
    assert [type(part) for part in decode(data)["value"]] == [str] * 3
    assert len(notes) == 3


def test_endless_structure_ends_in_a_note() -> None:
    endless: list[Any] = []
    endless.append(endless)
    _, notes = encode({"value": endless})
    assert notes


def test_surrogates_are_escaped_with_one_note() -> None:
    data, notes = encode({"value": ["\udcff", ("\udce9",), {"\udc00": 1}]})
    assert decode(data)["value"] == ["\\udcff", ("\\udce9",), {"\\udc00": 1}]
    assert len(notes) == 1


@pytest.mark.parametrize("cut", [1, 3, 5, 1000])
def test_frames_are_put_together_from_any_pieces(cut: int) -> None:
    ours, theirs = pair()
    inbox = Inbox(ours)
    frames = [{"number": number, "text": "x" * number * 7} for number in range(20)]
    read, write = os.pipe()
    for frame in frames:
        send(write, encode(frame)[0])
    os.close(write)
    with os.fdopen(read, "rb") as source:
        data = source.read()
    found = []
    for start in range(0, len(data), cut):
        os.write(theirs, data[start : start + cut])
        assert inbox.drain()
        while (frame := inbox.next()) is not None:
            found.append(frame)
    assert found == frames
    os.close(theirs)
    assert not inbox.drain()
    os.close(ours)


def test_line_asks_and_gets_the_answer_also_of_a_large_question() -> None:
    ours, theirs = pair()
    inbox, line = Inbox(ours), Line(theirs)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(line.ask({"text": "x" * 1_000_000})))
    thread.start()
    frame = None
    while frame is None:
        inbox.drain()
        frame = inbox.next()
    assert len(frame["text"]) == 1_000_000
    send(ours, encode({"answer": (1, 2), "id": frame["id"]})[0])
    thread.join()
    assert answers == [{"answer": (1, 2), "id": frame["id"]}]
    os.close(ours)
    with pytest.raises(EOFError):
        line.receive()
    os.close(theirs)


def test_each_of_many_threads_gets_its_own_answer_in_whatever_order_they_come() -> None:
    ours, theirs = pair()
    inbox, line = Inbox(ours), Line(theirs)
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = line.ask({"question": number})["answer"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    asked = []
    while len(asked) < len(threads):
        inbox.drain()
        while (frame := inbox.next()) is not None:
            asked.append(frame)
    send(ours, encode({"turn": True})[0])
    for frame in reversed(asked):
        send(ours, encode({"answer": frame["question"], "id": frame["id"]})[0])
    for thread in threads:
        thread.join(10)
    assert answers == {number: number for number in range(20)}
    assert line.receive() == {"turn": True}
    os.close(ours)
    os.close(theirs)


def test_answer_to_an_interrupted_question_is_taken_for_no_other() -> None:
    ours, theirs = pair()
    line = Line(theirs)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            line.ask({"question": 1})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    send(ours, encode({"answer": "late", "id": 1})[0])
    send(ours, encode({"answer": "in time", "id": 2})[0])
    assert line.ask({"question": 2})["answer"] == "in time"
    os.close(ours)
    os.close(theirs)


def test_garbage_is_an_error_and_not_a_frame() -> None:
    ours, theirs = pair()
    send(theirs, b"\xff not JSON")
    inbox = Inbox(ours)
    inbox.drain()
    with pytest.raises(UnicodeDecodeError):
        inbox.next()
    os.close(ours)
    os.close(theirs)
