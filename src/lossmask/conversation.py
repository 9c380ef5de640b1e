"""One row of data -> a checked conversation.

In: a row as read from a file, ``{"messages": [...], "tools": [...]}``. Out: a :class:`Conversation`
whose messages hold only what the template should see, and a training weight per message.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lossmask.errors import ConversationError
from lossmask.rendering import Message

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_SMALLEST_WEIGHT, _LARGEST_WEIGHT = 1.1754944e-38, 3.4028234e38  # normal float32
_DEEPEST = 100  # lists and objects inside each other; recursion ends not far beyond
_OUR_KEYS = frozenset({"train", "weight", "prefill"})  # no template sees them


@dataclass(frozen=True, slots=True)
class Conversation:
    """A checked conversation.

    Attributes:
        messages: In the OpenAI / Hugging Face chat format, without training keys.
        tools: Tool schemas, or None.
        weights: One loss weight per message; 0 takes an assistant message out of the loss.
        prefills: By message: the beginning of its content that inference is given, not the model's.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None
    weights: tuple[float, ...]
    prefills: dict[int, str] = field(default_factory=dict)

    @property
    def trained(self) -> tuple[int, ...]:
        """Indices of the assistant messages whose weight is not zero."""
        return tuple(
            index
            for index, (message, weight) in enumerate(zip(self.messages, self.weights, strict=True))
            if message["role"] == "assistant" and weight
        )


def read_conversation(messages: object, tools: object = None) -> Conversation:
    """Check messages and tools.

    Args:
        messages: A non-empty list of mappings with a known ``role`` and a ``content`` that is a
            string, a list of parts, or absent where there are ``tool_calls`` or reasoning.
            ``train`` (bool) and ``weight`` (float >= 0) set the loss of one message; ``prefill`` is
            the beginning of an assistant's content that inference is given (as by
            ``continue_final_message``), so that the model generates only what follows.
        tools: A list of schemas, the same as a JSON string, or None.

    Raises:
        ConversationError: Names the message and key, what was expected and what was found.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ConversationError(f"'messages' must be a list, got {_kind(messages)}")
    if not messages:
        raise ConversationError("'messages' is empty", reason="empty_conversation")
    checked = [_read_message(message, index) for index, message in enumerate(messages)]
    if not any(message["role"] == "assistant" for message, _ in checked):
        raise ConversationError(
            "no message has the role 'assistant': there is nothing to train on",
            reason="no_assistant",
        )
    return Conversation(
        tuple(message for message, _ in checked),
        _read_tools(tools),
        tuple(weight for _, weight in checked),
        _prefills(messages),
    )


def _prefills(messages: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    prefills = {}
    for index, message in enumerate(messages):
        prefill = message.get("prefill")
        if prefill is None or prefill == "":
            continue
        content = message.get("content")
        if not isinstance(prefill, str) or message["role"] != "assistant":
            raise ConversationError(
                "'prefill' must be a string on an assistant message", message_index=index
            )
        if not isinstance(content, str) or not content.startswith(prefill):
            raise ConversationError(
                f"'content' must begin with the 'prefill' {prefill[:40]!r}", message_index=index
            )
        prefills[index] = prefill
    return prefills


def _read_message(message: object, index: int) -> tuple[Message, float]:
    if not isinstance(message, Mapping):
        raise ConversationError(
            f"expected an object with 'role' and 'content', got {_kind(message)}",
            message_index=index,
        )
    if not all(isinstance(key, str) for key in message):
        raise ConversationError("every key of a message must be a string", message_index=index)
    if _is_deeper(message, _DEEPEST):
        raise ConversationError(
            f"lists and objects lie more than {_DEEPEST} deep inside each other",
            message_index=index,
        )
    if "role" not in message:
        raise ConversationError(
            f"the key 'role' is missing; keys found: {', '.join(message) or 'none'}",
            reason="missing_key",
            message_index=index,
        )
    role = message["role"]
    if role not in ROLES:
        raise ConversationError(
            f"unknown role {_shown(role)}; known: {', '.join(ROLES)}",
            reason="unknown_role",
            message_index=index,
        )
    _check_content(message, index)
    kept = {key: value for key, value in message.items() if key not in _OUR_KEYS}
    return kept, _weight(message, index)


def _check_content(message: Mapping[str, Any], index: int) -> None:
    content = message.get("content")
    stands_in = ("tool_calls", "reasoning_content", "thinking", "reasoning")
    if content is None and not any(message.get(key) for key in stands_in):
        raise ConversationError(
            "the key 'content' is missing"
            if "content" not in message
            else "'content' is null and there are no 'tool_calls'",
            reason="missing_key",
            message_index=index,
        )
    if content is not None and not isinstance(content, (str, list)):
        raise ConversationError(
            f"'content' must be a string or a list of parts, got {_kind(content)}",
            message_index=index,
        )
    if message.get("function_call") is not None:
        raise ConversationError(
            "'function_call' is the old OpenAI format, which chat templates do not render: use "
            "'tool_calls'",
            reason="bad_tool_call",
            message_index=index,
        )
    _check_tool_calls(message.get("tool_calls"), index)


def _check_tool_calls(calls: object, index: int) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        raise ConversationError(
            f"'tool_calls' must be a list, got {_kind(calls)}",
            reason="bad_tool_call",
            message_index=index,
        )
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise ConversationError(
                f"'tool_calls/{number}' must be an object with the name of a function, got "
                f"{_kind(call)}",
                reason="bad_tool_call",
                message_index=index,
            )


def _weight(message: Mapping[str, Any], index: int) -> float:
    train, weight = message.get("train"), message.get("weight")
    if train is not None and not isinstance(train, bool):
        raise ConversationError(
            f"'train' must be true or false, got {_shown(train)}", message_index=index
        )
    if weight is not None and not _is_weight(weight):
        raise ConversationError(
            f"'weight' must be 0 or a positive number of float32, got {_kind(weight)}",
            message_index=index,
        )
    if train is not None and weight is not None and train != bool(weight):
        raise ConversationError(
            f"'train' is {train} but 'weight' is {weight}: they contradict each other",
            message_index=index,
        )
    if weight is not None:
        return float(weight)
    return 0.0 if train is False else 1.0


def _is_weight(weight: object) -> bool:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        return False
    return weight == 0 or _SMALLEST_WEIGHT <= weight <= _LARGEST_WEIGHT


def _read_tools(tools: object) -> tuple[dict[str, Any], ...] | None:
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise ConversationError(f"'tools' is a string but not JSON: {error}") from error
    if tools is None:
        return None
    if not isinstance(tools, Sequence) or not all(isinstance(tool, dict) for tool in tools):
        raise ConversationError(f"'tools' must be a list of objects, got {_kind(tools)}")
    _check_is_json(tools)
    return tuple(tools) or None


def _check_is_json(tools: Sequence[Any]) -> None:
    if _is_deeper(tools, _DEEPEST):
        raise ConversationError(
            f"'tools': lists and objects lie more than {_DEEPEST} deep inside each other"
        )
    try:
        json.dumps(tools)
    except (TypeError, ValueError) as error:
        raise ConversationError(f"'tools' holds something that is not JSON: {error}") from error


def _is_deeper(value: object, levels: int) -> bool:
    """Return whether lists and objects lie more than ``levels`` deep inside each other."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if not isinstance(value, (list, tuple)):
        return False
    return not levels or any(_is_deeper(item, levels - 1) for item in value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value)) or f"{type(value).__name__} {_shown(value)}"


def _shown(value: object) -> str:
    """Return a short ``repr``, however long or deep the value is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an int of more digits than Python writes
        return "a number of too many digits"
