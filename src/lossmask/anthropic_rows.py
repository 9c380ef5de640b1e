"""Anthropic messages (content blocks, top-level ``system``) -> the normal form.

thinking      reasoning_content
text          content, several as parts
tool_use      tool_calls, with the block's id and input
tool_result   a message of the role tool; ``is_error`` stays a key of it
image         a part, as it is
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
    turns_key,
    with_system,
)
from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.row_values import Row, kind, objects, read_tools, shown, string
from lossmask.weight_keys import EITHER, MESSAGE_LOSS_KEYS, NUMBERS, YES_OR_NO, with_weights

_LOSS = (*NUMBERS, *YES_OR_NO, *EITHER)
_UNSAID = ("cache_control", "signature", "citations", "caller")  # about requests, not about text
_BLOCK_KEYS = {
    "text": ("text",),
    "thinking": ("thinking",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content", "is_error"),
    "image": ("source",),
}


def anthropic_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read a row of Anthropic messages.

    Raises:
        ConversationError: Names the message and block; blocks whose order the OpenAI form cannot
            express are refused.
    """
    messages: list[Row] = []
    key = turns_key(row)
    for index, each in enumerate(objects(row[key], key)):
        message = renamed_keys(each, layout, index)
        for needed in ("role", "content"):
            if message.get(needed) is None:
                raise missing_key(each, needed, index)
        message["role"] = role_of(message["role"], layout, index)
        if isinstance(message["content"], str):
            messages.append(with_weights(message, index))
            continue
        blocks = _blocks(message["content"], index)
        read = _assistant if message["role"] == "assistant" else _others
        messages += [with_weights(one, index) for one in read(message, blocks, index)]
    plain = {**row, "system": None, "tools": _tools(row.get("tools"))}
    system = row.get("system")
    if isinstance(system, list):
        content = _content(_blocks(system, None), None)
        if messages and messages[0]["role"] == "system":
            raise ConversationError(
                "the row has a 'system' and its messages begin with a system message",
                message_index=0,
            )
        messages = [{"role": "system", "content": content}, *messages] if content else messages
    else:
        messages = with_system({"system": system}, messages)
    return chat_row(plain, messages)


def _blocks(content: object, index: int | None) -> list[Row]:
    if not isinstance(content, list):
        raise ConversationError(
            f"'content' must be a string or a list of blocks, got {kind(content)}",
            message_index=index,
        )
    blocks = []
    for block in content:
        name = block.get("type") if isinstance(block, Mapping) else None
        if not isinstance(name, str) or name not in _BLOCK_KEYS:
            raise ConversationError(
                f"a block of the type {shown(name)} is not read; known: {', '.join(_BLOCK_KEYS)} "
                "(rows whose template reads such parts itself: format 'openai')",
                message_index=index,
            )
        kept = {k: v for k, v in block.items() if v is not None and k not in _UNSAID}
        allowed = {"type", *_BLOCK_KEYS[name], *(_LOSS if name == "text" else ())}
        unknown = [str(key) for key in kept if key not in allowed]
        if unknown:
            raise ConversationError(
                f"a block of the type {name!r} has the unknown key {unknown[0]!r}; known: "
                f"{', '.join(_BLOCK_KEYS[name])}",
                message_index=index,
            )
        blocks.append(kept)
    return blocks


def _content(blocks: list[Row], index: int | None) -> str | list[Row]:
    """Return text and images: one text without a weight of its own as a string."""
    for block in blocks:
        if block["type"] not in ("text", "image"):
            raise ConversationError(
                f"a block of the type {block['type']!r} cannot stand here", message_index=index
            )
        if block["type"] == "text":
            string(block.get("text"), "text", index)
    if len(blocks) == 1 and set(blocks[0]) == {"type", "text"}:
        return str(blocks[0]["text"])
    return blocks or ""


def _assistant(message: Row, blocks: list[Row], index: int) -> list[Row]:
    names = {"thinking": "reasoning", "tool_use": "tool_call", "text": "text", "image": "text"}
    kinds = []
    for block in blocks:
        if block["type"] not in names:
            raise ConversationError(
                f"an assistant cannot say a block of the type {block['type']!r}",
                message_index=index,
            )
        kinds.append(names[block["type"]])
    check_order(kinds, index, "blocks")
    said = dict(message)
    said["content"] = _content([b for b in blocks if b["type"] in ("text", "image")], index)
    for block in blocks:
        if block["type"] == "thinking":
            said["reasoning_content"] = string(block.get("thinking"), "thinking", index)
    calls = [_call(block, index) for block in blocks if block["type"] == "tool_use"]
    if calls:
        said["tool_calls"] = calls
    return [said]


def _call(block: Row, index: int) -> Row:
    arguments = block.get("input", {})
    if not isinstance(arguments, Mapping):
        raise ConversationError(
            f"'input' of a tool_use must be an object, got {kind(arguments)}",
            reason="bad_tool_call",
            message_index=index,
        )
    function = {"name": string(block.get("name"), "name", index), "arguments": dict(arguments)}
    named = {} if "id" not in block else {"id": string(block["id"], "id", index)}
    return {**named, "type": "function", "function": function}


def _others(message: Row, blocks: list[Row], index: int) -> list[Row]:
    """Return one tool message per result, then what else a user message says."""
    results = [block for block in blocks if block["type"] == "tool_result"]
    rest = [block for block in blocks if block["type"] != "tool_result"]
    if blocks[: len(results)] != results:
        raise ConversationError(
            "a tool_result stands behind text: tool results come first",
            reason="interleaved_content",
            message_index=index,
        )
    if results and message["role"] != "user":
        raise ConversationError(
            f"a tool_result stands in a message of the role {message['role']!r}",
            message_index=index,
        )
    loss = {key: message[key] for key in message if key in MESSAGE_LOSS_KEYS}
    said: list[Row] = [{**_result(block, index), **loss} for block in results]
    if rest or not results:
        said.append({**message, "content": _content(rest, index)})
    return said


def _result(block: Row, index: int) -> Row:
    content = block.get("content", "")
    if not isinstance(content, str):
        content = _content(_blocks(content, index), index)
    result: Row = {"role": "tool", "content": content}
    if "tool_use_id" in block:
        result["tool_call_id"] = string(block["tool_use_id"], "tool_use_id", index)
    if "is_error" in block:
        result["is_error"] = block["is_error"]
    return result


def _tools(value: object) -> list[Row]:
    """Return ``{"name", "description", "input_schema"}`` as the schemas that templates read."""
    tools = []
    for tool in read_tools(value):
        if "input_schema" not in tool:
            tools.append(tool)
            continue
        kept = {key: tool[key] for key in tool if key in ("name", "description")}
        unknown = set(tool) - {"name", "description", "input_schema", "type", *_UNSAID}
        if unknown or tool.get("type") not in (None, "custom"):
            raise ConversationError(
                f"the tool {shown(tool.get('name'))} has keys that templates cannot show: "
                f"{', '.join(sorted(unknown)) or 'type ' + shown(tool['type'])}"
            )
        function = {**kept, "parameters": tool["input_schema"]}
        tools.append({"type": "function", "function": function})
    return tools
