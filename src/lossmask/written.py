"""Did the template write all of a message that is to be trained?

In: a message and its rendering. Out: findings, or a :class:`ParityError` where visible text is
missing: training on what is left would teach an answer that nobody gave.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lossmask.errors import ParityError
from lossmask.example import Finding
from lossmask.leaf_places import Positions
from lossmask.rendering import Message
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import COARSE
from lossmask.white_space import is_visible

THINK_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
REASONING = ("reasoning_content", "thinking", "reasoning")


def check_written(
    message: Message, index: int, rendering: Rendering, end: int
) -> tuple[Finding, ...]:
    """Check that content, tool names and arguments of a message lie in ``rendering.text[:end]``.

    White space at any place may be missing; reasoning may be missing too, with a finding.

    Raises:
        ParityError: Visible text is missing, or arguments are torn apart.
    """
    written = _Written(rendering, index, end)
    for path, text in _visible(message):
        missing = written.missing(path, text)
        if missing and not _is_inline_reasoning(text, missing):
            raise _dropped(index, path, text[missing[0] : missing[0] + 30])
    for path, text in _arguments(message):
        if written.missing(path, text):
            raise _dropped(index, path, text[:30])
        if not written.is_contiguous(path):
            raise ParityError(
                f"the template tears {path!r} apart, character by character: it expects an object "
                "where the data has a JSON string",
                reason="arguments_torn",
                message_index=index,
            )
    return _check_reasoning(message, index, written)


def _check_reasoning(message: Message, index: int, written: _Written) -> tuple[Finding, ...]:
    fields = [field for field in REASONING if str(message.get(field) or "").strip()]
    lost = bool(fields) and all(
        written.missing(alias, str(message[fields[0]])) for alias in REASONING
    )
    visible = [path for path, _ in _visible(message)]
    if lost and not visible:
        raise _dropped(index, fields[0], str(message[fields[0]])[:30])
    inline = any(
        _loses_reasoning(text, written.missing(path, text)) for path, text in _visible(message)
    )
    if not lost and not inline:
        return ()
    detail = "the template left out the reasoning of this message: the answer is trained without it"
    return (Finding("reasoning_dropped", detail, index),)


def _dropped(index: int, path: str, excerpt: str) -> ParityError:
    return ParityError(
        f"the template did not render {path!r} of this message, at {excerpt!r}: training on what "
        "is left would teach an answer that nobody gave",
        reason="content_dropped",
        message_index=index,
    )


class _Written:
    """Which characters of one message's strings a rendering shows."""

    def __init__(self, rendering: Rendering, index: int, end: int) -> None:
        self._rendering = rendering
        self._index = index
        self._end = end

    def missing(self, path: str, text: str) -> list[int]:
        """Return the offsets of visible characters of ``text`` that are not shown."""
        offsets = self._rendering.origins[self._positions(path)] & COARSE
        if np.array_equal(offsets, np.arange(len(text))) or (offsets == COARSE).any():
            return []
        is_missing = is_visible(text)
        is_missing[offsets[offsets < len(text)]] = False
        missing: list[int] = np.flatnonzero(is_missing).tolist()
        return missing

    def is_contiguous(self, path: str) -> bool:
        """Return whether nothing else stands between the characters of a string."""
        at = self._positions(path)
        return not at.size or int(at[-1] - at[0]) + 1 == at.size

    def _positions(self, path: str) -> Positions:
        places = self._rendering.places
        return places.positions(places.number(self._index, path), self._end)


def _visible(message: Message) -> Iterator[tuple[str, str]]:
    """Yield path and text of content and tool names that hold more than white space."""
    content = message.get("content")
    parts = enumerate(content) if isinstance(content, list) else ()
    texts: list[tuple[str, str]] = [("content", content)] if isinstance(content, str) else []
    for number, part in parts:
        if isinstance(part, str):
            texts.append((f"content/{number}", part))
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append((f"content/{number}/text", part["text"]))
    for number, call in enumerate(message.get("tool_calls") or []):
        path, function = _function(call, number)
        texts.append((f"{path}/name", function["name"]))
    yield from ((path, text) for path, text in texts if text.strip())


def _arguments(message: Message) -> Iterator[tuple[str, str]]:
    for number, call in enumerate(message.get("tool_calls") or []):
        path, function = _function(call, number)
        yield from _strings(function.get("arguments"), f"{path}/arguments")


def _function(call: Mapping[str, Any], number: int) -> tuple[str, Mapping[str, Any]]:
    """Return path and mapping that hold name and arguments of a call, in either common form."""
    path = f"tool_calls/{number}"
    return (f"{path}/function", call["function"]) if "function" in call else (path, call)


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _strings(item, f"{path}/{number}")


def _is_inline_reasoning(text: str, missing: list[int]) -> bool:
    """Return whether all that is missing lies in a think block at the beginning of the text."""
    return any(
        closing in text and missing[-1] < text.rindex(closing) + len(closing)
        for _, closing in THINK_PAIRS
    )


def _loses_reasoning(text: str, missing: list[int]) -> bool:
    """Return whether more than the tags of a think block is missing."""
    if not missing:
        return False
    tags = {
        at
        for pair in THINK_PAIRS
        for tag in pair
        for found in re.finditer(re.escape(tag), text)  # none overlaps itself
        for at in range(*found.span())
    }
    return not tags.issuperset(missing)
