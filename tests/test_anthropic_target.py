from typing import Any

import pytest

from lossmask.converting import convert_row
from lossmask.errors import ConversationError
from lossmask.formats import to_normal


def said(role: str, content: object, **keys: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **keys}


def call(arguments: object = None) -> dict[str, Any]:
    function = {"name": "f", "arguments": {"q": None} if arguments is None else arguments}
    return {"id": "c", "type": "function", "function": function}


def test_a_conversation_with_tools_and_reasoning() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    row = {
        "messages": [
            said("system", "s"),
            said("user", "u"),
            said("assistant", "a", reasoning_content="r", tool_calls=[call()], weight=0.5),
            said("tool", "1", tool_call_id="c", is_error=False),
            said("tool", "2"),
            said("user", "go on"),
            said("assistant", "b"),
        ],
        "tools": [{"type": "function", "function": function}],
        "weight": 2.0,
    }
    converted, losses = convert_row(row, "anthropic")
    assert converted == {
        "system": "s",
        "messages": [
            said("user", "u"),
            said(
                "assistant",
                [
                    {"type": "thinking", "thinking": "r"},
                    {"type": "text", "text": "a"},
                    {"type": "tool_use", "name": "f", "id": "c", "input": {"q": None}},
                ],
                weight=0.5,
            ),
            said(
                "user",
                [
                    {
                        "type": "tool_result",
                        "content": "1",
                        "tool_use_id": "c",
                        "is_error": False,
                    },
                    {"type": "tool_result", "content": "2"},
                    {"type": "text", "text": "go on"},
                ],
            ),
            said("assistant", "b"),
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "weight": 2.0,
    }
    assert losses == []
    assert to_normal(converted) == row


def test_results_of_another_weight_and_empty_questions_stay_messages_of_their_own() -> None:
    row = {
        "messages": [
            said("tool", "1", weight=0.0),
            said("tool", "2"),
            said("user", ""),
            said("assistant", ""),
        ]
    }
    converted, losses = convert_row(row, "anthropic")
    assert len(converted["messages"]) == 4
    assert losses == []
    assert to_normal(converted) == row


@pytest.mark.parametrize(
    ("messages", "losses"),
    [
        (
            [said("user", "u"), said("system", "s")],
            [
                (
                    1,
                    "the message of the role system is left out: Anthropic has one system prompt, "
                    "before all messages",
                )
            ],
        ),
        (
            [said("developer", "d", weight=0.0)],
            [(0, "the role developer becomes system"), (0, "'weight' is left out")],
        ),
        ([said("system", "")], [(0, "an empty system message is left out")]),
        (
            [said("function", "1", name="f")],
            [(0, "the role function becomes tool"), (0, "'name' is left out")],
        ),
        (
            [said("user", [{"type": "audio"}])],
            [
                (0, "a part of the type 'audio' is left out"),
                (0, "an empty list of parts becomes an empty string"),
            ],
        ),
        (
            [said("user", [{"type": "text", "text": "a"}])],
            [(0, "a single part of text is read as a string")],
        ),
        (
            [said("assistant", "a", tool_calls=[call('{"q":  1}')])],
            [(0, "the arguments of a tool call become an object: their spelling is lost")],
        ),
        (
            [said("assistant", "a", weights=[{"path": "content", "start": 0, "end": 1}])],
            [(0, "the weights of ranges are left out")],
        ),
    ],
)
def test_what_anthropic_cannot_say(
    messages: list[dict[str, Any]], losses: list[tuple[int, str]]
) -> None:
    converted, found = convert_row({"messages": messages}, "anthropic")
    assert found == losses
    to_normal(converted)


@pytest.mark.parametrize("arguments", ["{", "[1]", 3])
def test_arguments_that_are_no_object_are_refused(arguments: object) -> None:
    row = {"messages": [said("assistant", "a", tool_calls=[call(arguments)])]}
    with pytest.raises(ConversationError, match="message 0: Anthropic's tool_use needs the argum"):
        convert_row(row, "anthropic")


@pytest.mark.parametrize(
    ("tool", "loss"),
    [
        ({"name": "f"}, "a tool of another shape stays as it is"),
        ({"type": "function", "function": {"name": "f"}}, "without parameters gets an empty"),
        (
            {"type": "function", "function": {"name": "f", "parameters": {}, "strict": True}},
            "a tool has only name, description and parameters",
        ),
        (
            {"type": "function", "function": {"name": "f", "parameters": {}}, "x": 1},
            "keys of a tool beside its function are left out",
        ),
    ],
)
def test_tools_of_other_shapes(tool: dict[str, Any], loss: str) -> None:
    _, losses = convert_row({"messages": [said("user", "u")], "tools": [tool]}, "anthropic")
    assert [index for index, _ in losses] == [None]
    assert loss in losses[0][1]
