"""A rendering, and the message and field behind each of its characters.

Made by ``rendering``, and by whatever else renders conversations.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lossmask.leaf_places import LeafPlaces
from lossmask.traced_text import COARSE, Mark, Origins, leaf_of

__all__ = ["Leaf", "Rendering"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One string of the conversation: which message, and the path inside it."""

    message_index: int
    path: str
    """Keys and indices joined by ``/``: ``content``, ``tool_calls/0/function/arguments/city``."""
    is_key: bool = False
    """Whether the string is the last key of the path itself rather than the value under it."""

    @property
    def field(self) -> str:
        """The message key the string lies under: ``content``, ``reasoning_content``, …."""
        return self.path.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Rendering:
    """Rendered text of n characters and where each came from.

    Attributes:
        text: What ``apply_chat_template(tokenize=False)`` returns.
        origins: int64 array (n,), see ``traced_text``; negative for template scaffolding.
        leaves: The strings of the conversation; origins index them.
        marks: ``(position, mark)``, where the loop over messages begins and ends each one.
        ends: Number of messages -> where these, rendered alone, are proven to end: what they render
            to is ``text[:ends[k]]``, and the constant generation prompt where it is asked for.
        places: Where the leaves stand; shared with a rendering that this one is the beginning of.
    """

    text: str
    origins: Origins
    leaves: tuple[Leaf, ...]
    marks: tuple[tuple[int, Mark], ...]
    ends: Mapping[int, int] = field(default_factory=dict)
    places: LeafPlaces = field(default=None, compare=False, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.places is None or not self.places.are_of(self.origins):
            object.__setattr__(self, "places", LeafPlaces(self.origins, self.leaves))

    def beginning(self, count: int) -> Rendering:
        """Return the rendering of the first ``count`` messages, one of ``ends``."""
        end = self.ends[count]
        leaves = self.leaves[: bisect_left(self.leaves, count, key=_message_of_leaf)]
        first, last = bisect_left(self.marks, end, key=_at), bisect_right(self.marks, end, key=_at)
        there = (each for each in self.marks[first:last] if each[1].message_index < count)
        marks = (*self.marks[:first], *there)
        return Rendering(self.text[:end], self.origins[:end], leaves, marks, places=self.places)

    def message_index(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.int32]:
        """Return the message that each character of ``text[start:stop]`` came from.

        Returns:
            int32 (n,), -1 = scaffolding.
        """
        of_leaf = self.places.message_of_leaf
        leaf = leaf_of(self.origins[start:stop])
        return np.where(leaf >= 0, of_leaf[np.maximum(leaf, 0)], np.int32(-1))

    def leaves_shown(self, start: int = 0, stop: int | None = None) -> frozenset[Leaf]:
        """Return the strings of which at least one character lies in ``text[start:stop]``."""
        shown = np.unique(leaf_of(self.origins[start:stop]))
        return frozenset(self.leaves[number] for number in shown.tolist() if number >= 0)

    def origin(self, position: int) -> tuple[Leaf | None, int]:
        """Return the leaf (None = scaffolding) and offset behind one character.

        The offset is -1 where the character cannot be located inside its leaf.
        """
        origin = int(self.origins[position])
        if origin < 0:
            return None, -1
        offset = origin & COARSE
        return self.leaves[origin >> 32], -1 if offset == COARSE else offset


def _message_of_leaf(leaf: Leaf) -> int:
    return leaf.message_index


def _at(marked: tuple[int, Mark]) -> int:
    return marked[0]
