from typing import Any

import pytest

from lossmask.errors import ConversationError
from lossmask.harmony_rows import harmony_row
from lossmask.layout import Layout


def said(channel: str | None, content: object, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "channel": channel, "content": content, **keys}


def called(name: str, arguments: str = "{}") -> dict[str, Any]:
    return said("commentary", arguments, recipient=f"functions.{name}", content_type="json")


def read(*messages: dict[str, Any], **row: Any) -> dict[str, Any]:
    return harmony_row({"messages": list(messages), **row}, Layout())


def test_a_conversation_with_channels() -> None:
    described = {"name": "f", "description": "d", "parameters": None}
    developer = {
        "type": "developer_content",
        "instructions": "Be kind.",
        "tools": {"functions": {"name": "functions", "description": None, "tools": [described]}},
    }
    row = read(
        {"role": "developer", "content": [developer]},
        {"role": "user", "content": "hi"},
        said("analysis", "hm"),
        said("commentary", "Let me look."),
        called("f", '{"a": 1}'),
        called("f"),
        {
            "author": {"role": "tool", "name": "functions.f"},
            "recipient": "assistant",
            "channel": "commentary",
            "content": [{"type": "text", "text": "42"}],
        },
        said("final", [{"type": "text", "text": "42."}], train=False),
    )

    def call(arguments: str) -> dict[str, Any]:
        return {"type": "function", "function": {"name": "f", "arguments": arguments}}

    assert row == {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "reasoning_content": "hm",
                "content": "Let me look.",
                "tool_calls": [call('{"a": 1}'), call("{}")],
            },
            {"role": "tool", "content": "42", "name": "f"},
            {"role": "assistant", "content": "42.", "weight": 0.0},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d"}}],
    }


def test_what_our_renderer_writes_is_read_back() -> None:
    library = pytest.importorskip("openai_harmony")
    from lossmask.harmony_renderer import harmony_messages

    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "content": "Let me look.",
            "tool_calls": [call, call],
        },
        {"role": "tool", "content": "42", "name": "f"},
        {"role": "assistant", "reasoning_content": "so", "content": "42."},
    ]
    tools = [{"type": "function", "function": {"name": "f", "description": "d"}}]
    groups = harmony_messages(messages, tools, library.SystemContent.new())
    written = [part.to_dict() for group in groups for part in group][1:]  # without its own system
    assert harmony_row({"messages": written}, Layout()) == {"messages": messages, "tools": tools}


def test_after_a_final_answer_the_next_message_begins() -> None:
    row = read(said("final", "a"), said("analysis", "r"), said("final", "b"))
    assert row["messages"] == [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "reasoning_content": "r", "content": "b"},
    ]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([said("analysis", "a"), said("analysis", "b")], "turn is analysis, analysis"),
        ([called("f"), said("analysis", "b")], "the assistant's turn is call, analysis"),
        ([said("commentary", "a"), said("final", "b")], "turn is preamble, final"),
        ([called("f"), said("final", "b")], "turn is call, final"),
        ([said("commentary", "a")], "message 0: the assistant's turn ends in preamble"),
        (
            [said("analysis", "a"), {"role": "user", "content": "b"}],
            "message 0: the assistant's turn ends in analysis",
        ),
        ([said("thoughts", "a")], "unknown channel 'thoughts'; known: analysis"),
        ([said("commentary", "a", recipient="python")], "the recipient 'python' is no function"),
        ([said("final", "a", recipient="functions.f")], "of the channel final has the recipient"),
        ([said("analysis", "a", train=False), said("final", "b")], "have different weights"),
        ([said("final", ["x", "y"])], "'content' must be a string, got a list"),
        (
            [{"role": "system", "content": [{"type": "system_content"}]}],
            "'system_content' is what the template writes itself",
        ),
        ([{"role": "tool", "name": "browser.open", "content": "x"}], "browser.open is no function"),
    ],
)
def test_turns_that_the_openai_form_cannot_express(
    messages: list[dict[str, Any]], text: str
) -> None:
    with pytest.raises(ConversationError, match=text):
        read(*messages)
