from typing import Any

import pytest

from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.llamafactory_rows import llamafactory_row


def part(name: str, value: object) -> dict[str, Any]:
    return {"type": name, "value": value}


def test_parts_become_reasoning_content_and_calls() -> None:
    row = {
        "messages": [
            {"role": "user", "content": [part("text", "hi")], "loss_weight": 0.0},
            {
                "role": "assistant",
                "content": [
                    part("reasoning", "hm"),
                    part("tool_call", '{"name": "f", "arguments": {}}'),
                    part("tool_call", '{"name": "g", "arguments": {}}'),
                ],
                "loss_weight": 0.5,
            },
            {"role": "tool", "content": "x"},
        ],
        "tools": '[{"name": "f"}]',
    }
    calls = [
        {"type": "function", "function": {"name": name, "arguments": {}}} for name in ("f", "g")
    ]
    assert llamafactory_row(row, Layout()) == {
        "messages": [
            {"role": "user", "content": "hi", "weight": 0.0},
            {
                "role": "assistant",
                "content": "",
                "weight": 0.5,
                "reasoning_content": "hm",
                "tool_calls": calls,
            },
            {"role": "tool", "content": "x"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }


@pytest.mark.parametrize(
    ("role", "content", "message"),
    [
        ("assistant", [part("text", "a"), part("reasoning", "b")], "parts are text, reasoning"),
        ("user", [part("reasoning", "b")], "of the role 'user' can hold text only"),
        ("user", [part("image_url", "b")], "a part of the type 'image_url' is not read"),
        ("user", [{"type": "text", "text": "b"}], "must be an object with 'type' and 'value'"),
        ("user", [part("text", 3)], "'value' must be a string, got int 3"),
    ],
)
def test_parts_that_cannot_be_read(role: str, content: object, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        llamafactory_row({"messages": [{"role": role, "content": content}]}, Layout())
