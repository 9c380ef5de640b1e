"""What a conversion loses, and the readings of a message that all targets share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lossmask.errors import ConversationError
from lossmask.row_values import Row, shown

Loss = tuple[int | None, str]
"""The message concerned (None: the row), and what is lost, in plain words."""


@dataclass(slots=True)
class Losses:
    """The losses of one row, as they are found; each is kept once.

    Attributes:
        target: The name of the format that is written, as sentences call it.
        found: The losses.
    """

    target: str
    found: list[Loss] = field(default_factory=list)

    def add(self, message_index: int | None, what: str) -> None:
        """Report a loss."""
        if (message_index, what) not in self.found:
            self.found.append((message_index, what))

    def leave_out(self, message: Mapping[str, Any], index: int, known: tuple[str, ...]) -> None:
        """Report every key of a message that the target has no place for."""
        for key in message:
            if key not in known:
                self.add(index, f"{key!r} is left out")


def plain_text(message: Row, index: int, losses: Losses) -> str:
    """Return the content as one string; reports what it was, if it was none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        said = "null content" if "content" in message else "absent content"
        losses.add(index, f"{said} becomes an empty string")
        return ""
    losses.add(index, f"the parts of 'content' become one string: {losses.target} has none")
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        losses.add(index, "parts that are not text are left out")
    return "".join(text for text in texts if isinstance(text, str))


def functions_of(message: Row, index: int, losses: Losses, *, keeps_ids: bool = False) -> list[Row]:
    """Return name and arguments of each call; reports ids and unusual shapes.

    Raises:
        ConversationError: A call has no name.
    """
    functions = []
    for call in message.get("tool_calls") or []:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ConversationError(
                f"a tool call must have the name of a function, got {shown(call)}",
                reason="bad_tool_call",
                message_index=index,
            )
        if "id" in call and not keeps_ids:
            losses.add(index, "the ids of tool calls are left out")
        shape = {key: value for key, value in call.items() if key != "id"}
        if shape != {"type": "function", "function": function} or message["role"] != "assistant":
            losses.add(index, "tool calls of another shape become plain ones")
        functions.append(dict(function))
    if "tool_calls" in message and not functions:
        losses.add(index, "an empty list of tool calls is left out")
    return functions


def yes_or_no_of(weight: float, name: str, index: int | None, losses: Losses) -> bool:
    """Return whether a weight puts something in the loss; reports what is neither 0 nor 1."""
    is_trained = weight > 0
    if weight not in (0.0, 1.0):
        losses.add(index, f"weight {weight:g} becomes {name}: {as_json(is_trained)}")
    return is_trained


def as_json(value: object) -> str:
    """Return JSON that keeps every character readable."""
    return json.dumps(value, ensure_ascii=False)
