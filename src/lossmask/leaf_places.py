"""Where each string of a conversation stands in a rendering of it.

In: the origins of a text. Out: for each string, the positions of its characters, and for each
message its strings. Found out once, when first asked for, and shared by all that is a beginning of
the rendering: what concerns one message then takes no longer in a long conversation::

    <user>Hi<asst>Hello<end>       leaf 0 (message 0): 6 7       leaf 1 (message 1): 14 … 18
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lossmask.traced_text import Origins, leaf_of

if TYPE_CHECKING:  # which imports this module
    from lossmask.traced_rendering import Leaf

Positions = npt.NDArray[np.int64]


class LeafPlaces:
    """Where the strings of a conversation stand.

    Args:
        origins: int64 (n,), origin per character of a text.
        leaves: What the origins index.
    """

    def __init__(self, origins: Origins, leaves: Sequence[Leaf]) -> None:
        self._origins = origins
        self._leaves = leaves

    def are_of(self, origins: Origins) -> bool:
        """Return whether some origins are the first of those that this was made of."""
        return begin_alike(origins, self._origins)

    def positions(self, number: int, end: int) -> Positions:
        """Return where the characters of a string stand in ``text[:end]``, int64 (k,) ascending."""
        at, starts = self._sorted
        if not 0 <= number < len(starts) - 1:
            return at[:0]
        own = at[starts[number] : starts[number + 1]]
        return own[: np.searchsorted(own, end)] if len(own) and own[-1] >= end else own

    def number(self, message_index: int, path: str) -> int:
        """Return the leaf of a value, -1 if there is none."""
        return self._numbers.get((message_index, path), -1)

    def numbers(self, message_index: int) -> Sequence[int]:
        """Return the leaves of a message, keys included, ascending."""
        return self._of_message.get(message_index, ())

    def end_of_message(self, message_index: int, end: int) -> int:
        """Return the position behind the last character of a message in ``text[:end]``, or 0."""
        each = (self.positions(number, end) for number in self.numbers(message_index))
        return max((int(at[-1]) + 1 for at in each if len(at)), default=0)

    def begin_of_message(self, message_index: int, end: int) -> int:
        """Return the position of the first character of a message in ``text[:end]``, or ``end``."""
        each = (self.positions(number, end) for number in self.numbers(message_index))
        return min((int(at[0]) for at in each if len(at)), default=end)

    @cached_property
    def message_of_leaf(self) -> npt.NDArray[np.int32]:
        """The message of each leaf, int32 (leaves,); one -1 if there are none."""
        return np.array([leaf.message_index for leaf in self._leaves] or [-1], np.int32)

    @cached_property
    def _sorted(self) -> tuple[Positions, Positions]:
        """The positions by leaf, and where each leaf begins among them."""
        written = np.flatnonzero(self._origins >= 0)
        leaf = leaf_of(self._origins[written])
        if (leaf[1:] < leaf[:-1]).any():
            order = np.argsort(leaf, kind="stable")
            written, leaf = written[order], leaf[order]
        return written, np.searchsorted(leaf, np.arange(len(self._leaves) + 1))

    @cached_property
    def _numbers(self) -> dict[tuple[int, str], int]:
        return {
            (leaf.message_index, leaf.path): number
            for number, leaf in enumerate(self._leaves)
            if not leaf.is_key
        }

    @cached_property
    def _of_message(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for number, leaf in enumerate(self._leaves):
            found.setdefault(leaf.message_index, []).append(number)
        return found


def begin_alike(origins: Origins, others: Origins) -> bool:
    """Return whether an array is the beginning of another one, in the same memory."""
    if origins is others:
        return True
    return (
        len(origins) <= len(others)
        and origins.strides == others.strides
        and origins.__array_interface__["data"] == others.__array_interface__["data"]
    )
