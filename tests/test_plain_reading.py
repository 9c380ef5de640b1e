"""What a plain template yields is read as text, with who wrote what and where messages end."""

from __future__ import annotations

from typing import Any

import pytest

from lossmask.look_ahead import Watch
from lossmask.plain_reading import PlainReading, Unreadable
from lossmask.template_environment import TracedMessage
from lossmask.traced_text import Mark, concat, leaf_text, mark_text


def message(index: int) -> TracedMessage:
    return TracedMessage({"role": "user"}, index)


def read(rendering: list[Any], count: int = 2) -> PlainReading:
    watch = Watch()
    watch.begin(count)
    reading = PlainReading(watch)
    reading.read(rendering)
    return reading


WHOLE = [
    "<s>",
    message(0),
    ("<u>", leaf_text("Hi", 0), "</u>"),
    None,
    message(1),
    "<a>",
    concat(("[", leaf_text("Ho", 1)[1:], "]")),
    None,
]


def test_pieces_sums_and_runs_make_up_the_text() -> None:
    reading = read(WHOLE)
    assert "".join(reading.pieces) == "<s><u>Hi</u><a>[o]"
    assert reading.runs == [(6, 2, 0), (16, 1, 1 << 32 | 1)]
    assert reading.ends(2) == {1: 12, 2: 18}


def test_messages_before_the_loop_are_in_the_first_end() -> None:
    reading = read(["<s>", leaf_text("S", 0), message(1), "u", None, message(2), "a", None], 3)
    assert reading.ends(3) == {1: 4, 2: 5, 3: 6}


@pytest.mark.parametrize(
    "rendering",
    [
        [message(0), "u", None, message(1), "a", None, "<eos>"],  # text behind the loop
        [message(0), "u", None],  # a loop that ends early
        [message(1), "u", None, message(0), "a", None],
        ["all of it"],
    ],
)
def test_without_each_message_once_in_order_only_the_whole_is_known(rendering: list[Any]) -> None:
    reading = read(rendering)
    assert reading.ends(2) == {2: len("".join(reading.pieces))}


def test_what_was_looked_at_too_early_holds_no_beginning() -> None:
    watch = Watch()
    watch.begin(2)
    reading = PlainReading(watch)

    def rendering() -> Any:
        yield message(0)
        watch.read(1)  # is there another one?
        yield "u"
        yield None
        yield message(1)
        yield "a"
        yield None

    reading.read(rendering())
    assert reading.ends(2) == {2: 2}


@pytest.mark.parametrize(
    "rendering",
    [
        [message(0), message(1)],
        [None],
        [message(0), None, None],
        [("a", 1, "b")],
        [7],
        [mark_text(Mark("start", 0))],
        [leaf_text("x", 0), ("a", type("Odd", (str,), {})("b"), "c")],
    ],
)
def test_what_cannot_be_read_is_said(rendering: list[Any]) -> None:
    with pytest.raises(Unreadable):
        read(rendering)
