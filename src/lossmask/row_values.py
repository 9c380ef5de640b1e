"""Values of a row, checked as they are read; each error names the key and what was found."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from lossmask.errors import ConversationError

Row = dict[str, Any]

_SMALLEST, _LARGEST = 1.1754944e-38, 3.4028234e38  # normal float32


def kind(value: object) -> str:
    """Name what a value is, for messages, however long or deep it is."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    if type(value) in names:
        return names[type(value)]
    return f"{type(value).__name__} {shown(value)}"


def shown(value: object) -> str:
    """Return a short ``repr``; a number too long for Python to write is named as such."""
    try:
        return reprlib.repr(value)
    except ValueError:
        return "a number of too many digits"


def parsed(value: object, key: str) -> Any:
    """Return a JSON value that may stand in a string, as in CSV files.

    Raises:
        ConversationError: The string is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ConversationError(f"{key!r} is a string but not JSON: {error}") from error


def string(value: object, key: str, message_index: int | None = None) -> str:
    """Return a string.

    Raises:
        ConversationError: It is something else.
    """
    if not isinstance(value, str):
        raise ConversationError(
            f"{key!r} must be a string, got {kind(value)}", message_index=message_index
        )
    return value


def objects(value: object, key: str) -> list[dict[str, Any]]:
    """Return a list of objects (or the JSON of one) as dicts.

    Raises:
        ConversationError: It is something else; names the first that is not an object.
    """
    value = parsed(value, key)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ConversationError(f"{key!r} must be a list, got {kind(value)}")
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise ConversationError(
                f"{key!r} must be a list of objects, got {kind(item)}", message_index=index
            )
    return [dict(item) for item in value]


def number(value: object, key: str, message_index: int | None = None) -> float:
    """Return a number that float32 can hold as float; true and false are none.

    Raises:
        ConversationError: It is something else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if result == 0 or _SMALLEST <= abs(result) <= _LARGEST:
            return result
    raise ConversationError(
        f"{key!r} must be a finite number of float32, got {kind(value)}",
        message_index=message_index,
    )


def yes_or_no(value: object, key: str, message_index: int | None = None) -> bool:
    """Return true or false, also from 1 and 0.

    Raises:
        ConversationError: It is something else.
    """
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise ConversationError(
        f"{key!r} must be true or false, got {kind(value)}", message_index=message_index
    )


def read_tools(value: object, *, wrap: bool = False) -> list[dict[str, Any]]:
    """Return tool schemas; none is an empty list.

    Args:
        value: A list, the JSON of one, or None.
        wrap: Put a bare function, ``{"name", "parameters"}``, inside ``{"type": "function"}``.

    Raises:
        ConversationError: It is something else.
    """
    if value is None or value == "":
        return []
    tools = objects(value, "tools")
    if not wrap:
        return tools
    return [
        tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool}
        for tool in tools
    ]


def call_from_json(text: object, key: str, message_index: int) -> list[dict[str, Any]]:
    """Return tool calls from the JSON of ``{"name", "arguments"}``, or of a list of them.

    Raises:
        ConversationError: The JSON is broken, or is no call.
    """
    try:
        value = parsed(text, key)
    except ConversationError as error:
        raise ConversationError(
            f"a tool call must be JSON with 'name' and 'arguments': {error.detail}",
            reason="bad_tool_call",
            message_index=message_index,
        ) from error
    calls = value if isinstance(value, list) else [value]
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise ConversationError(
                f"a tool call must be an object with 'name' and 'arguments', got {kind(call)}"
                + (f" with the keys {', '.join(call)}" if isinstance(call, dict) else ""),
                reason="bad_tool_call",
                message_index=message_index,
            )
    if not calls:
        raise ConversationError(
            "the list of tool calls is empty", reason="bad_tool_call", message_index=message_index
        )
    return [{"type": "function", "function": call} for call in calls]
