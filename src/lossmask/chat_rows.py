"""What the readers of conversations share: names of roles, system prompts, the finished row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lossmask.errors import ConversationError
from lossmask.layout import Layout, nearest_name
from lossmask.row_values import Row, read_tools, shown, string
from lossmask.weight_keys import row_weight, with_weights

ROLE_NAMES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "ipython": "tool",
    "observation": "tool",
    "observations": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "function_response": "tool",
    "function": "function",
    "function_call": "tool_call",
    "tool_call": "tool_call",
}
"""The names that data sets give to roles -> ours; ``tool_call`` is a call written as JSON."""

BLOCK_ORDER = {"reasoning": 0, "text": 1, "tool_call": 2}
"""The order in which chat templates write what an assistant message holds."""


def role_of(name: object, layout: Layout, index: int, *, calls: bool = False) -> str:
    """Return our name of a role.

    Args:
        name: The data's name.
        layout: Its ``roles`` come before :data:`ROLE_NAMES`.
        index: The message's.
        calls: Whether the format has messages that are a tool call as JSON.

    Raises:
        ConversationError: The role is unknown (names the nearest one), or not one of the format.
    """
    if isinstance(name, str):
        known = layout.roles.get(name) or ROLE_NAMES.get(name.lower().replace("-", "_"))
        if known == "tool_call" and not calls:
            raise ConversationError(
                f"the role {shown(name)} holds a tool call as JSON, which this format has not",
                reason="unknown_role",
                message_index=index,
            )
        if known is not None:
            return known
    meant = nearest_name(str(name), ROLE_NAMES) if isinstance(name, str) else ""
    raise ConversationError(
        f"unknown role {shown(name)}; {meant + ' ' if meant else ''}say what it stands for in the "
        "layout's 'roles'",
        reason="unknown_role",
        message_index=index,
    )


def renamed_keys(message: Mapping[str, Any], layout: Layout, index: int) -> dict[str, Any]:
    """Return a message with our names of its keys, and without the keys that are null.

    A null key is what Arrow makes of an absent one, and transformers drops it before it renders;
    ``content`` stays, because templates tell null from absent.

    Raises:
        ConversationError: The data has both names of a key.
    """
    result = {key: value for key, value in message.items() if value is not None or key == "content"}
    for ours, theirs in layout.message_keys.items():
        if theirs == ours or theirs not in message:
            continue
        if result.get(ours) is not None:
            raise ConversationError(
                f"the layout reads {ours!r} from {theirs!r}, but the message has both",
                message_index=index,
            )
        result.pop(theirs, None)
        result[ours] = message[theirs]
    return result


def turns_key(row: Mapping[str, Any]) -> str:
    """Return the key under which the row has its turns.

    Raises:
        ConversationError: There are several such keys, or none.
    """
    found = [
        key for key in ("conversations", "conversation", "messages") if row.get(key) is not None
    ]
    if len(found) != 1:
        raise ConversationError(
            "expected one of 'conversations', 'conversation' and 'messages'; found "
            f"{', '.join(found) or 'none'}; keys: {', '.join(map(str, row)) or 'none'}",
            reason="missing_key",
        )
    return found[0]


def missing_key(message: Mapping[str, Any], key: str, index: int) -> ConversationError:
    """Return the error for a message without one of its keys."""
    return ConversationError(
        f"the key {key!r} is missing; keys found: {', '.join(map(str, message)) or 'none'}",
        reason="missing_key",
        message_index=index,
    )


def with_system(row: Mapping[str, Any], messages: list[Row]) -> list[Row]:
    """Return the messages with the row's ``system`` before them, where it has one.

    Raises:
        ConversationError: The messages begin with another system message.
    """
    system = row.get("system")
    if system is None or system == "":
        return messages
    string(system, "system")
    if messages and messages[0].get("role") == "system":
        if messages[0].get("content") == system:
            return messages
        raise ConversationError(
            "the row has a 'system' and its messages begin with another system message",
            message_index=0,
        )
    return [{"role": "system", "content": system}, *messages]


def chat_row(row: Mapping[str, Any], messages: list[Row], *, wrap_tools: bool = False) -> Row:
    """Return the normal form of a conversation.

    Raises:
        ConversationError: Tools or sample weight are not usable, or the row asks for something that
            rows cannot ask for.
    """
    result: Row = {"messages": messages}
    tools, functions = row.get("tools"), row.get("functions")
    if tools and functions:
        raise ConversationError("the row has both 'tools' and 'functions'")
    checked = read_tools(tools or functions, wrap=wrap_tools or bool(functions))
    if checked:
        result["tools"] = checked
    if row.get("chat_template_kwargs"):
        raise ConversationError(
            "'chat_template_kwargs' of a row would change its template: give them to the encoder, "
            "and rows that differ in them to encoders of their own"
        )
    weight = row_weight(row)
    if weight is not None:
        result["weight"] = weight
    return result


def check_order(blocks: Sequence[str], index: int, what: str) -> None:
    """Check that an assistant's blocks lie in the order in which templates write them.

    Raises:
        ConversationError: They are interleaved, which the OpenAI form cannot express.
    """
    ranks = [BLOCK_ORDER[each] for each in blocks]
    if ranks == sorted(ranks) and blocks.count("reasoning") <= 1:
        return
    raise ConversationError(
        f"the {what} are {', '.join(blocks)}: chat templates write an assistant message as one "
        "reasoning, then text, then tool calls; split the message",
        reason="interleaved_content",
        message_index=index,
    )


def text_or_parts(texts: Sequence[str]) -> str | list[Row]:
    """Return one text as a string, several as parts."""
    if len(texts) == 1:
        return texts[0]
    return [{"type": "text", "text": text} for text in texts]


def joined_to(before: Row, message: Row, index: int) -> None:
    """Add the tool calls of a message to the assistant message that it goes on from.

    Raises:
        ConversationError: Their loss differs, or the second has keys of its own.
    """
    if before.get("weight") != message.get("weight"):
        raise ConversationError(
            "an assistant message and the tool call that belongs to it have different weights "
            f"({shown(before.get('weight'))} and {shown(message.get('weight'))}): they become one "
            "message",
            reason="contradicting_weights",
            message_index=index,
        )
    others = set(message) - {"role", "content", "tool_calls", "weight"}
    if others:
        raise ConversationError(
            "a tool call that belongs to the assistant message before it has keys of its own: "
            + ", ".join(sorted(others)),
            message_index=index,
        )
    before["tool_calls"] = [*before.get("tool_calls", []), *message["tool_calls"]]


def weighted(messages: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return messages with ``weight`` and ``weights`` as their only loss keys."""
    return [with_weights(message, index) for index, message in enumerate(messages)]
