"""What of the user's data did the template not show?

In: a message and a rendering of it. Out: findings, one per kind of loss, each naming the fields. A
loss here costs data, never exactness: what the model is trained to write is checked in ``written``,
which keeps a turn out of the loss where its visible text is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.example import Finding
from lossmask.rendering import Message
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import COARSE
from lossmask.white_space import is_visible

_REASONING = ("reasoning_content", "thinking", "reasoning")
_STRUCTURE = frozenset({"role", "type"})  # name a form; templates show it by what they write
_KINDS = {
    "system_dropped": "the template left out text of a system message",
    "message_dropped": "the template left out text of a message",
    "tool_calls_dropped": "the template left out a tool call",
    "reasoning_dropped": "the template left out the reasoning of this message",
    "part_dropped": "the template left out a part of the content that is not text",
    "key_dropped": "the template does not show everything the message holds",
    "text_trimmed": "the template cut white space off the ends of a text",
    "text_altered": "the template changed a text beyond cutting its ends",
}

_CHECKED_IF_TRAINED = frozenset({"message_dropped", "tool_calls_dropped", "reasoning_dropped"})


class Shown:
    """Which characters of which string a rendering shows.

    Args:
        rendering: A rendering of some messages.
    """

    def __init__(self, rendering: Rendering) -> None:
        self._rendering = rendering

    def offsets(self, index: int, path: str) -> npt.NDArray[np.int64]:
        """Return the offsets of a string's characters in the order shown, int64 (n,)."""
        places, origins = self._rendering.places, self._rendering.origins
        return origins[places.positions(places.number(index, path), len(origins))] & COARSE


def find_losses(
    message: Message, index: int, shown: Shown, *, is_trained: bool
) -> tuple[Finding, ...]:
    """Find what of a message a rendering does not show.

    Args:
        message: The message.
        index: Its index.
        shown: Of ``full(index)`` if the message is trained, else of the whole conversation.
        is_trained: Whether ``written`` has checked content, tool calls and reasoning already.

    Returns:
        At most one finding of each kind, which lists the fields concerned.
    """
    lost: dict[str, list[str]] = {}
    for path, text in _strings_of(message):
        kind = _loss(path, text, _offsets(path, index, shown), message)
        if kind is not None and not (is_trained and kind in _CHECKED_IF_TRAINED):
            lost.setdefault(kind, []).append(path)
    return tuple(
        Finding(kind, f"{_KINDS[kind]}: {', '.join(map(repr, paths))}", index)
        for kind, paths in lost.items()
    )


def other_parts(message: Message) -> Iterator[int]:
    """Yield the numbers of the content parts that hold no text: images, sound."""
    content = message.get("content")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, Mapping) and not isinstance(part.get("text"), str):
            yield number


def part_dropped(index: int, number: int) -> Finding:
    """Return the finding for a content part that the template does not show."""
    return Finding("part_dropped", f"{_KINDS['part_dropped']}: 'content/{number}'", index)


def tools_dropped() -> Finding:
    """Return the finding for tool schemas that the template does not show."""
    return Finding(
        "tools_dropped",
        "the template shows the conversation in the same way with and without its tools: the model "
        "is not told that they exist",
        -1,
    )


def _offsets(path: str, index: int, shown: Shown) -> npt.NDArray[np.int64]:
    """Return what is shown of a string; transformers gives reasoning under three names."""
    paths = _REASONING if path in _REASONING else (path,)
    return max((shown.offsets(index, name) for name in paths), key=len)


def _strings_of(message: Message) -> Iterator[tuple[str, str]]:
    """Yield path and text of every string in a message that is not empty."""
    others = {f"content/{number}/" for number in other_parts(message)}
    for key, value in message.items():
        if key not in _STRUCTURE:
            strings = _strings(value, key)
            yield from (item for item in strings if not item[0].startswith(tuple(others)))


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if value:
            yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _STRUCTURE or "/arguments" in path:
                yield from _strings(item, f"{path}/{key}")
    elif isinstance(value, Sequence):
        for number, item in enumerate(value):
            yield from _strings(item, f"{path}/{number}")


def _loss(path: str, text: str, shown: npt.NDArray[np.int64], message: Message) -> str | None:
    """Return the kind of loss of one string, None if it is shown as it is."""
    if np.array_equal(shown, np.arange(len(text))):
        return None
    is_coarse = bool((shown == COARSE).any())
    if not is_coarse and np.setdiff1d(np.flatnonzero(is_visible(text)), shown).size:
        return _kind_of_missing(path, message)
    top = path.partition("/")[0]
    if top != "content" and top not in _REASONING:
        return None
    if is_coarse:
        return "text_altered"
    if not shown.size:
        return "text_trimmed"  # only white space
    first, last = int(shown.min()), int(shown.max())
    if len(np.unique(shown)) < last + 1 - first:
        return "text_altered"
    return "text_trimmed" if (first, last) != (0, len(text) - 1) else None


def _kind_of_missing(path: str, message: Message) -> str:
    top = path.partition("/")[0]
    if top in _REASONING:
        return "reasoning_dropped"
    if top == "tool_calls" and not re.fullmatch(r"tool_calls/\d+/id", path):
        return "tool_calls_dropped"
    if top != "content":
        return "key_dropped"
    return "system_dropped" if message["role"] in ("system", "developer") else "message_dropped"
