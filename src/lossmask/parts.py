r"""What each character of a completion is part of.

In: a completion with origins. Out: a part per character::

    <think>\nSo.\n</think>\n\nHi.\n<call>{"name": "add", "arguments": {"a": 2}}</call><|im_end|>
    reasoning-----------content-tool_calls.syntax--------------------------------stop------
                                         name            arguments

What a message wrote is told by the field it wrote it in; a think block inside the content is
reasoning. What the template wrote goes with the field that follows it, or that precedes it at the
end; around tool calls it is their syntax. Arguments are their keys and strings and what stands
between them, and all of the object where the template writes it as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.leaf_places import Positions
from lossmask.policy import PARTS
from lossmask.rendering import Message
from lossmask.traced_rendering import Leaf
from lossmask.traced_text import Origins, leaf_of
from lossmask.written import REASONING, THINK_PAIRS

Parts = npt.NDArray[np.int8]
"""int8 (n,): index into ``PARTS`` for each character."""

_CODE = {part: code for code, part in enumerate(PARTS)}
_UNKNOWN = -1
_PROMPT, _SCAFFOLD = _CODE["prompt"], _CODE["scaffold"]
_CONTENT, REASONING_PART = _CODE["content"], _CODE["reasoning"]
_NAME, _ARGUMENTS = _CODE["tool_calls.name"], _CODE["tool_calls.arguments"]
_SYNTAX, _STOP = _CODE["tool_calls.syntax"], _CODE["stop"]
_CALLS = (_NAME, _ARGUMENTS, _SYNTAX)
_BLOCKS = tuple(
    re.compile(re.escape(opening) + r"(.*?)" + re.escape(closing), re.DOTALL)
    for opening, closing in THINK_PAIRS
)


def parts_of(
    text: str,
    origins: Origins,
    leaves: Sequence[Leaf],
    *,
    begins: str,
    end: int,
    message: Message,
) -> Parts:
    """Return the part of each character of a completion.

    Args:
        text: The completion, n characters.
        origins: int64 (n,).
        leaves: What the origins index.
        begins: What of the prompt no other message wrote; it may open a think block.
        end: Where its stop tokens begin.
        message: The message that it is of.
    """
    written = _written(leaf_of(origins), leaves)
    is_called = _are_called(written)
    parts: Parts = written.copy()
    _fill(parts[:end])
    for start, stop_at in _arguments_in(text[:end], _are_called(parts[:end]), message):
        parts[start:stop_at] = _ARGUMENTS
    for start, stop_at, _ in think_blocks(text[:end], begins):
        if not is_called[start:stop_at].any():  # tags inside of arguments are data
            parts[start:stop_at] = REASONING_PART
    parts[end:] = _STOP
    return parts


def with_outside(parts: Parts, message_index: npt.NDArray[np.int32]) -> Parts:
    """Return the parts of tokens with those of the tokens outside of all completions.

    Args:
        parts: int8 (n,), -1 outside of completions.
        message_index: int32 (n,), -1 = the template wrote the token.

    Returns:
        int8 (n,): where it was -1, ``prompt`` if a message wrote the token, else ``scaffold``.
    """
    outside = np.where(message_index >= 0, np.int8(_PROMPT), np.int8(_SCAFFOLD))
    filled: Parts = np.where(parts == _UNKNOWN, outside, parts)
    return filled


def might_think(text: str) -> bool:
    """Return whether there may be a think block in a text; quicker than to look for one."""
    return "think>" in text or "THINK" in text


def might_think_anywhere(texts: bytes) -> bool:
    """Return whether :func:`might_think` could be true of one of many texts, in UTF-8; quicker."""
    letters = np.frombuffer(texts, np.uint8)
    first, second = letters[:-1], letters[1:]
    ends = (first == ord("k")) & (second == ord(">"))
    ends |= (first == ord("N")) & (second == ord("K"))
    return bool(ends.any())


def parts_of_answers(
    in_loss: npt.NDArray[np.bool_],
    is_stop: npt.NDArray[np.bool_],
    message_index: Any,
    is_thought: npt.NDArray[np.bool_] | None = None,
) -> Parts:
    """Return the parts of tokens whose completions are plain: a content, and stop tokens behind.

    Args:
        in_loss: bool (n,), in a completion.
        is_stop: bool (n,), a token at which inference ends a turn.
        message_index: int32 (n,), -1 = the template wrote the token.
        is_thought: bool (n,), in a think block; None if there is none.

    Returns:
        int8 (n,): ``content``, ``reasoning``, ``stop`` (those the template wrote), ``prompt`` or
        ``scaffold``.
    """
    ends = is_stop & (message_index < 0)
    inside = np.where(ends, np.int8(_STOP), np.int8(_CONTENT))
    if is_thought is not None:
        inside = np.where(is_thought, np.int8(REASONING_PART), inside)
    return with_outside(np.where(in_loss, inside, np.int8(_UNKNOWN)), message_index)


def _written(leaf: Positions, leaves: Sequence[Leaf]) -> Parts:
    """Return the part of each character that a message wrote, by its leaf."""
    last = int(leaf.max(initial=-1))
    if last < 0:
        return np.full(len(leaf), _UNKNOWN, np.int8)
    is_written = leaf >= 0
    first = int(leaf[is_written].min())
    of_leaf = np.array([*map(_part_of, leaves[first : last + 1]), _UNKNOWN], np.int8)
    written: Parts = of_leaf[np.where(is_written, leaf - first, -1)]
    return written


def _are_called(parts: Parts) -> npt.NDArray[np.bool_]:
    return (parts >= _NAME) & (parts <= _SYNTAX)


def end_of_answer(text: str, origins: Origins, stop: str | None, terminators: Sequence[str]) -> int:
    """Return where the stop tokens at the end of a completion begin, its length if there are none.

    Args:
        text: The completion; tags may leave white space behind its stop token.
        origins: int64 (n,).
        stop: The last stop token.
        terminators: Texts of all stop tokens: those right before the last one end a turn with it.
    """
    if not stop:
        return len(text)
    end = text.rfind(stop)
    while True:
        before = [each for each in terminators if each and text.endswith(each, 0, end)]
        start = end - max(map(len, before), default=0)
        if start == end or (origins[start:end] >= 0).any():  # the message itself wrote it
            return end
        end = start


def _arguments_in(
    text: str, is_call: npt.NDArray[np.bool_], message: Message
) -> Iterator[tuple[int, int]]:
    """Yield where the arguments of the calls stand as JSON, numbers and braces included."""
    at = 0
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        at = max(_find(text, function["name"], at, is_call), at)
        arguments = function.get("arguments")
        if isinstance(arguments, str) or arguments is None:
            continue
        found = [(_find(text, each, at, is_call), len(each)) for each in _spellings(arguments)]
        start, length = min((pair for pair in found if pair[0] >= 0), default=(-1, 0))
        if start >= 0:
            yield start, start + length
            at = start + length


def _find(text: str, piece: str, at: int, is_call: npt.NDArray[np.bool_]) -> int:
    """Return where a piece stands in the calls of a text, -1 if nowhere."""
    found = text.find(piece, at)
    while found >= 0 and not is_call[found : found + len(piece)].all():
        found = text.find(piece, found + 1)
    return found


def _spellings(arguments: object) -> Iterator[str]:
    """Yield the ways in which templates write an object as JSON."""
    for ascii_only, separators, is_sorted in product(
        (False, True), ((", ", ": "), (",", ":")), (False, True)
    ):
        try:
            written = json.dumps(
                arguments, ensure_ascii=ascii_only, separators=separators, sort_keys=is_sorted
            )
        except (TypeError, ValueError):  # keys that cannot be sorted, values that are not JSON
            continue
        yield written


def think_blocks(text: str, begins: str) -> list[tuple[int, int, bool]]:
    """Return where the think blocks of a completion lie, and whether nothing is in them.

    A block that the prompt opens begins with the completion.
    """
    found = []
    for (opening, closing), pattern in zip(THINK_PAIRS, _BLOCKS, strict=True):
        start = 0
        opened = begins.rfind(opening)
        if opened > begins.rfind(closing) and closing in text:
            start = text.index(closing) + len(closing)
            inside = begins[opened + len(opening) :] + text[: start - len(closing)]
            found.append((0, start, not inside.strip()))
        for block in pattern.finditer(text, start):
            found.append((block.start(), block.end(), not block[1].strip()))
    return sorted(found)


def _part_of(leaf: Leaf) -> int:
    if leaf.field in REASONING:
        return REASONING_PART
    if leaf.field != "tool_calls":
        return _CONTENT
    keys = leaf.path.split("/")[2:]
    if keys[:1] == ["function"]:
        keys = keys[1:]
    if keys[:1] == ["name"] and not leaf.is_key:
        return _NAME
    if keys[:1] == ["arguments"] and (len(keys) > 1 or not leaf.is_key):
        return _ARGUMENTS
    return _SYNTAX


def _fill(parts: Parts) -> None:
    """Give what the template wrote the part of what follows it, or else of what precedes it."""
    known = np.flatnonzero(parts != _UNKNOWN)
    if not known.size:
        parts[:] = _CONTENT
        return
    only = parts[known[0]]
    if only < _NAME and (parts[known] == only).all():
        parts[:] = only
        return
    at = np.arange(len(parts))
    following = np.searchsorted(known, at)
    after = parts[known[np.minimum(following, known.size - 1)]].copy()
    before = parts[known[np.maximum(following - 1, 0)]].copy()
    is_last = following == known.size
    in_calls = (after >= _NAME) | ((before >= _NAME) & (before <= _SYNTAX) & (following > 0))
    in_calls &= after != _STOP
    inside = (after == _ARGUMENTS) & (before == _ARGUMENTS) & (following > 0) & ~is_last
    filled = np.where(is_last, before, after)
    filled = np.where(in_calls, _SYNTAX, filled)
    filled = np.where(inside, _ARGUMENTS, filled)
    parts[:] = np.where(parts == _UNKNOWN, filled, parts)
