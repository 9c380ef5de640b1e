from typing import Any

import pytest

from lossmask.converting import TARGETS, convert_row
from lossmask.errors import ConversationError
from lossmask.formats import to_normal
from tests import corpus

FUNCTION = {"name": "f", "arguments": {"q": "é", "n": None}}
CALL = {"type": "function", "function": FUNCTION}
JSON_CALL = '{"name": "f", "arguments": {"q": "é", "n": null}}'
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
JSON_TOOLS = '[{"type": "function", "function": {"name": "f", "parameters": {}}}]'


def said(role: str, content: object, **keys: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **keys}


def out(start: int, end: int, path: str = "content", weight: float = 0.0) -> dict[str, Any]:
    return {"path": path, "start": start, "end": end, "weight": weight}


CHAT: dict[str, Any] = {
    "messages": [
        said("system", "s"),
        said("user", "u", weight=0.0),
        said("assistant", "a", tool_calls=[CALL], weight=1.0),
        said("tool", "t"),
        said("assistant", "b"),
    ],
    "tools": [TOOL],
}


def test_openai_is_the_normal_form() -> None:
    row = {**CHAT, "weight": 0.5}
    converted, losses = convert_row(row, "openai")
    assert (converted, losses) == (row, [])
    assert converted["messages"][0] is not row["messages"][0]


def test_axolotl() -> None:
    row = {
        "messages": [
            said("user", "abcdef", weight=0.0),
            said("assistant", "abcdef", weight=1.0, weights=[out(1, 3), out(5, 6)], name="x"),
        ],
        "tools": [TOOL],
    }
    converted, losses = convert_row(row, "axolotl")
    details = [(0, 0, True), (1, 2, False), (3, 4, True), (5, 5, False)]
    assert converted == {
        "messages": [
            said("user", "abcdef", train=False),
            {
                **said("assistant", "abcdef", train=True, name="x"),
                "train_detail": [
                    {"begin_offset": start, "end_offset": end, "train": is_trained}
                    for start, end, is_trained in details
                ],
            },
        ],
        "tools": [TOOL],
    }
    assert losses == []
    assert to_normal(converted) == row


@pytest.mark.parametrize(
    ("message", "train", "losses"),
    [
        (said("assistant", "ab", weight=0.5), True, ["weight 0.5 becomes train: true"]),
        (said("assistant", "ab", weight=-1.0), False, ["weight -1 becomes train: false"]),
        (said("assistant", "ab", prefill="a"), None, ["'prefill' is left out"]),
        (
            said("assistant", "ab", weights=[out(0, 1)]),
            True,
            ["the characters outside the ranges become train: true for any policy"],
        ),
        (
            said("user", "ab", weights=[out(0, 1, weight=1.0)]),
            True,
            [
                "the characters outside the ranges become train: false for any policy",
                "the weights of ranges become train: true or false",
            ],
        ),
        (
            said("assistant", "ab", weight=1.0, weights=[out(0, 1, weight=0.5)]),
            True,
            ["the weights of ranges become train: true or false"],
        ),
        (
            said("assistant", "ab", weight=0.0, weights=[out(0, 1)]),
            False,
            ["the weights of ranges become train: true or false"],
        ),
        (
            said("assistant", "", reasoning_content="r", weights=[out(0, 1, "reasoning_content")]),
            None,
            ["the weights of reasoning_content are left out"],
        ),
    ],
)
def test_what_axolotl_cannot_say(
    message: dict[str, Any], train: bool | None, losses: list[str]
) -> None:
    converted, found = convert_row({"messages": [message]}, "axolotl")
    assert converted["messages"][0].get("train") is train
    assert found == [(0, what) for what in losses]
    to_normal(converted)


def test_swift() -> None:
    converted, losses = convert_row(CHAT, "swift")
    assert converted == {
        "messages": [
            said("system", "s"),
            said("user", "u", loss=False),
            said("assistant", "a", loss=True),
            said("tool_call", JSON_CALL, loss=True),
            said("tool_response", "t"),
            said("assistant", "b"),
        ],
        "tools": JSON_TOOLS,
    }
    assert losses == []
    assert to_normal(converted) == CHAT


def test_what_swift_cannot_say() -> None:
    row = {
        "messages": [
            said("developer", "d"),
            said("user", "u", weight=1.0),
            said("assistant", None, tool_calls=[{"id": "c", **CALL}], reasoning_content="r"),
            said("tool", "t", tool_call_id="c"),
            said("assistant", "b", weight=0.5, weights=[out(0, 1)]),
        ],
        "weight": 2.0,
    }
    converted, losses = convert_row(row, "swift")
    assert losses == [
        (0, "the role developer becomes system"),
        (1, "ms-swift trains no message of the role user"),
        (2, "null content becomes an empty string"),
        (2, "'reasoning_content' is left out"),
        (2, "the ids of tool calls are left out"),
        (3, "'tool_call_id' is left out"),
        (4, "the weights of ranges are left out"),
        (4, "weight 0.5 becomes loss: true"),
        (None, "the sample weight 2 is left out"),
    ]
    assert converted["messages"][4] == said("assistant", "b", loss=True)


def test_swift_joins_calls_to_the_answer_before_them() -> None:
    row = {"messages": [said("assistant", "a"), said("assistant", "", tool_calls=[CALL])]}
    converted, losses = convert_row(row, "swift")
    assert losses == [(1, "the tool calls become part of the message before")]
    assert to_normal(converted)["messages"] == [said("assistant", "a", tool_calls=[CALL])]
    row["messages"][0]["weight"] = 0.0
    with pytest.raises(ConversationError, match="message 1: ms-swift joins a tool call"):
        convert_row(row, "swift")


