"""What a template of sealed contents yields is read as text with its places."""

from __future__ import annotations

from typing import Any

import pytest

from lossmask.look_ahead import Watch
from lossmask.sealed_reading import SealedReading, SealedText, Unreadable
from lossmask.sealed_text import Questions, Sealed
from lossmask.template_environment import TracedMessage


def message(index: int) -> TracedMessage:
    return TracedMessage({"role": "user"}, index)


CONTENTS = ["Hi", "Hello", "S"]
QUESTIONS = Questions(CONTENTS)


def sealed(*parts: str | int) -> Sealed:
    return Sealed(parts, QUESTIONS)


def read(rendering: list[Any], count: int = 2) -> SealedReading:
    watch = Watch()
    watch.begin(count)
    reading = SealedReading(CONTENTS, watch)
    reading.read(rendering)
    return reading


WHOLE = [
    "<s>",
    message(0),
    sealed("<u>", 0, "</u>"),
    None,
    message(1),
    "<a>",
    sealed("[", 1),
    "]",
    None,
]


def test_literals_and_contents_make_up_the_text() -> None:
    reading = read(WHOLE)
    text = "".join(reading.pieces)
    assert text == "<s><u>Hi</u><a>[Hello]"
    assert reading.written == [(0, 6, 8), (1, 16, 21)]
    assert reading.ends(2) == {1: 12, 2: 22}
    parts = SealedText(text, reading.written, {}, {}).parts()
    assert parts == ["<s><u>", 0, "</u><a>[", 1, "]"]


def test_messages_before_the_loop_are_in_the_first_end() -> None:
    reading = read(["<s>", sealed(2), message(1), "u", None, message(2), "a", None], 3)
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
    reading = SealedReading(CONTENTS, watch)

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
        [message(0), message(1), None],
        ["u", None],
        [message(0), "u", None, None],
        [message(0), "u", None, message(1), "a"],
    ],
)
def test_marks_that_do_not_match_hold_no_beginning(rendering: list[Any]) -> None:
    reading = read(rendering)
    assert reading.ends(2) == {2: len("".join(reading.pieces))}


@pytest.mark.parametrize("piece", [7, ("a", "b"), b"a"])
def test_what_is_no_text_is_not_read(piece: Any) -> None:
    with pytest.raises(Unreadable):
        read([piece])
