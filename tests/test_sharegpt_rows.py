from typing import Any

import pytest

from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.sharegpt_rows import sharegpt_row


def read(*turns: tuple[str, str], **row: Any) -> dict[str, Any]:
    listed = [{"from": name, "value": value} for name, value in turns]
    return sharegpt_row({"conversations": listed, **row}, Layout())


def test_calls_and_results() -> None:
    row = read(
        ("human", "hi"),
        ("function_call", '{"name": "f", "arguments": {"a": [1]}}'),
        ("observation", "1"),
        ("function_call", '[{"name": "f"}, {"name": "g"}]'),
        ("function", "2"),
        ("chatgpt", "bye"),
        system="Be kind.",
        tools='[{"name": "f", "parameters": {}}]',
    )
    function = {"name": "f", "arguments": {"a": [1]}}
    pair = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    assert row["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": function}],
        },
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "", "tool_calls": pair},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "bye"},
    ]
    assert row["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def test_weights_and_other_keys_of_a_message_stay() -> None:
    turn = {"from": "gpt", "value": "a", "weight": 0, "name": "Bob", "train": None}
    assert sharegpt_row({"conversation": [turn]}, Layout())["messages"] == [
        {"role": "assistant", "content": "a", "name": "Bob", "weight": 0.0}
    ]


def test_axolotls_details_count_the_value() -> None:
    details = [
        {"begin_offset": 0, "end_offset": 8, "train": False},
        {"begin_offset": 9, "end_offset": 18, "train": True},
        {"begin_offset": 19, "end_offset": 30, "train": False},
    ]
    turn = {"from": "gpt", "value": "I'm doing very well, thank you!", "train_detail": details}
    message = sharegpt_row({"conversations": [turn]}, Layout())["messages"][0]
    assert message["weight"] == 1.0
    assert [(each["start"], each["end"], each["weight"]) for each in message["weights"]] == [
        (0, 9, 0.0),
        (19, 31, 0.0),
    ]


def test_exchanges_of_swift() -> None:
    row = {"conversation": [{"human": "a", "assistant": "b"}, {"user": "c", "gpt": "d"}]}
    assert [message["content"] for message in sharegpt_row(row, Layout())["messages"]] == list(
        "abcd"
    )


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"from": "gpt"}, "the key 'value' is missing; keys found: from"),
        ({"value": "x"}, "the key 'from' is missing; keys found: value"),
        ({"from": "gpt", "role": "gpt", "value": "x"}, "has both 'from' and 'role'"),
        ({"from": "gpt", "value": 3}, "'value' must be a string, got int 3"),
        ({"from": "alien", "value": "x"}, "unknown role 'alien'"),
        ({"human": "x", "user": "y"}, "the key 'from' is missing"),
    ],
)
def test_turns_that_cannot_be_read(turn: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        sharegpt_row({"conversations": [turn]}, Layout())


def test_keys_that_are_no_strings_are_no_speakers() -> None:
    said = {1: "a", None: [], "human": "hi", "assistant": "hey"}
    with pytest.raises(ConversationError, match="the key 'from' is missing; keys found: 1, None"):
        sharegpt_row({"conversations": [said]}, Layout())
