"""Ranges of characters that the data weighs."""

from __future__ import annotations

from typing import Any

import pytest

from lossmask import ConversationError
from lossmask.conversation import read_conversation
from lossmask.message_weights import WeightedRange
from tests.scenarios import Message, assistant, user


def read(message: Message) -> tuple[WeightedRange, ...]:
    conversation = read_conversation([user("q"), message])
    assert "weights" not in conversation.messages[1]
    return conversation.ranges.get(1, ())


def test_ranges_are_sorted_and_name_their_string() -> None:
    message = assistant(
        "abcdef",
        reasoning_content="xyz",
        weights=[
            {"start": 3, "end": 6, "weight": 0},
            {"start": 0, "end": 1, "weight": 2, "path": "reasoning_content"},
            {"start": 0, "end": 3, "weight": -0.5},
        ],
    )
    assert read(message) == (
        WeightedRange("content", 0, 3, -0.5),
        WeightedRange("content", 3, 6, 0.0),
        WeightedRange("reasoning_content", 0, 1, 2.0),
    )
    assert read(assistant("a", weights=[])) == ()
    assert read(assistant("a", weights=None)) == ()


def test_ranges_reach_into_parts_and_calls() -> None:
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": "abc"}],
        "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}],
        "weights": [
            {"path": "content/0/text", "start": 0, "end": 3, "weight": 1},
            {"path": "tool_calls/0/function/arguments", "start": 0, "end": 8, "weight": 1},
        ],
    }
    assert [item.path for item in read(message)] == [
        "content/0/text",
        "tool_calls/0/function/arguments",
    ]


def test_every_name_of_a_loss_is_read_and_taken_off() -> None:
    conversation = read_conversation(
        [
            user("q") | {"masked": True},
            assistant("ab", train_detail=[{"begin_offset": 0, "end_offset": 0, "train": False}]),
            assistant([{"type": "text", "text": "ab", "weight": 0.5}], loss_scale=2),
        ]
    )
    assert conversation.messages == (
        user("q"),
        assistant("ab"),
        assistant([{"type": "text", "text": "ab"}]),
    )
    assert conversation.weights == (0.0, 1.0, 2.0)
    assert conversation.ranges == {
        1: (WeightedRange("content", 0, 2, 0.0),),
        2: (WeightedRange("content/0/text", 0, 2, 0.5),),
    }


@pytest.mark.parametrize(
    "weights", ["x", [{"start": 0, "end": 4, "weight": 1}], [{"start": 0, "end": 1}]]
)
def test_what_is_no_range_is_refused_with_its_message(weights: Any) -> None:
    with pytest.raises(ConversationError) as info:
        read(assistant("abc", weights=weights))
    assert info.value.message_index == 1


@pytest.mark.parametrize("weight", ["1", True, float("inf"), 1e300])
def test_the_weight_of_a_row_is_a_number(weight: Any) -> None:
    with pytest.raises(ConversationError, match="'weight' must be a finite number"):
        read_conversation([user("q"), assistant("a")], None, weight)