def test_sharegpt() -> None:
    row: dict[str, Any] = {
        "messages": [
            said("system", "s"),
            said("user", "u", weight=0.0),
            said("assistant", "", tool_calls=[CALL, CALL], weight=-0.5),
            said("tool", "t"),
            said("assistant", "b"),
        ],
        "tools": [TOOL],
        "weight": 2.0,
    }
    converted, losses = convert_row(row, "sharegpt")
    assert converted == {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "u", "weight": 0.0},
            {"from": "function_call", "value": f"[{JSON_CALL}, {JSON_CALL}]", "weight": -0.5},
            {"from": "observation", "value": "t"},
            {"from": "gpt", "value": "b"},
        ],
        "tools": JSON_TOOLS,
        "weight": 2.0,
    }
    assert losses == []
    assert to_normal(converted) == row


def test_what_sharegpt_cannot_say() -> None:
    row = {
        "messages": [
            said("function", "t", name="f"),
            said("assistant", "a", tool_calls=[CALL], weights=[out(0, 1)]),
        ],
        "tools": [{"name": "f"}],
    }
    converted, losses = convert_row(row, "sharegpt")
    assert [turn["from"] for turn in converted["conversations"]] == [
        "observation",
        "gpt",
        "function_call",
    ]
    assert losses == [
        (0, "the role function becomes tool"),
        (0, "'name' is left out"),
        (1, "the weights of ranges are left out"),
        (1, "text and tool calls become two messages"),
        (None, "tools without 'type' and 'function' are read as functions"),
    ]


def test_alpaca() -> None:
    row: dict[str, Any] = {
        "messages": [
            said("system", "s"),
            said("user", "1"),
            said("assistant", "2"),
            said("user", "3\n\n### Input:\n4"),
            said("assistant", "5"),
        ],
        "weight": 2.0,
    }
    converted, losses = convert_row(row, "alpaca")
    assert converted == {
        "instruction": "3\n\n### Input:\n4",
        "input": "",
        "output": "5",
        "weight": 2.0,
        "system": "s",
        "history": [["1", "2"]],
    }
    assert losses == []
    assert to_normal(converted) == row


def test_what_alpaca_cannot_say() -> None:
    row = {
        "messages": [
            said("system", ""),
            said("assistant", "x"),
            said("user", "1", weight=0.0),
            said("user", "2"),
            said("assistant", "3", tool_calls=[CALL]),
            said("tool", "4"),
            said("user", "5"),
        ],
        "tools": [TOOL],
    }
    converted, losses = convert_row(row, "alpaca")
    assert converted == {"instruction": "1", "input": "", "output": "3"}
    assert losses == [
        (None, "the tools are left out: Alpaca has none"),
        (2, "'weight' is left out"),
        (4, "'tool_calls' is left out"),
        (5, "the message of the role tool is left out"),
        (0, "an empty system message is left out"),
        (1, "a message of the role assistant is left out: turns do not alternate"),
        (3, "a message of the role user is left out: turns do not alternate"),
        (6, "the last question has no answer and is left out"),
    ]
    with pytest.raises(ConversationError, match="Alpaca needs a question of the user"):
        convert_row({"messages": [said("user", "1")]}, "alpaca")


def test_text_becomes_segments_and_tokens_labels() -> None:
    row = {"text": "abcd", "weights": [{"start": 1, "end": 3, "weight": 1.0}]}
    converted, losses = convert_row(row, "axolotl")
    labels = [("a", False), ("bc", True), ("d", False)]
    assert converted == {"segments": [{"label": label, "text": text} for text, label in labels]}
    assert losses == []
    assert to_normal(converted) == row
    tokens = {"input_ids": [5, 6, 7], "loss_weights": [0.0, 1.0, 1.0]}
    converted, losses = convert_row(tokens, "axolotl")
    assert converted == {
        "input_ids": [5, 6, 7],
        "labels": [-100, 6, 7],
        "attention_mask": [1, 1, 1],
    }
    assert losses == []
    assert to_normal(converted) == tokens


def test_what_segments_and_labels_cannot_say() -> None:
    row = {"text": "abcd", "weights": [{"start": 1, "end": 3, "weight": -1.0}], "weight": 2.0}
    assert convert_row(row, "axolotl")[1] == [
        (None, "weight -1 becomes label: false"),
        (None, "the sample weight 2 is left out"),
    ]
    tokens = {"input_ids": [5, 6, 7], "loss_weights": [0.5, -1.0, 1.0]}
    converted, losses = convert_row(tokens, "axolotl")
    assert converted["labels"] == [5, -100, 7]
    assert losses == [
        (None, "weight -1 becomes a label out of the loss"),
        (None, "weight 0.5 becomes a label in the loss"),
    ]


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "axolotl"])
def test_text_is_no_conversation(target: str) -> None:
    with pytest.raises(ConversationError, match=f"a row of text cannot be said .* {target!r}"):
        convert_row({"text": "a", "weights": []}, target)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ConversationError, match="cannot convert to 'sharegtp'; did you mean 'shar"):
        convert_row(CHAT, "sharegtp")


@corpus.needs_corpus
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", corpus.dataset_names())
def test_published_rows_read_back_or_their_losses_are_reported(name: str, target: str) -> None:
    for given in corpus.rows(name, limit=60):
        row = to_normal(given)
        try:
            converted, losses = convert_row(row, target)
        except ConversationError:
            assert target in ("alpaca", "anthropic")
            continue
        read = to_normal(converted)
        assert losses or read == row
        is_plain = all(set(message) == {"role", "content"} for message in row["messages"])
        if is_plain and target in ("openai", "axolotl", "swift", "sharegpt") and not losses:
            assert read == row
