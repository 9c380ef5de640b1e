"""Pack documents into sequences of one length: lengths in, which document lies in which pack out.

`pack` sees all lengths and is best-fit decreasing: the longest document first, each into the
fullest pack that still has room for it, of equally full ones into that which was so first::

    max_length 8, lengths 5 4 3 3 1        pack 0   5 5 5 5 5 3 3 3
                                           pack 1   4 4 4 4 3 3 3 1

It works on the histogram of lengths. While documents of one length are placed, a pack that has
taken one of them is fuller than before and so takes the next, until it has no room for another.
Packs of equal space therefore change together, and a step moves all of them::

    12 packs with space 7, 20 documents of length 3: 2 each
        -> 10 packs with space 1, 2 packs with space 7

`pack_stream` sees a bounded number of documents at a time. No torch here.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lossmask.errors import InputError, LossmaskError, PolicyError

__all__ = ["Packs", "lower_bound", "pack", "pack_stream"]

IntArray = npt.NDArray[np.int64]
_Document = TypeVar("_Document")


@dataclass(frozen=True, slots=True, eq=False)
class Packs:
    """Which documents lie in which pack, and in which order.

    Pack ``k`` holds ``documents[starts[k]:starts[k + 1]]``::

        starts    0       2         5
        documents 4   1 | 3   0   2 |

    Raises:
        LossmaskError: On construction: a document is missing or there twice, a pack is empty or
            holds more than ``max_length`` tokens.
    """

    documents: IntArray
    """(documents,) int64: numbers of documents, each of 0..n-1 once, in reading order."""
    starts: IntArray
    """(packs + 1,) int64: where each pack begins in ``documents``."""
    lengths: IntArray
    """(documents,) int64: tokens of each document, by its number."""
    max_length: int
    """Tokens that a pack has room for."""

    def __post_init__(self) -> None:
        starts, count = self.starts, len(self.lengths)
        if len(self.documents) != count or not _is_permutation(self.documents):
            raise _broken(f"documents do not hold each of 0 to {count - 1} once")
        if len(starts) < 2 or starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 1).any():
            raise _broken("starts do not cut documents into packs that are not empty")
        over = np.flatnonzero(self.tokens > self.max_length)
        if over.size:
            raise _broken(f"pack {over[0]} holds {self.tokens[over[0]]} tokens")
        for values in (self.documents, self.starts, self.lengths):
            values.flags.writeable = False

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> IntArray:
        """Return the numbers of the documents of one pack, in reading order.

        Args:
            index: Number of the pack, 0-based; negative counts from the end.

        Raises:
            IndexError: There is no such pack.
        """
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"pack {index} of {len(self)}")
        return self.documents[self.starts[position] : self.starts[position + 1]]

    @property
    def tokens(self) -> IntArray:
        """(packs,) int64: the number of tokens of each pack."""
        sums: IntArray = np.add.reduceat(self.lengths[self.documents], self.starts[:-1])
        return sums

    @property
    def efficiency(self) -> float:
        """Share of the packs' room that is filled, at most 1."""
        return int(self.lengths.sum()) / (len(self) * self.max_length)

    @property
    def lower_bound(self) -> int:
        """See `lower_bound`: no packing has fewer packs."""
        return lower_bound(self.lengths, self.max_length)


def pack(
    lengths: npt.ArrayLike,
    max_length: int,
    *,
    seed: int = 0,
    where: Callable[[int], str] = "document {}".format,
) -> Packs:
    """Pack all documents by best-fit decreasing, in O(n log n).

    Args:
        lengths: (documents,) integers: tokens of each document, 1 to ``max_length``.
        max_length: Tokens that a pack has room for.
        seed: Of the order of the packs, and of which of the documents of one length lies where.
            What lengths lie together does not depend on it.
        where: Names a document, given its number, in an error.

    Returns:
        The packs. Within one, documents come in the order of decreasing length.

    Raises:
        InputError: There is no document, or one is empty or longer than ``max_length``.
        PolicyError: ``max_length`` is below 1.

    Example:
        >>> packs = pack([5, 3, 4, 1, 3], 8)
        >>> sorted(packs.lengths[packs[k]].tolist() for k in range(len(packs)))
        [[4, 3, 1], [5, 3]]
        >>> packs.efficiency, packs.lower_bound
        (1.0, 2)
    """
    sizes = _checked(lengths, max_length, where)
    values, counts = np.unique(sizes, return_counts=True)
    placed = _place(values[::-1].tolist(), counts[::-1].tolist(), max_length)
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(sizes))
    # NumPy sorts 16 bits by radix, which is several times faster.
    keys = (max_length - sizes[shuffled]).astype(np.uint16 if max_length < 1 << 16 else np.int64)
    by_length = shuffled[np.argsort(keys, kind="stable")]
    packs = draw.permutation(int(placed.max()) + 1)[placed]
    # Unique keys, so that the fastest sort is a stable one.
    order = np.sort(packs * len(sizes) + np.arange(len(sizes))) % len(sizes)
    starts = np.concatenate([[0], np.cumsum(np.bincount(packs))])
    return Packs(by_length[order], starts, sizes, max_length)


