"""ShareGPT conversations -> the normal form.

``{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}``, also
``{"human": "hi", "assistant": "hello"}`` per exchange. ``function_call`` holds a call as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossmask.chat_rows import (
    ROLE_NAMES,
    chat_row,
    missing_key,
    renamed_keys,
    role_of,
    turns_key,
    with_system,
)
from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.row_values import Row, call_from_json, objects, string
from lossmask.weight_keys import with_weights


def sharegpt_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read a row of ShareGPT.

    Raises:
        ConversationError: Names the message and key, what was expected and what was found.

    Example:
        >>> sharegpt_row({"conversations": [{"from": "gpt", "value": "hi"}]}, Layout())
        {'messages': [{'role': 'assistant', 'content': 'hi'}]}
    """
    key = turns_key(row)
    messages: list[Row] = []
    for index, each in enumerate(objects(row[key], key)):
        message = renamed_keys(each, layout, index)
        if message.get("content") is None:
            message.pop("content", None)
        if "from" not in message and "role" not in message:
            messages += _exchange(message, layout, index)
            continue
        messages.append(with_weights(_message(message, layout, index), index))
    return chat_row(row, with_system(row, messages), wrap_tools=True)


def _message(message: Row, layout: Layout, index: int) -> Row:
    names = [("role", "from"), ("content", "value")]
    for ours, theirs in names:
        if (ours in message) == (theirs in message):
            if ours in message:
                raise ConversationError(
                    f"the message has both {theirs!r} and {ours!r}", message_index=index
                )
            raise missing_key(message, theirs, index)
    role = role_of(message.get("from", message.get("role")), layout, index, calls=True)
    value = message.get("value", message.get("content"))
    rest = {k: v for k, v in message.items() if k not in ("from", "value", "role", "content")}
    if role == "tool_call":
        calls = call_from_json(value, "value", index)
        return {"role": "assistant", "content": "", **rest, "tool_calls": calls}
    string(value, "value", index)
    return {"role": "tool" if role == "function" else role, "content": value, **rest}


def _exchange(message: Row, layout: Layout, index: int) -> list[Row]:
    """Return ``{"human": ..., "assistant": ...}`` as two messages."""
    roles = {key: layout.roles.get(key, ROLE_NAMES.get(str(key).lower())) for key in message if key}
    if sorted(map(str, roles.values())) != ["assistant", "user"]:
        raise missing_key(message, "from", index)
    said = {role: string(message[key], key, index) for key, role in roles.items()}
    return [{"role": role, "content": said[role]} for role in ("user", "assistant")]
