"""LLaMA-Factory's messages of valued parts -> the normal form.

``{"role": "assistant", "content": [{"type": "reasoning", "value": ...}, {"type": "text", "value":
...}, {"type": "tool_call", "value": JSON}], "loss_weight": 1.0}``
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossmask.chat_rows import (
    chat_row,
    check_order,
    missing_key,
    renamed_keys,
    role_of,
    text_or_parts,
    turns_key,
    with_system,
)
from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.row_values import Row, call_from_json, kind, objects, shown, string
from lossmask.weight_keys import with_weights

_TYPES = ("text", "reasoning", "tool_call")


def llamafactory_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read a row whose messages hold parts with a ``value``.

    Raises:
        ConversationError: Names the message, and the part that cannot be read.
    """
    messages = []
    key = turns_key(row)
    for index, each in enumerate(objects(row[key], key)):
        message = renamed_keys(each, layout, index)
        for needed in ("role", "content"):
            if message.get(needed) is None:
                raise missing_key(each, needed, index)
        message["role"] = role_of(message["role"], layout, index)
        if isinstance(message["content"], list):
            message = _with_plain_content(message, index)
        messages.append(with_weights(message, index))
    return chat_row(row, with_system(row, messages), wrap_tools=True)


def _with_plain_content(message: Row, index: int) -> Row:
    by_type: dict[str, list[str]] = {name: [] for name in _TYPES}
    order = []
    for part in message["content"]:
        if not isinstance(part, Mapping) or not {"type", "value"} == set(part):
            raise ConversationError(
                f"a part of 'content' must be an object with 'type' and 'value', got {kind(part)}",
                message_index=index,
            )
        if part["type"] not in _TYPES:
            raise ConversationError(
                f"a part of the type {shown(part['type'])} is not read; known: {', '.join(_TYPES)}",
                message_index=index,
            )
        by_type[part["type"]].append(string(part["value"], "value", index))
        order.append(part["type"])
    check_order(order, index, "parts")
    plain = {**message, "content": text_or_parts(by_type["text"]) or ""}
    if by_type["reasoning"]:
        plain["reasoning_content"] = by_type["reasoning"][0]
    calls = [call for text in by_type["tool_call"] for call in call_from_json(text, "value", index)]
    if calls:
        plain["tool_calls"] = calls
    if message["role"] != "assistant" and set(order) - {"text"}:
        raise ConversationError(
            f"a message of the role {message['role']!r} can hold text only", message_index=index
        )
    return plain
