r"""Texts -> pairs of them that are nearly the same, in time linear in the text.

In: texts; their shingles are all runs of ``width`` characters. Out: for a text an earlier one, if
the Jaccard similarity of their sets of shingles is :data:`SIMILAR` or more::

    "What is 1+1?"  ->  {"What ", "hat i", "at is", …}      |A ∩ B| / |A ∪ B|

Candidates share a band of their MinHash signatures (one permutation, optimal densification:
Shrivastava, ICML 2017), computed for a batch of texts at once. Each is verified exactly, long ones
only if their signatures agree in more places than those of texts that are alike could.
Libraries for this hash one shingle at a time in Python, which takes longer than encoding the text.
Everything is deterministic; a pair at the threshold is found with a probability of 0.998.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

SIMILAR = 0.8
"""Jaccard similarity from which on two texts are nearly the same."""
CANDIDATES = 8
"""Earlier texts that one is compared with at most, those of the most bands in common first."""

BANDS, _ROWS = 20, 6
_BINS = BANDS * _ROWS
_BITS = np.uint16  # of each of the least hashes, to estimate similarity by
COLUMNS = BANDS + _BINS * _BITS().itemsize // 8
_LONG = 600  # characters, of which there are shingles enough for an estimate
_UNLIKE = 0.6  # share of least hashes in common: of alike texts five standard deviations away
_CHARACTERS_AT_ONCE = 1 << 19
_PAIRS_AT_ONCE = 1 << 14
_LONGEST_SEARCH = 1_000
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)

Keys = npt.NDArray[np.uint64]
"""uint64 (texts, COLUMNS): two texts with a key in common in one of the first BANDS columns are
candidates. The others are 16 bits of each of the least hashes."""


def band_keys(texts: Sequence[str], width: int) -> Keys:
    """Return the keys of texts, each of ``width`` characters at least.

    Args:
        texts: k texts.
        width: Characters of a shingle.
    """
    keys = np.zeros((len(texts), COLUMNS), np.uint64)
    for first, end in _groups([len(text) for text in texts]):
        keys[first:end] = _keys_of("".join(texts[first:end]), texts[first:end], width)
    return keys


def shingles(text: str, width: int) -> npt.NDArray[np.uint64]:
    """Return 64-bit hashes of all runs of ``width`` characters, ascending, each once."""
    hashes = np.sort(_rolled(_codes(text), width))  # np.unique takes three times as long
    is_new = np.ones(len(hashes), np.bool_)
    is_new[1:] = hashes[1:] != hashes[:-1]
    return hashes[is_new]


def jaccard(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> float:
    """Return the share of shingles that two texts have in common.

    Example:
        >>> jaccard(shingles("abcd", 2), shingles("abce", 2))
        0.5
    """
    if not len(one) or not len(other):
        return 0.0
    at = np.minimum(np.searchsorted(one, other), len(one) - 1)
    common = int(np.count_nonzero(one[at] == other))
    return common / (len(one) + len(other) - common)


def earlier_alike(
    keys: Keys, text_of: Callable[[int], str], width: int
) -> Iterator[tuple[int, int, float]]:
    """Yield each text that is nearly the same as an earlier one, with that one.

    Args:
        keys: Of all texts.
        text_of: Gives a text by its number, in any thread.
        width: Characters of a shingle.

    Yields:
        Number of the text, of an earlier one, and their similarity; ascending by the first.
    """
    yield from _verified(_candidates(keys), (keys, keys), (text_of, text_of), width)


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
        text_of: Gives a text by its number, in any thread.
        others: Keys of the others.
        other_of: Gives one of the others, in any thread.
        width: Characters of a shingle.

    Yields:
        Number of the text, of the other one, and their similarity; ascending by the first.
    """
    yield from _verified(_matches(keys, others), (keys, others), (text_of, other_of), width)


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
    hashes = _mixed(_rolled(_codes(joined), width))
    ends = np.cumsum([len(text) for text in texts])
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])[: len(hashes)]
    is_whole = np.arange(len(hashes)) + width <= ends[owner]
    hashes, owner = hashes[is_whole], owner[is_whole]
    least = np.full(len(texts) * _BINS, _EMPTY, np.uint64)
    bins = (hashes >> np.uint64(32)) * np.uint64(_BINS) >> np.uint64(32)
    np.minimum.at(least, owner * _BINS + bins.astype(np.int64), hashes)
    signature = _densified(least.reshape(len(texts), _BINS))
    bits = np.ascontiguousarray(signature.astype(_BITS)).view(np.uint64)
    return np.concatenate([_banded(signature), bits], axis=1)


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _rolled(codes: npt.NDArray[np.uint32], width: int) -> npt.NDArray[np.uint64]:
    count = max(len(codes) - width + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for k in range(width):
        hashes *= np.uint64(0x100000001B3)
        hashes += codes[k : k + count]
    return hashes


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return each number with its bits well mixed: the finalizer of SplitMix64."""
    mixed: npt.NDArray[np.uint64] = values + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _densified(signature: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Fill bins that no shingle fell into from bins that the bin's own draws lead to."""
    filled: npt.NDArray[np.uint64] = signature.copy()
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
    keys: Keys = np.zeros(bands.shape[:2], np.uint64)
    for row in range(_ROWS):
        keys = _mixed(np.bitwise_xor(keys, bands[:, :, row]))
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
    keys: tuple[Keys, Keys],
    texts: tuple[Callable[[int], str], Callable[[int], str]],
    width: int,
) -> Iterator[tuple[int, int, float]]:
    """Yield, for each first of the pairs, the first of its pairs that is alike enough.

    They are compared in rounds, in each of which pairs with the same text follow each other, and in
    threads, for sorting lets others run meanwhile.
    """
    threads = os.cpu_count() or 1
    compare = partial(_similarities, keys=keys, texts=texts, width=width)
    unique, bands = np.unique(pairs, axis=0, return_counts=True)
    ordered = unique[np.lexsort((unique[:, 1], -bands, unique[:, 0]))]
    numbers, starts = np.unique(ordered[:, 0], return_index=True)
    ends = np.append(starts[1:], len(ordered)).astype(np.int64)
    is_open = np.ones(len(numbers), np.bool_)
    found: dict[int, tuple[int, float]] = {}
    with ThreadPoolExecutor(threads) as pool:
        for turn in range(CANDIDATES):
            left = np.flatnonzero(is_open & (starts + turn < ends))
            left = left[np.argsort(ordered[starts[left] + turn, 1], kind="stable")]
            chosen = ordered[starts[left] + turn]
            pieces = np.array_split(chosen, max(threads, len(chosen) // _PAIRS_AT_ONCE))
            similarity = np.concatenate([*pool.map(compare, pieces)])
            is_alike = similarity >= SIMILAR
            is_open[left[is_alike]] = False
            for (number, other), share in zip(
                chosen[is_alike].tolist(), similarity[is_alike].tolist(), strict=True
            ):
                found[number] = other, share
    for number in sorted(found):
        yield number, *found[number]


def _similarities(
    pairs: npt.NDArray[np.int64],
    *,
    keys: tuple[Keys, Keys],
    texts: tuple[Callable[[int], str], Callable[[int], str]],
    width: int,
) -> npt.NDArray[np.float64]:
    """Return float64 (k,): the similarity of each of k pairs of a text and another one.

    That of long texts whose least hashes say that they are not alike is 0.
    """
    one, other = (
        each[numbers, BANDS:].view(_BITS) for each, numbers in zip(keys, pairs.T, strict=True)
    )
    is_unlike = (one == other).mean(axis=1) < _UNLIKE
    text_of, other_of = texts
    found = np.zeros(len(pairs))
    last = -1
    for k, (number, number_of_other) in enumerate(pairs.tolist()):
        text = text_of(number)
        if is_unlike[k] and len(text) >= _LONG:
            continue
        if number_of_other != last:
            theirs, last = shingles(other_of(number_of_other), width), number_of_other
        found[k] = jaccard(shingles(text, width), theirs)
    return found
