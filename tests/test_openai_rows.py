import copy
from typing import Any

import pytest

from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.openai_rows import openai_row

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":  null}'}}


def read(*messages: dict[str, Any], **row: Any) -> dict[str, Any]:
    return openai_row({"messages": list(messages), **row}, Layout())


def test_calls_and_tools_stay_as_they_are() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
        {"role": "assistant", "content": "done", "reasoning_content": "r", "prefill": "do"},
    ]
    row = {"messages": messages, "tools": tools, "parallel_tool_calls": True, "id": 3}
    before = copy.deepcopy(row)
    assert openai_row(row, Layout()) == {"messages": messages, "tools": tools}
    assert row == before
    assert openai_row({**row, "tools": '[{"name": "g"}]'}, Layout())["tools"] == [{"name": "g"}]


def test_messages_may_be_json_as_in_csv() -> None:
    assert openai_row({"messages": '[{"role": "user", "content": "hi"}]'}, Layout()) == {
        "messages": [{"role": "user", "content": "hi"}]
    }


def test_a_refusal_is_what_the_model_said() -> None:
    row = read({"role": "assistant", "content": None, "refusal": "No."})
    assert row["messages"] == [{"role": "assistant", "content": "No."}]
    row = read({"role": "assistant", "content": "Yes.", "refusal": None})
    assert row["messages"] == [{"role": "assistant", "content": "Yes."}]
    part = {"type": "refusal", "refusal": "No.", "train": True}
    row = read({"role": "assistant", "content": [part]})
    assert row["messages"][0]["content"] == [{"type": "text", "text": "No."}]
    assert row["messages"][0]["weights"] == [
        {"path": "content/0/text", "start": 0, "end": 3, "weight": 1.0}
    ]
    with pytest.raises(ConversationError, match="both 'content' and a 'refusal'"):
        read({"role": "assistant", "content": "Yes.", "refusal": "No."})


def test_an_old_function_call_becomes_a_tool_call() -> None:
    row = read(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "x"},
        functions=[{"name": "f"}],
    )
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert row["messages"] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "f", "content": "x"},
    ]
    assert row["tools"] == [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(ConversationError, match="both 'function_call' and 'tool_calls'"):
        read({"role": "assistant", "function_call": {"name": "f"}, "tool_calls": [CALL]})
    with pytest.raises(ConversationError, match="'function_call' must be an object with 'name'"):
        read({"role": "assistant", "function_call": "f"})
    assert read({"role": "function", "content": "x"})["messages"][0]["role"] == "function"


def test_swifts_calls_join_the_answer_before_them() -> None:
    row = read(
        {"role": "user", "content": "w"},
        {"role": "assistant", "content": "Let me see.", "loss": True},
        {"role": "tool_call", "content": '{"name": "f", "arguments": {}}', "loss": True},
        {"role": "tool_call", "content": '{"name": "g", "arguments": {}}', "loss": True},
        {"role": "tool_response", "content": "1"},
        {"role": "tool_call", "content": '{"name": "h", "arguments": {}}'},
    )
    assert [message["role"] for message in row["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    first, second = row["messages"][1], row["messages"][3]
    assert [call["function"]["name"] for call in first["tool_calls"]] == ["f", "g"]
    assert (first["content"], first["weight"]) == ("Let me see.", 1.0)
    assert second == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "h", "arguments": {}}}],
    }


def test_swifts_call_with_another_loss_is_refused() -> None:
    with pytest.raises(ConversationError, match=r"message 1: .*different weights \(0.0 and 1.0\)"):
        read(
            {"role": "assistant", "content": "Let me see.", "loss": False},
            {"role": "tool_call", "content": '{"name": "f"}', "loss": True},
        )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "x"}, "message 0: the key 'role' is missing; keys found: content"),
        ({"role": "asistant", "content": "x"}, "did you mean 'assistant'"),
        ({"role": "user", "content": ["x"]}, "a part of 'content' must be an object, got a string"),
        ({"role": "tool_call"}, "the key 'content' is missing"),
    ],
)
def test_messages_that_cannot_be_read(message: dict[str, Any], text: str) -> None:
    with pytest.raises(ConversationError, match=text):
        read(message)
