"""OpenAI / Hugging Face messages, with what Axolotl and ms-swift add -> the normal form.

Read as they are: ``tools``, ``tool_calls`` (arguments as object or JSON string), parts. Rewritten:
``function_call`` -> ``tool_calls``; ``refusal`` beside null content -> the content, because it is
what the model said; ms-swift's ``tool_call`` and ``tool_response`` roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossmask.chat_rows import (
    chat_row,
    joined_to,
    missing_key,
    renamed_keys,
    role_of,
    turns_key,
    with_system,
)
from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.row_values import Row, call_from_json, kind, objects, string
from lossmask.weight_keys import with_weights


def openai_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read a row of OpenAI messages.

    Raises:
        ConversationError: Names the message and key, what was expected and what was found.

    Example:
        >>> row = {"messages": [{"role": "assistant", "content": "hi", "train": False}]}
        >>> openai_row(row, Layout())
        {'messages': [{'role': 'assistant', 'content': 'hi', 'weight': 0.0}]}
    """
    messages: list[Row] = []
    may_go_on = False  # the message before can take a tool call of ms-swift
    key = turns_key(row)
    given = objects(row[key], key)
    is_old = any(message.get("function_call") for message in given)
    for index, each in enumerate(given):
        message = renamed_keys(each, layout, index)
        if "role" not in message:
            raise missing_key(each, "role", index)
        role = role_of(message["role"], layout, index, calls=True)
        if role == "tool_call":
            call = with_weights(_call_message(message, index), index)
            if may_go_on:
                joined_to(messages[-1], call, index)
            else:
                messages.append(call)
            may_go_on = True
            continue
        message["role"] = "tool" if role == "function" and is_old else role
        message = _with_tool_calls(_with_refusal(message, index), index)
        messages.append(with_weights(message, index))
        may_go_on = role == "assistant"
    return chat_row(row, with_system(row, messages))


def _call_message(message: Row, index: int) -> Row:
    """Return ms-swift's ``{"role": "tool_call", "content": JSON}`` as an assistant message."""
    if "content" not in message:
        raise missing_key(message, "content", index)
    calls = call_from_json(message["content"], "content", index)
    return {**message, "role": "assistant", "content": "", "tool_calls": calls}


def _with_tool_calls(message: Row, index: int) -> Row:
    """Return the message with an old ``function_call`` as ``tool_calls``."""
    call = message.get("function_call")
    if call is None:
        return message
    if message.get("tool_calls"):
        raise ConversationError(
            "the message has both 'function_call' and 'tool_calls'",
            reason="bad_tool_call",
            message_index=index,
        )
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise ConversationError(
            f"'function_call' must be an object with 'name' and 'arguments', got {kind(call)}",
            reason="bad_tool_call",
            message_index=index,
        )
    kept = {key: value for key, value in message.items() if key != "function_call"}
    return {**kept, "tool_calls": [{"type": "function", "function": dict(call)}]}


def _with_refusal(message: Row, index: int) -> Row:
    """Return the message with a refusal as its content."""
    kept = {key: value for key, value in message.items() if key != "refusal"}
    if isinstance(kept.get("content"), list):
        kept["content"] = [_part(part, index) for part in kept["content"]]
    refusal = message.get("refusal")
    if refusal is None or refusal == "":
        return kept
    string(refusal, "refusal", index)
    if kept.get("content"):
        raise ConversationError(
            "the message has both 'content' and a 'refusal'", message_index=index
        )
    return {**kept, "content": refusal}


def _part(part: object, index: int) -> Any:
    if not isinstance(part, Mapping):
        raise ConversationError(
            f"a part of 'content' must be an object, got {kind(part)}", message_index=index
        )
    if part.get("type") != "refusal":
        return dict(part)
    kept = {key: value for key, value in part.items() if key not in ("type", "refusal")}
    return {"type": "text", "text": string(part.get("refusal"), "refusal", index), **kept}
