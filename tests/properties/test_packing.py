"""`pack` on the histogram of lengths is best-fit decreasing on the documents themselves."""

from collections import Counter
from collections.abc import Iterator
from operator import itemgetter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lossmask.packing import lower_bound, pack, pack_stream

MAX_LENGTH = 24
LENGTHS = st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=80)
FEW_LENGTHS = st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=4).flatmap(
    lambda some: st.lists(st.sampled_from(some), min_size=1, max_size=120)
)


def best_fit_decreasing(lengths: list[int], max_length: int) -> list[list[int]]:
    """Place one document at a time and look at every pack each time.

    The packs are kept in the order in which they were last added to, and of equally full ones the
    first is taken.
    """
    packs: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [held for held in packs if sum(held) + length <= max_length]
        if fitting:
            fullest = max(fitting, key=sum)  # the first of them
            packs = [held for held in packs if held is not fullest]
            packs.append([*fullest, length])
        else:
            packs.append([length])
    return packs


@settings(max_examples=300, deadline=None)
@given(st.one_of(LENGTHS, FEW_LENGTHS), st.integers(0, 3))
def test_it_packs_what_the_naive_algorithm_packs(lengths: list[int], seed: int) -> None:
    packs = pack(lengths, MAX_LENGTH, seed=seed)
    found = sorted(packs.lengths[packs[index]].tolist() for index in range(len(packs)))
    assert found == sorted(best_fit_decreasing(lengths, MAX_LENGTH))
    assert sorted(packs.documents.tolist()) == list(range(len(lengths)))
    assert lower_bound(lengths, MAX_LENGTH) <= len(packs)
    assert -(-sum(lengths) // MAX_LENGTH) <= packs.lower_bound


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=8))
def test_no_packing_is_below_the_lower_bound(lengths: list[int]) -> None:
    assert lower_bound(lengths, 10) <= fewest_packs(sorted(lengths, reverse=True), [])


def fewest_packs(lengths: list[int], packs: list[int]) -> int:
    """Try every way to pack (packs: tokens in each so far)."""
    if not lengths:
        return len(packs)
    first, rest = lengths[0], lengths[1:]
    options = [
        fewest_packs(rest, [*packs[:at], packs[at] + first, *packs[at + 1 :]])
        for at in range(len(packs))
        if packs[at] + first <= 10 and packs[at] not in packs[:at]
    ]
    return min([*options, fewest_packs(rest, [*packs, first])])


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.integers(1, 20))
def test_a_stream_loses_nothing_and_leaves_nobody_waiting(lengths: list[int], buffer: int) -> None:
    packs: list[list[tuple[int, int]]] = []
    packs_when_read: list[int] = []

    def documents() -> Iterator[tuple[int, int]]:
        for pair in enumerate(lengths):
            packs_when_read.append(len(packs))
            yield pair

    for held in pack_stream(documents(), MAX_LENGTH, length=itemgetter(1), buffer=buffer):
        packs.append(held)
    assert Counter(pair for held in packs for pair in held) == Counter(enumerate(lengths))
    for place, held in enumerate(packs):
        assert sum(length for _, length in held) <= MAX_LENGTH
        assert all(place - packs_when_read[number] < 2 * buffer for number, _ in held)
    pairs = list(enumerate(lengths))
    assert packs == list(pack_stream(pairs, MAX_LENGTH, length=itemgetter(1), buffer=buffer))


def test_a_large_packing_is_the_naive_one_too() -> None:
    lengths = np.random.default_rng(0).lognormal(3, 1, 1500).clip(1, 200).astype(int).tolist()
    packs = pack(lengths, 200)
    found = sorted(packs.lengths[packs[index]].tolist() for index in range(len(packs)))
    assert found == sorted(best_fit_decreasing(lengths, 200))
