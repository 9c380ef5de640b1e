"""One row of data -> a checked conversation.

In: a row as read from a file, ``{"messages": [...], "tools": [...]}``. Out: a :class:`Conversation`
whose messages hold only what the template should see, and a training weight per message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lossmask.errors import ConversationError
from lossmask.message_weights import WeightedRange, read_sample_weight, read_weights
from lossmask.rendering import Message
from lossmask.row_values import kind, shown

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_DEEPEST = 100  # lists and objects inside each other; recursion ends not far beyond


@dataclass(frozen=True, slots=True)
class Conversation:
    """A checked conversation.

    Attributes:
        messages: In the OpenAI / Hugging Face chat format, without training keys.
        tools: Tool schemas, or None.
        weights: By message: the loss weight that the data gives it, None where the policy decides.
        ranges: By message: the characters that the data weighs otherwise.
        sample_weight: Multiplies all of them.
        prefills: By message: the beginning of its content that inference is given, not the model's.
        numbers: By message: its number in the row, if only some of the row's are left; else empty.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None
    weights: tuple[float | None, ...]
    ranges: dict[int, tuple[WeightedRange, ...]] = field(default_factory=dict)
    sample_weight: float = 1.0
    prefills: dict[int, str] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()


def read_conversation(
    messages: object, tools: object = None, sample_weight: object = None
) -> Conversation:
    """Check messages and tools.

    Args:
        messages: A non-empty list of mappings with a known ``role`` and a ``content`` that is a
            string, a list of parts, or absent where there are ``tool_calls`` or reasoning.
            ``train`` (bool) and ``weight`` (float), or another name for these (see
            ``weight_keys``), set the loss of one message, whatever its role;
            ``weights`` that of some of its characters, ``[{"start", "end", "weight"}]`` with a
            ``path`` if it is not in the content; ``prefill`` is the beginning of an assistant's
            content that inference is given (as by ``continue_final_message``), so that the model
            generates only what follows.
        tools: A list of schemas, the same as a JSON string, or None.
        sample_weight: Multiplies the weight of every token; None counts as 1.

    Raises:
        ConversationError: Names the message and key, what was expected and what was found.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ConversationError(f"'messages' must be a list, got {kind(messages)}")
    if not messages:
        raise ConversationError("'messages' is empty", reason="empty_conversation")
    checked = [_read_message(message, index) for index, message in enumerate(messages)]
    return Conversation(
        tuple(message for message, *_ in checked),
        _read_tools(tools),
        tuple(weight for _, weight, _ in checked),
        {index: ranges for index, (*_, ranges) in enumerate(checked) if ranges},
        read_sample_weight(sample_weight),
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


def _read_message(
    message: object, index: int
) -> tuple[Message, float | None, tuple[WeightedRange, ...]]:
    if not isinstance(message, Mapping):
        raise ConversationError(
            f"expected an object with 'role' and 'content', got {kind(message)}",
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
            f"unknown role {shown(role)}; known: {', '.join(ROLES)}",
            reason="unknown_role",
            message_index=index,
        )
    _check_content(message, index)
    kept, weight, ranges = read_weights(message, index)
    kept.pop("prefill", None)
    return kept, weight, ranges


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
            f"'content' must be a string or a list of parts, got {kind(content)}",
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
            f"'tool_calls' must be a list, got {kind(calls)}",
            reason="bad_tool_call",
            message_index=index,
        )
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise ConversationError(
                f"'tool_calls/{number}' must be an object with the name of a function, got "
                f"{kind(call)}",
                reason="bad_tool_call",
                message_index=index,
            )


def _read_tools(tools: object) -> tuple[dict[str, Any], ...] | None:
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise ConversationError(f"'tools' is a string but not JSON: {error}") from error
    if tools is None:
        return None
    if not isinstance(tools, Sequence) or not all(isinstance(tool, dict) for tool in tools):
        raise ConversationError(f"'tools' must be a list of objects, got {kind(tools)}")
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
