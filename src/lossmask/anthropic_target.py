"""A conversation in the normal form -> Anthropic messages, and what they cannot say.

Results of tools and what the user says after them become one message, as Anthropic's API asks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lossmask.conversion_losses import Losses, functions_of, plain_text
from lossmask.errors import ConversationError
from lossmask.row_values import Row, shown


def anthropic_row_of(row: Row, losses: Losses) -> Row:
    """Return a row of Anthropic messages.

    Args:
        row: A conversation in the normal form.
        losses: Where to report what is lost.

    Raises:
        ConversationError: The arguments of a tool call are no JSON object.
    """
    result: Row = {"messages": []}
    for index, message in enumerate(row["messages"]):
        if "weights" in message:
            losses.add(index, "the weights of ranges are left out")
        if message["role"] in ("system", "developer"):
            result |= _system(message, index, losses)
            continue
        said = _WRITERS[message["role"]](message, index, losses)
        if "weight" in message:
            said["weight"] = message["weight"]
        _append(result["messages"], said, message["role"])
    if "tools" in row:
        result["tools"] = [_tool(tool, losses) for tool in row["tools"]]
    if "weight" in row:
        result["weight"] = row["weight"]
    return result


def _append(messages: list[Row], said: Row, role: str) -> None:
    """Append a message, or add it to the tool results before it."""
    before = messages[-1] if messages else {}
    goes_on = (
        role != "assistant"
        and said["content"]
        and _holds_only_results(before)
        and before.get("weight") == said.get("weight")
    )
    if not goes_on:
        messages.append(said)
        return
    content = said["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    before["content"] = [*before["content"], *blocks]


def _holds_only_results(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and all(
        isinstance(block, Mapping) and block.get("type") == "tool_result" for block in content
    )


def _system(message: Row, index: int, losses: Losses) -> Row:
    if index:
        losses.add(
            index,
            f"the message of the role {message['role']} is left out: Anthropic has "
            "one system prompt, before all messages",
        )
        return {}
    if message["role"] == "developer":
        losses.add(index, "the role developer becomes system")
    losses.leave_out(message, index, ("role", "content", "weights"))
    content = _content(message, index, losses)
    if not content:
        losses.add(index, "an empty system message is left out")
        return {}
    return {"system": content}


def _user(message: Row, index: int, losses: Losses) -> Row:
    losses.leave_out(message, index, ("role", "content", "weight", "weights"))
    return {"role": "user", "content": _content(message, index, losses)}


def _tool_result(message: Row, index: int, losses: Losses) -> Row:
    if message["role"] == "function":
        losses.add(index, "the role function becomes tool")
    known = ("role", "content", "tool_call_id", "is_error", "weight", "weights")
    losses.leave_out(message, index, known)
    block: Row = {"type": "tool_result", "content": _content(message, index, losses)}
    if "tool_call_id" in message:
        block["tool_use_id"] = message["tool_call_id"]
    if "is_error" in message:
        block["is_error"] = message["is_error"]
    return {"role": "user", "content": [block]}


def _assistant(message: Row, index: int, losses: Losses) -> Row:
    known = ("role", "content", "reasoning_content", "tool_calls", "weight", "weights")
    losses.leave_out(message, index, known)
    content = _content(message, index, losses)
    before, behind = [], []
    reasoning = message.get("reasoning_content")
    if isinstance(reasoning, str):
        before = [{"type": "thinking", "thinking": reasoning}]
    elif "reasoning_content" in message:
        losses.add(index, "'reasoning_content' is no string and is left out")
    functions = functions_of(message, index, losses, keeps_ids=True)
    for call, function in zip(message.get("tool_calls") or (), functions, strict=True):
        use = {"type": "tool_use", "name": function["name"]}
        if "id" in call:
            use["id"] = call["id"]
        behind.append({**use, "input": _arguments(function, index, losses)})
    if before or behind:
        if isinstance(content, str):
            content = [{"type": "text", "text": content}] if content else []
        content = [*before, *content, *behind]
    return {"role": "assistant", "content": content}


_WRITERS = {
    "user": _user,
    "assistant": _assistant,
    "tool": _tool_result,
    "function": _tool_result,
}


def _arguments(function: Row, index: int, losses: Losses) -> Any:
    if set(function) != {"name", "arguments"}:
        losses.add(index, "a tool call has only name and input: other keys are left out")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        losses.add(index, "the arguments of a tool call become an object: their spelling is lost")
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if not isinstance(arguments, Mapping):
        raise ConversationError(
            "Anthropic's tool_use needs the arguments as an object, got "
            f"{shown(function.get('arguments'))}",
            reason="bad_tool_call",
            message_index=index,
        )
    return arguments


def _content(message: Row, index: int, losses: Losses) -> str | list[Row]:
    """Return the content as a string, or as blocks of text and images."""
    content = message.get("content")
    if not isinstance(content, list):
        return plain_text(message, index, losses)
    blocks = []
    for part in content:
        keys = set(part) if isinstance(part, Mapping) else set()
        name = part.get("type") if keys else None
        if (name == "text" and keys == {"type", "text"}) or (
            name == "image" and keys == {"type", "source"}
        ):
            blocks.append(part)
        else:
            losses.add(index, f"a part of the type {shown(name)} is left out")
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        losses.add(index, "a single part of text is read as a string")
    if not blocks:
        losses.add(index, "an empty list of parts becomes an empty string")
        return ""
    return blocks


def _tool(tool: Row, losses: Losses) -> Row:
    """Return a schema as Anthropic writes it."""
    function = tool.get("function")
    if not isinstance(function, Mapping) or "name" not in function:
        losses.add(None, "a tool of another shape stays as it is")
        return tool
    if set(tool) != {"type", "function"} or tool["type"] != "function":
        losses.add(None, "keys of a tool beside its function are left out")
    if set(function) - {"name", "description", "parameters"}:
        losses.add(
            None, "a tool has only name, description and parameters: other keys are left out"
        )
    if "parameters" not in function:
        losses.add(None, "a tool without parameters gets an empty schema")
    kept = {key: function[key] for key in ("name", "description") if key in function}
    return {**kept, "input_schema": function.get("parameters", {})}
