"""Examples -> packs of them, as a data set whose items are packs.

In: a map-style data set of examples. Out: one of packs, each of which a collator lays end to end
(`PaddingFreeCollator`). Which examples share a pack is fixed by the seed. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lossmask.flat_batch import FlatBatch, IntArray
from lossmask.packing import Packs, pack
from lossmask.prepared import PreparedDataset

if TYPE_CHECKING:
    from lossmask.training import Examples

__all__ = ["PackedExamples", "pack_examples"]


@dataclass(frozen=True, slots=True, eq=False)
class PackedExamples:
    """A map-style data set of packs: item ``k`` is the examples of pack ``k``, in order."""

    data: Examples
    """The examples."""
    packs: Packs
    """Which of them share a pack."""

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> Sequence[Mapping[str, Any]]:
        """Return the examples of one pack.

        Raises:
            IndexError: There is no such pack.
        """
        return _examples(self.data, self.packs[index].tolist())

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        """Return the examples of some packs, those of a pack one after the other."""
        return _examples(self.data, np.concatenate([self.packs[k] for k in indices]).tolist())


def pack_examples(data: Examples, max_length: int, *, seed: int = 0) -> PackedExamples:
    """Pack the examples of a data set by best-fit decreasing over all of them.

    Args:
        data: The examples.
        max_length: Tokens that a pack has room for.
        seed: Of the order of packs and of examples of one length.

    Raises:
        InputError: There is no example, or one is longer than ``max_length``. Names the example,
            of a prepared folder its input row too.
        PolicyError: ``max_length`` is below 1.

    Example:
        >>> row = {"input_ids": [7, 8], "labels": [-100, 8]}
        >>> packed = pack_examples([row, row, row], 4)
        >>> sorted(len(packed[k]) for k in range(2))
        [1, 2]
    """
    lengths, name = _measured(data)
    return PackedExamples(data, pack(lengths, max_length, seed=seed, where=name))


def _examples(data: Examples, numbers: list[int]) -> Sequence[Mapping[str, Any]]:
    together: Callable[..., Sequence[Any]] | None = getattr(data, "__getitems__", None)
    return [data[number] for number in numbers] if together is None else together(numbers)


def _measured(data: Examples) -> tuple[IntArray, Callable[[int], str]]:
    """Return the length of each example, and what names one in an error."""
    if isinstance(data, PreparedDataset):
        rows, folder = data.rows, data.folder
        return data.lengths, lambda at: f"{folder}: example {at} (input row {rows[at]})"
    examples = _examples(data, list(range(len(data))))
    if isinstance(examples, FlatBatch) and examples.numbers is not None:  # a part of such a folder
        numbers = examples.numbers
        return examples.lengths, lambda at: f"example {numbers[at]}"
    lengths = np.array([len(example["input_ids"]) for example in examples], np.int64)
    return lengths, "example {}".format
