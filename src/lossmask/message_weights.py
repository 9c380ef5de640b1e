"""How much the data itself lets a message, or some of its characters, count.

In: a message as read. Out: the message without loss keys, its weight, and ranges of characters with
weights of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossmask.row_values import number
from lossmask.weight_keys import with_weights


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


def read_weights(
    message: Mapping[str, Any], index: int
) -> tuple[dict[str, Any], float | None, tuple[WeightedRange, ...]]:
    """Take the loss keys off a message, under whatever name.

    Returns:
        The message without them; its weight, None if the data gives it none; its ranges.

    Raises:
        ConversationError: Two keys disagree, or a value is not what it should be.
    """
    plain = with_weights(message, index)
    weight, ranges = plain.pop("weight", None), plain.pop("weights", ())
    return plain, weight, tuple(WeightedRange(**each) for each in ranges)


def read_sample_weight(weight: object) -> float:
    """Return the weight of a row, 1 where none is given.

    Raises:
        ConversationError: It is no number.
    """
    return 1.0 if weight is None else number(weight, "weight")