def lower_bound(lengths: npt.ArrayLike, max_length: int) -> int:
    """Return a number of packs that no packing can go below.

    The bound L2 of Martello and Toth (Knapsack Problems, 1990, section 8.3). For any ``least``
    up to half a pack: documents longer than half a pack lie apart from each other, and those of
    at least ``least`` tokens have to fit into what they leave, unless they leave less than that.
    With ``least`` 0 or 1 it is at least the number of tokens over ``max_length``.

    Args:
        lengths: (documents,) integers: tokens of each document, 1 to ``max_length``.
        max_length: Tokens that a pack has room for.
    """
    sizes = _checked(lengths, max_length, "document {}".format)
    values, counts = np.unique(sizes, return_counts=True)
    # number[k], tokens[k]: of documents shorter than values[k]
    number = np.concatenate([[0], np.cumsum(counts)])
    tokens = np.concatenate([[0], np.cumsum(counts * values)])
    half = int(np.searchsorted(values, max_length // 2, side="right"))
    least = np.concatenate([[0], values[:half]])
    small = np.searchsorted(values, least)
    large = np.searchsorted(values, max_length - least, side="right")
    room = (number[large] - number[half]) * max_length - (tokens[large] - tokens[half])
    overflow = np.maximum(tokens[half] - tokens[small] - room, 0)
    bounds = number[-1] - number[half] + -(-overflow // max_length)
    return int(bounds.max())


def _checked(lengths: npt.ArrayLike, max_length: int, where: Callable[[int], str]) -> IntArray:
    """Return a copy of the lengths as int64, each between 1 and ``max_length``."""
    _check_max_length(max_length)
    given = np.asarray(lengths)
    if given.ndim != 1 or not len(given) or given.dtype.kind not in "iu":
        raise InputError(
            f"the lengths to pack are {given.dtype} of shape {given.shape}: give one integer for "
            "each document, and at least one.",
            reason="no_documents" if given.size == 0 else "bad_lengths",
        )
    sizes = given.astype(np.int64)
    wrong = np.flatnonzero((sizes < 1) | (sizes > max_length))
    if wrong.size:
        others = f" (and {wrong.size - 1:,} more cannot be packed)" if wrong.size > 1 else ""
        worst = int(wrong[sizes[wrong].argmax()])  # the longest, so that its length will do for all
        _check_length(int(sizes[worst]), max_length, where(worst), others)
    return sizes


def _check_max_length(max_length: int) -> None:
    if operator.index(max_length) < 1:
        raise PolicyError(f"max_length is {max_length}: a pack needs room for 1 token or more.")


def _check_length(length: int, max_length: int, name: str, others: str = "") -> None:
    if length < 1:
        raise InputError(
            f"{name} has {length} tokens{others}: leave out documents without tokens.",
            reason="empty_document",
        )
    if length > max_length:
        raise InputError(
            f"{name} has {length:,} tokens, and a pack has room for {max_length:,}{others}. "
            f"Nothing is cut here: pack to {length:,} or more, or shorten such documents or leave "
            "them out when the data is prepared.",
            reason="document_too_long",
        )


def _place(values: list[int], counts: list[int], max_length: int) -> IntArray:
    """Return the pack of each document, for documents in the order of decreasing length.

    Args:
        values: Distinct lengths, decreasing.
        counts: How many documents have each.
        max_length: Tokens that a pack has room for.

    Returns:
        (documents,) int64. Packs are numbered in the order in which they are opened.
    """
    runs = _OpenPacks(max_length)
    first: list[int] = []  # of the packs that a step fills, which are numbered without a gap
    packs: list[int] = []
    each: list[int] = []  # documents that every one of them takes
    for length, left in zip(values, counts, strict=True):
        while left:
            start, count, space = runs.take(length)
            fits = space // length
            filled = min(count, left // fits) or 1
            taken = min(fits, left)
            first.append(start)
            packs.append(filled)
            each.append(taken)
            left -= filled * taken
            runs.put_back(start + filled, count - filled, space)
            runs.add(start, filled, space - taken * length)
    steps, documents_each = np.array(packs), np.array(each)
    before = np.cumsum(steps) - steps
    numbers = np.repeat(np.array(first) - before, steps) + np.arange(steps.sum())
    return np.repeat(numbers, np.repeat(documents_each, steps)).astype(np.int64)


@dataclass(slots=True)
class _OpenPacks:
    """Runs of consecutive packs by the space they have left, and new packs without end."""

    max_length: int
    opened: int = 0
    """How many packs have been begun."""
    spaces: list[int] = field(default_factory=list)
    """The spaces that some pack has, increasing."""
    queues: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)
    """Space -> runs (first pack, packs), in the order in which they came to have it."""

    def take(self, length: int) -> tuple[int, int, int]:
        """Remove the first run of the fullest packs with room for ``length`` tokens.

        Returns:
            First pack, packs, space. New packs are as many as one may want.
        """
        at = bisect_left(self.spaces, length)
        if at == len(self.spaces):
            return self.opened, _ENDLESS, self.max_length
        space = self.spaces[at]
        queue = self.queues[space]
        first, packs = queue.popleft()
        if not queue:
            del self.queues[space]
            del self.spaces[at]
        return first, packs, space

    def put_back(self, first: int, packs: int, space: int) -> None:
        """Return what was not wanted of a run to the front of its queue."""
        if space == self.max_length:
            self.opened = first
        elif packs:
            self._queue(space).appendleft((first, packs))

    def add(self, first: int, packs: int, space: int) -> None:
        """Append a run of packs that now have this space."""
        if space:
            self._queue(space).append((first, packs))

    def _queue(self, space: int) -> deque[tuple[int, int]]:
        if space not in self.queues:
            self.queues[space] = deque()
            insort(self.spaces, space)
        return self.queues[space]


_ENDLESS = 1 << 62


def _is_permutation(documents: IntArray) -> bool:
    count = len(documents)
    if documents.min(initial=0) < 0 or documents.max(initial=-1) >= count:
        return False
    return bool((np.bincount(documents, minlength=count) == 1).all())


def _broken(what: str) -> LossmaskError:
    return LossmaskError(
        f"these packs are not a packing: {what}. Make them with `lossmask.packing.pack`.",
        reason="broken_packs",
    )


def pack_stream(
    documents: Iterable[_Document],
    max_length: int,
    *,
    length: Callable[[_Document], int] | None = None,
    buffer: int = 10_000,
) -> Iterator[list[_Document]]:
    """Pack documents as they come, with a bounded number of them in memory.

    Whenever the buffer is full, it is packed by `pack`. Packs that are not full are taken apart and
    their documents packed again with those that come next; no document is kept twice, so none waits
    for ever. The packs depend on nothing but the documents and their order.

    Args:
        documents: The documents, of any kind.
        max_length: Tokens that a pack has room for.
        length: Returns the number of tokens of a document; by default ``len``.
        buffer: The most documents to hold at one time. More of them fill the packs better.

    Yields:
        The documents of a pack.

    Raises:
        InputError: A document is empty or longer than ``max_length``; raised where it is read, its
            number in the stream, from 0, in the text.
        PolicyError: ``max_length`` or ``buffer`` is below 1.

    Example:
        >>> sorted(pack_stream(["aaaaa", "bbbb", "ccc", "d"], 8))
        [['aaaaa', 'ccc'], ['bbbb', 'd']]
    """
    _check_max_length(max_length)
    if operator.index(buffer) < 1:
        raise PolicyError(f"buffer is {buffer}: give the number of documents to hold, 1 or more.")
    return _packed_stream(documents, max_length, length or _len, buffer)


def _len(document: Any) -> int:
    sized: Sized = document
    return len(sized)


def _packed_stream(
    documents: Iterable[_Document],
    max_length: int,
    length: Callable[[_Document], int],
    buffer: int,
) -> Iterator[list[_Document]]:
    waiting: list[tuple[int, _Document]] = []
    carried = 0  # how many of them, the first ones, have been packed before without leaving
    for number, document in enumerate(documents):
        size = length(document)
        _check_length(size, max_length, f"document {number} of the stream")
        waiting.append((size, document))
        while len(waiting) == buffer:  # a second time if no pack was full
            leaving, kept = _divide(waiting, carried, max_length)
            yield from leaving
            waiting, carried = kept, len(kept)
    if waiting:
        yield from _divide(waiting, len(waiting), max_length)[0]


def _divide(
    waiting: list[tuple[int, _Document]], carried: int, max_length: int
) -> tuple[list[list[_Document]], list[tuple[int, _Document]]]:
    """Pack what waits, and return the packs that leave and the documents that wait on.

    A pack leaves if it is full, or holds one of the first ``carried`` documents.
    """
    packs = pack([size for size, _ in waiting], max_length)
    leaves = packs.tokens >= _FULL * max_length
    leaving: list[list[_Document]] = []
    kept: list[int] = []
    for index in range(len(packs)):
        numbers = packs[index].tolist()
        if leaves[index] or min(numbers) < carried:
            leaving.append([waiting[number][1] for number in numbers])
        else:
            kept += numbers
    return leaving, [waiting[number] for number in sorted(kept)]


_FULL = 0.99
"""The share of its room from which on a pack has nothing to gain by waiting."""
