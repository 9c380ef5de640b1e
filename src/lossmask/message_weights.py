"""How much the data itself lets a message, or some of its characters, count.

In: a message as read. Out: its weight, and ranges of characters with weights of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeGuard

from lossmask.errors import ConversationError
from lossmask.values import kind_of, shown

_KEYS_OF_RANGE = frozenset({"start", "end", "weight", "path"})
_SMALLEST_WEIGHT, _LARGEST_WEIGHT = 1.1754944e-38, 3.4028234e38  # normal float32


@dataclass(frozen=True, slots=True)
class WeightedRange:
    """Characters of one string of a message, and how much they count.

    Attributes:
        path: The string, as in ``Leaf.path``: ``content``, ``content/0/text``, ….
        start: First character.
        end: Behind the last one.
        weight: Loss weight of the tokens that begin there.
    """

    path: str
    start: int
    end: int
    weight: float


def read_sample_weight(weight: object) -> float:
    """Return the weight of a row, 1 where none is given."""
    if weight is None:
        return 1.0
    if not _is_weight(weight):
        raise ConversationError(f"the row's 'weight' must be a number, got {kind_of(weight)}")
    return float(weight)


def read_ranges(message: Mapping[str, Any], index: int) -> tuple[WeightedRange, ...]:
    """Read ``weights``: character ranges of strings of the message, none overlapping another."""
    given = message.get("weights")
    if given is None:
        return ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ConversationError(
            f"'weights' must be a list of ranges, got {kind_of(given)}", message_index=index
        )
    ranges = sorted(
        (_range(item, message, index) for item in given), key=lambda item: (item.path, item.start)
    )
    for one, other in pairwise(ranges):
        if one.path == other.path and other.start < one.end:
            raise ConversationError(
                f"'weights': {one.start}:{one.end} and {other.start}:{other.end} of "
                f"{one.path!r} overlap",
                message_index=index,
            )
    return tuple(ranges)


def _range(item: object, message: Mapping[str, Any], index: int) -> WeightedRange:
    if not isinstance(item, Mapping) or not _KEYS_OF_RANGE.issuperset(item):
        raise ConversationError(
            "'weights' must hold objects with start, end, weight and, if it is not the content, "
            f"path; got {shown(item)}",
            message_index=index,
        )
    path = item.get("path", "content")
    text = string_at(message, path)
    start, end, weight = item.get("start"), item.get("end"), item.get("weight")
    if text is None:
        raise ConversationError(
            f"'weights': {shown(path)} is no string of this message", message_index=index
        )
    if not _is_index(start) or not _is_index(end) or not 0 <= start < end <= len(text):
        raise ConversationError(
            f"'weights': {shown(start)}:{shown(end)} is not a range of characters in {path!r}, "
            f"which has {len(text)}",
            message_index=index,
        )
    if not _is_weight(weight):
        raise ConversationError(
            f"'weights': the weight must be a number of float32, got {kind_of(weight)}",
            message_index=index,
        )
    return WeightedRange(path, start, end, float(weight))


def _is_index(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def string_at(message: Mapping[str, Any], path: object) -> str | None:
    """Return the string of a message that a path like ``content/0/text`` leads to, if any."""
    value: Any = message
    for key in path.split("/") if isinstance(path, str) else ():
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, (list, tuple)) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value if isinstance(value, str) else None


def read_weight(message: Mapping[str, Any], index: int) -> float | None:
    """Return the weight that ``weight`` or ``train`` gives a message, None if neither does."""
    train, weight = message.get("train"), message.get("weight")
    if train is not None and not isinstance(train, bool):
        raise ConversationError(
            f"'train' must be true or false, got {shown(train)}", message_index=index
        )
    if weight is not None and not _is_weight(weight):
        raise ConversationError(
            f"'weight' must be a number of float32, got {kind_of(weight)}",
            message_index=index,
        )
    if train is not None and weight is not None and train != bool(weight):
        raise ConversationError(
            f"'train' is {train} but 'weight' is {weight}: they contradict each other",
            message_index=index,
        )
    if weight is not None:
        return float(weight)
    return None if train is None else float(train)


def _is_weight(weight: object) -> TypeGuard[float]:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        return False
    return weight == 0 or _SMALLEST_WEIGHT <= abs(weight) <= _LARGEST_WEIGHT
