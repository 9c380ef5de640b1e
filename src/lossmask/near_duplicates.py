r"""Texts -> pairs of them that are nearly the same, in time linear in the text.

In: texts; their shingles are all runs of ``width`` characters. Out: for a text an earlier one, if
the Jaccard similarity of their sets of shingles is :data:`SIMILAR` or more::

    "What is 1+1?"  ->  {"What ", "hat i", "at is", …}      |A ∩ B| / |A ∪ B|

Candidates share a band of their MinHash signatures (one permutation, optimal densification:
Shrivastava, ICML 2017), computed for a batch of texts at once, and each is verified exactly.
Libraries for this hash one shingle at a time in Python, which takes longer than encoding the text.
Everything is deterministic; a pair at the threshold is found with a probability of 0.998.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

SIMILAR = 0.8
"""Jaccard similarity from which on two texts are nearly the same."""
CANDIDATES = 8
"""Earlier texts that one is compared with at most, those of the most bands in common first."""

BANDS, _ROWS = 20, 6
_BINS = BANDS * _ROWS
_CHARACTERS_AT_ONCE = 1 << 19
_LONGEST_SEARCH = 1_000
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)

Keys = npt.NDArray[np.uint64]
"""uint64 (texts, BANDS): two texts with a key in common in one column are candidates."""


def band_keys(texts: Sequence[str], width: int) -> Keys:
    """Return the keys of texts, each of ``width`` characters at least.

    Args:
        texts: k texts.
        width: Characters of a shingle.
    """
    keys = np.zeros((len(texts), BANDS), np.uint64)
    for first, end in _groups([len(text) for text in texts]):
        keys[first:end] = _keys_of("".join(texts[first:end]), texts[first:end], width)
    return keys


def shingles(text: str, width: int) -> frozenset[str]:
    """Return all runs of ``width`` characters.

    Example:
        >>> sorted(shingles("abcab", 2))
        ['ab', 'bc', 'ca']
    """
    return frozenset(text[at : at + width] for at in range(len(text) - width + 1))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the share of shingles that two texts have in common.

    Example:
        >>> jaccard(shingles("abcd", 2), shingles("abce", 2))
        0.5
    """
    common = len(one & other)
    return common / max(len(one) + len(other) - common, 1)


def earlier_alike(
    keys: Keys, text_of: Callable[[int], str], width: int
) -> Iterator[tuple[int, int, float]]:
    """Yield each text that is nearly the same as an earlier one, with that one.

    Args:
        keys: Of all texts.
        text_of: Gives a text by its number.
        width: Characters of a shingle.

    Yields:
        Number of the text, of an earlier one, and their similarity; ascending by the first.
    """
    yield from _verified(_candidates(keys), text_of, text_of, width)


def alike(
    keys: Keys,
    text_of: Callable[[int], str],
    others: Keys,
    other_of: Callable[[int], str],
    width: int,
) -> Iterator[tuple[int, int, float]]:
    """Yield each text that is nearly the same as one of others, with that one.

    Args:
        keys: Of the texts.
        text_of: Gives a text by its number.
        others: Keys of the others.
        other_of: Gives one of the others.
        width: Characters of a shingle.

    Yields:
        Number of the text, of the other one, and their similarity; ascending by the first.
    """
    yield from _verified(_matches(keys, others), text_of, other_of, width)


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges of texts that are hashed together, of a bounded number of characters."""
    first = held = 0
    for number, length in enumerate(lengths):
        if held and held + length > _CHARACTERS_AT_ONCE:
            yield first, number
            first, held = number, 0
        held += length
    if first < len(lengths):
        yield first, len(lengths)


def _keys_of(joined: str, texts: Sequence[str], width: int) -> Keys:
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    hashes = _shingle_hashes(codes, width)
    ends = np.cumsum([len(text) for text in texts])
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])[: len(hashes)]
    is_whole = np.arange(len(hashes)) + width <= ends[owner]
    hashes, owner = hashes[is_whole], owner[is_whole]
    least = np.full(len(texts) * _BINS, _EMPTY, np.uint64)
    bins = hashes % np.uint64(_BINS)
    np.minimum.at(least, owner * _BINS + bins.astype(np.int64), hashes)
    return _banded(_densified(least.reshape(len(texts), _BINS)))


def _shingle_hashes(codes: npt.NDArray[np.uint32], width: int) -> npt.NDArray[np.uint64]:
    count = max(len(codes) - width + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for k in range(width):
        hashes *= np.uint64(0x100000001B3)
        hashes += codes[k : k + count]
    return _mixed(hashes)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return each number with its bits well mixed: the finalizer of SplitMix64."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _densified(signature: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Fill bins that no shingle fell into from bins that the bin's own draws lead to."""
    filled = signature.copy()
    rows, bins = np.nonzero(signature == _EMPTY)
    for attempt in range(1, _LONGEST_SEARCH):
        if not len(rows):
            break
        drawn = _mixed(bins.astype(np.uint64) * np.uint64(_LONGEST_SEARCH) + np.uint64(attempt))
        values = signature[rows, (drawn % np.uint64(_BINS)).astype(np.int64)]
        is_found = values != _EMPTY
        filled[rows[is_found], bins[is_found]] = values[is_found]
        rows, bins = rows[~is_found], bins[~is_found]
    return filled


def _banded(signature: npt.NDArray[np.uint64]) -> Keys:
    bands = signature.reshape(len(signature), BANDS, _ROWS)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for row in range(_ROWS):
        keys = _mixed(keys ^ bands[:, :, row])
    return keys


def _candidates(keys: Keys) -> npt.NDArray[np.int64]:
    """Return pairs (later, earlier): of each band's texts of one key the first and the last before.

    So that there are two pairs a text and band at most, however many texts have one key.
    """
    found = []
    for band in range(BANDS):
        order = np.argsort(keys[:, band], kind="stable")
        ordered = keys[order, band]
        is_new = np.append(True, ordered[1:] != ordered[:-1])
        begins = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
        later = np.flatnonzero(~is_new)
        both = (begins[later], later - 1)
        found += [np.stack([order[later], order[earlier]], axis=1) for earlier in both]
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def _matches(keys: Keys, others: Keys) -> npt.NDArray[np.int64]:
    """Return pairs (text, other): of each band's others of one key the first."""
    if not len(others) or not len(keys):
        return np.zeros((0, 2), np.int64)
    found = []
    for band in range(BANDS):
        known, first = np.unique(others[:, band], return_index=True)
        at = np.minimum(np.searchsorted(known, keys[:, band]), len(known) - 1)
        mine = np.flatnonzero(known[at] == keys[:, band])
        found.append(np.stack([mine, first[at[mine]]], axis=1))
    return np.concatenate(found)


def _verified(
    pairs: npt.NDArray[np.int64],
    text_of: Callable[[int], str],
    other_of: Callable[[int], str],
    width: int,
) -> Iterator[tuple[int, int, float]]:
    """Yield, for each first of the pairs, the pair that is most alike, if it is alike enough."""
    unique, bands = np.unique(pairs, axis=0, return_counts=True)
    order = np.lexsort((unique[:, 1], -bands, unique[:, 0]))
    numbers, starts = np.unique(unique[order, 0], return_index=True)
    others = np.split(unique[order, 1], starts[1:])
    for number, candidates in zip(numbers.tolist(), others, strict=False):
        own = shingles(text_of(number), width)
        for other in candidates[:CANDIDATES].tolist():
            similarity = jaccard(own, shingles(other_of(other), width))
            if similarity >= SIMILAR:
                yield number, other, similarity
                break
