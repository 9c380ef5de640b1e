"""Harmony messages (channels and recipients of gpt-oss) -> the normal form.

    analysis                        reasoning_content
    commentary to functions.NAME    tool_calls
    commentary before a call        content
    final                           content

Messages of the assistant that belong to one turn become one message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossmask.chat_rows import (
    chat_row,
    missing_key,
    renamed_keys,
    role_of,
    text_or_parts,
    turns_key,
    with_system,
)
from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.row_values import Row, kind, objects, shown, string
from lossmask.weight_keys import with_weights

_FUNCTIONS = "functions."
_CHANNELS = ("analysis", "commentary", "final")
_ORDER = {"analysis": 0, "preamble": 1, "call": 2, "final": 3}
_KNOWN = ("author", "role", "name", "channel", "recipient", "content", "content_type")


def harmony_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read a row of Harmony messages.

    Raises:
        ConversationError: Names the message and what the OpenAI form cannot express of it.
    """
    messages: list[Row] = []
    tools: list[Row] = list(objects(row.get("tools") or [], "tools"))
    turn: list[str] = []  # what the assistant's open turn holds so far
    key = turns_key(row)
    given = objects(row[key], key)
    for index, each in enumerate(given):
        message = with_weights(_with_author(renamed_keys(each, layout, index)), index)
        if "role" not in message:
            raise missing_key(each, "role", index)
        role = role_of(message["role"], layout, index)
        if role != "assistant":
            _check_ended(turn, index - 1)
            turn = []
            messages.append(_other(message, role, tools, index))
            continue
        part = _part_of_turn(message, index)
        if turn and turn[-1] == "final":
            turn = []
        if turn and (_ORDER[part] < _ORDER[turn[-1]] or part == turn[-1] != "call"):
            raise _interleaved(turn, part, index)
        if part == "final" and set(turn) & {"preamble", "call"}:
            raise _interleaved(turn, part, index)
        if not turn:
            messages.append({"role": "assistant"})
        _add(messages[-1], message, part, bool(turn), index)
        turn.append(part)
    _check_ended(turn, len(given) - 1)
    return chat_row({**row, "tools": tools}, with_system(row, messages))


def _with_author(message: Row) -> Row:
    author = message.get("author")
    if not isinstance(author, Mapping):
        return message
    kept = {key: value for key, value in message.items() if key != "author"}
    return {**{key: value for key, value in author.items() if value is not None}, **kept}


def _interleaved(turn: list[str], part: str, index: int) -> ConversationError:
    return ConversationError(
        f"the assistant's turn is {', '.join([*turn, part])}: chat templates write an assistant "
        "message as analysis, then a commentary and its calls, or the final answer",
        reason="interleaved_content",
        message_index=index,
    )


def _check_ended(turn: list[str], index: int) -> None:
    """Refuse a turn that would read otherwise: a commentary alone is rendered as final."""
    if turn and turn[-1] in ("analysis", "preamble"):
        raise ConversationError(
            f"the assistant's turn ends in {turn[-1]}: a turn ends in a call or in the "
            "channel final",
            reason="interleaved_content",
            message_index=index,
        )


def _part_of_turn(message: Row, index: int) -> str:
    channel = message.get("channel", "final")
    if channel not in _CHANNELS:
        raise ConversationError(
            f"unknown channel {shown(channel)}; known: {', '.join(_CHANNELS)}", message_index=index
        )
    recipient = message.get("recipient", "all")
    if recipient in ("all", "user"):
        return "preamble" if channel == "commentary" else str(channel)
    if not isinstance(recipient, str) or not recipient.startswith(_FUNCTIONS):
        raise ConversationError(
            f"the recipient {shown(recipient)} is no function: only functions.NAME can be a tool "
            "call",
            reason="bad_tool_call",
            message_index=index,
        )
    if channel == "final":
        raise ConversationError(
            f"a message of the channel final has the recipient {recipient}",
            reason="bad_tool_call",
            message_index=index,
        )
    return "call"


def _add(turn: Row, message: Row, part: str, goes_on: bool, index: int) -> None:
    """Add one Harmony message to the turn's message."""
    if goes_on and turn.get("weight") != message.get("weight"):
        raise ConversationError(
            f"messages of one turn have different weights ({shown(turn.get('weight'))} and "
            f"{shown(message.get('weight'))}): they become one message",
            reason="contradicting_weights",
            message_index=index,
        )
    if message.get("weights"):
        raise ConversationError(
            "a Harmony message cannot have weights of ranges", message_index=index
        )
    text = _text(message, index)
    if part == "analysis":
        turn["reasoning_content"] = text
    elif part == "call":
        name = message["recipient"].removeprefix(_FUNCTIONS)
        call = {"type": "function", "function": {"name": name, "arguments": text}}
        turn["tool_calls"] = [*turn.get("tool_calls", []), call]
        turn.setdefault("content", "")
    else:
        turn["content"] = text
    if "weight" in message:
        turn["weight"] = message["weight"]
    turn.update({key: message[key] for key in message if key not in (*_KNOWN, "weight")})


def _text(message: Row, index: int) -> str:
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1:
        part = content[0]
        if isinstance(part, Mapping) and set(part) == {"type", "text"} and part["type"] == "text":
            content = part["text"]
    return string(content, "content", index)


def _other(message: Row, role: str, tools: list[Row], index: int) -> Row:
    """Return a message of the user, of a tool, or with instructions."""
    said = {k: v for k, v in message.items() if k not in _KNOWN} | {"role": role}
    content = message.get("content")
    if isinstance(content, list):
        content = _parts(content, tools, index)
    said["content"] = content
    name = message.get("name")
    if role == "tool" and isinstance(name, str):
        if "." in name and not name.startswith(_FUNCTIONS):
            raise ConversationError(
                f"the tool {name} is no function: only functions.NAME can be a tool",
                message_index=index,
            )
        name = name.removeprefix(_FUNCTIONS)
    if name is not None:
        said["name"] = name
    return said


def _parts(parts: list[Any], tools: list[Row], index: int) -> str | list[Row]:
    texts = []
    for part in parts:
        name = part.get("type") if isinstance(part, Mapping) else None
        if name == "text":
            texts.append(string(part.get("text"), "text", index))
        elif name == "developer_content":
            tools += _functions(part.get("tools"), index)
            if part.get("instructions") is not None:
                texts.append(string(part["instructions"], "instructions", index))
        elif name == "system_content":
            raise ConversationError(
                "'system_content' is what the template writes itself: leave the message out, and "
                "give model_identity and reasoning_effort to the template",
                message_index=index,
            )
        else:
            raise ConversationError(
                f"'content' holds {kind(part)} of the type {shown(name)}; known: text, "
                "developer_content",
                message_index=index,
            )
    return text_or_parts(texts) if texts else ""


def _functions(namespaces: object, index: int) -> list[Row]:
    if not namespaces:
        return []
    if not isinstance(namespaces, Mapping) or set(namespaces) != {"functions"}:
        raise ConversationError(
            f"tools must be those of the namespace 'functions', got {kind(namespaces)}",
            message_index=index,
        )
    described = namespaces["functions"]
    found = described.get("tools") if isinstance(described, Mapping) else None
    return [
        {"type": "function", "function": {k: v for k, v in tool.items() if v is not None}}
        for tool in objects(found, "tools")
    ]
