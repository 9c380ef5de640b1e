from typing import Any

import pytest

from lossmask.anthropic_rows import anthropic_row
from lossmask.errors import ConversationError
from lossmask.layout import Layout

USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"q": None}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "42", "is_error": True}


def text(value: str, **keys: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **keys}


def read(*messages: tuple[str, Any], **row: Any) -> dict[str, Any]:
    listed = [{"role": role, "content": content} for role, content in messages]
    return anthropic_row({"messages": listed, **row}, Layout())


def test_a_conversation_with_tools_and_thinking() -> None:
    row = read(
        ("user", [text("hi", cache_control={"type": "ephemeral"})]),
        (
            "assistant",
            [{"type": "thinking", "thinking": "hm", "signature": "s"}, text("Look."), USE],
        ),
        ("user", [RESULT, text("go on")]),
        ("assistant", "done"),
        system=[text("Be kind.")],
        tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
    )
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": {"q": None}}}
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert row == {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": "Look.",
                "reasoning_content": "hm",
                "tool_calls": [call],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "42", "is_error": True},
            {"role": "user", "content": "go on"},
            {"role": "assistant", "content": "done"},
        ],
        "tools": [{"type": "function", "function": function}],
    }


def test_texts_and_pictures_stay_parts_and_weights_of_blocks_become_ranges() -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "x"}}
    row = read(("user", [picture, text("what?")]), ("assistant", [text("a", train=False)]))
    assert row["messages"][0]["content"] == [picture, text("what?")]
    assert row["messages"][1] == {
        "role": "assistant",
        "content": [text("a")],
        "weights": [{"path": "content/0/text", "start": 0, "end": 1, "weight": 0.0}],
    }


def test_results_may_hold_blocks_or_nothing() -> None:
    several = {"type": "tool_result", "tool_use_id": "a", "content": [text("x"), text("y")]}
    empty = {"type": "tool_result", "tool_use_id": "b"}
    assert read(("user", [several, empty]))["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": [text("x"), text("y")]},
        {"role": "tool", "tool_call_id": "b", "content": ""},
    ]


def test_an_empty_answer_with_calls_only() -> None:
    assert read(("assistant", [USE]))["messages"][0]["content"] == ""


@pytest.mark.parametrize(
    ("role", "content", "message"),
    [
        ("assistant", [text("a"), {"type": "thinking", "thinking": "b"}], "blocks are text, reaso"),
        ("assistant", [USE, text("a")], "the blocks are tool_call, text: chat templates"),
        ("user", [text("a"), RESULT], "a tool_result stands behind text"),
        ("assistant", [RESULT], "cannot say a block of the type 'tool_result'"),
        ("user", [USE], "a block of the type 'tool_use' cannot stand here"),
        ("assistant", [{"type": "redacted_thinking", "data": "x"}], "'redacted_thinking' is not r"),
        ("assistant", [text("a", mood="b")], "has the unknown key 'mood'"),
        ("assistant", [{**USE, "input": "x"}], "'input' of a tool_use must be an object"),
        ("assistant", 3, "must be a string or a list of blocks, got int 3"),
        ("system", [RESULT], "a tool_result stands in a message of the role 'system'"),
    ],
)
def test_what_the_openai_form_cannot_express_is_refused(
    role: str, content: object, message: str
) -> None:
    with pytest.raises(ConversationError, match=message):
        read((role, content))


def test_tools_of_the_server_are_refused() -> None:
    tool = {"type": "bash_20250124", "name": "bash", "input_schema": {}}
    with pytest.raises(ConversationError, match="the tool 'bash' has keys that templates cannot"):
        read(("user", "hi"), tools=[tool])


def test_two_system_messages_are_refused() -> None:
    with pytest.raises(ConversationError, match="begin with a system message"):
        read(("system", "a"), system=[text("b")])
