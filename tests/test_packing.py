"""Every document in one pack, none over, the fullest first; and none left waiting in a stream."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lossmask.errors import InputError, LossmaskError, PolicyError
from lossmask.packing import Packs, lower_bound, pack, pack_stream


def contents(packs: Packs) -> list[list[int]]:
    return sorted(packs.lengths[packs[index]].tolist() for index in range(len(packs)))


def packs_of(documents: list[int], starts: list[int], lengths: list[int]) -> Packs:
    return Packs(np.array(documents), np.array(starts), np.array(lengths), max_length=8)


def test_the_longest_go_first_each_into_the_fullest_pack_with_room() -> None:
    # 6 | 5 | 4 | 3 into the 5 | 2 into the 6 | 2 into the 4 | 2 beside it
    packs = pack([2, 6, 3, 5, 2, 4, 2], 8)
    assert contents(packs) == [[4, 2, 2], [5, 3], [6, 2]]
    assert sorted(packs.documents.tolist()) == list(range(7))
    assert sorted(packs.tokens.tolist()) == [8, 8, 8]


def test_packs_of_equal_space_move_together() -> None:
    packs = pack([9] * 12 + [3] * 20, 16)
    assert contents(packs) == [[9]] * 2 + [[9, 3, 3]] * 10


def test_the_packs_depend_on_the_seed_and_on_nothing_else() -> None:
    lengths = np.random.default_rng(1).integers(1, 33, 500)
    first, again, other = pack(lengths, 64, seed=7), pack(lengths, 64, seed=7), pack(lengths, 64)
    assert first.documents.tolist() == again.documents.tolist()
    assert first.starts.tolist() == again.starts.tolist()
    assert first.documents.tolist() != other.documents.tolist()
    assert contents(first) == contents(other)
    # pinned: a run that was begun with one version is resumed with another
    assert pack([3, 3, 3, 5, 5, 8], 8, seed=3).documents.tolist() == [3, 1, 4, 2, 5, 0]


def test_long_and_short_documents_are_spread_over_the_order() -> None:
    packs = pack([8] * 100 + [1] * 800, 8)
    is_long = np.diff(packs.starts) == 1
    assert 35 < is_long[:100].sum() < 65
    ones = packs.documents[packs.lengths[packs.documents] == 1]
    assert 160 < (ones[:400] < 500).sum() < 240  # as many of the first half as of the second


def test_a_pack_is_given_by_its_number() -> None:
    packs = packs_of([1, 3, 0, 2], [0, 2, 4], [4, 5, 3, 3])
    assert packs[0].tolist() == packs[-2].tolist() == [1, 3]
    assert packs[1].tolist() == [0, 2]
    assert packs.tokens.tolist() == [8, 7]
    assert packs.efficiency == 15 / 16
    assert packs.lower_bound == 2
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"pack {index} of 2"):
            packs[index]


def test_packs_cannot_be_changed() -> None:
    lengths = np.array([3, 4])
    packs = pack(lengths, 8)
    with pytest.raises(ValueError, match="read-only"):
        packs.documents[0] = 1
    lengths[0] = 8  # the caller's own stays his own
    assert packs.lengths.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("documents", "starts", "what"),
    [
        ([0, 1, 1, 3], [0, 2, 4], "documents do not hold each of 0 to 3 once"),
        ([0, 1, 2, 4], [0, 2, 4], "documents do not hold each of 0 to 3 once"),
        ([0, 1, 2, -1], [0, 2, 4], "documents do not hold each of 0 to 3 once"),
        ([0, 1, 2], [0, 2, 3], "documents do not hold each of 0 to 3 once"),
        ([0, 1, 2, 3], [0, 2, 2, 4], "starts do not cut documents into packs that are not empty"),
        ([0, 1, 2, 3], [0, 2, 3], "starts do not cut"),
        ([0, 1, 2, 3], [1, 4], "starts do not cut"),
        ([0, 1, 2, 3], [0], "starts do not cut"),
        ([0, 1, 2, 3], [0, 2, 4], "pack 0 holds 9 tokens"),
    ],
)
def test_what_is_no_packing_cannot_be_made(
    documents: list[int], starts: list[int], what: str
) -> None:
    with pytest.raises(LossmaskError, match=what) as caught:
        packs_of(documents, starts, [4, 5, 3, 3])
    assert caught.value.reason == "broken_packs"
    assert pickle.loads(pickle.dumps(caught.value)).reason == "broken_packs"


@pytest.mark.parametrize(
    ("lengths", "reason", "text"),
    [
        (
            [3, 9, 2, 12],
            "document_too_long",
            r"3 has 12 tokens.* 8 \(and 1 more.* to 12 or more",
        ),
        ([3, 0], "empty_document", "document 1 has 0 tokens: leave out"),
        ([3, -1], "empty_document", "document 1 has -1 tokens"),
        ([], "no_documents", "at least one"),
        ([2.0, 3.0], "bad_lengths", "float64 of shape"),
        ([[2, 3]], "bad_lengths", r"shape \(1, 2\)"),
    ],
)
def test_nothing_is_cut_or_left_out_silently(lengths: Any, reason: str, text: str) -> None:
    for function in (pack, lower_bound):
        with pytest.raises(InputError, match=text) as caught:
            function(lengths, 8)
        assert caught.value.reason == reason


def test_a_document_is_named_as_the_caller_names_it() -> None:
    with pytest.raises(InputError, match=r"row 12 has 9 tokens"):
        pack([1, 9], 8, where=lambda number: f"row {number}2")


def test_a_pack_has_room_for_something() -> None:
    for function in (pack, lower_bound):
        with pytest.raises(PolicyError, match="max_length is 0"):
            function([1], 0)
    with pytest.raises(PolicyError, match="max_length is 0"):
        pack_stream([[1]], 0)
    with pytest.raises(PolicyError, match="buffer is 0"):
        pack_stream([[1]], 8, buffer=0)


@pytest.mark.parametrize("max_length", [1, 65535, 65536, 1 << 40])
def test_any_length_of_pack_will_do(max_length: int) -> None:
    packs = pack([max_length, 1, max_length], max_length)
    assert contents(packs) == [[1], [max_length], [max_length]]


@pytest.mark.parametrize(
    ("lengths", "bound"),
    [
        ([8, 8, 8], 3),
        ([5, 5, 5], 3),  # 15 of 16 tokens, but no two of them fit
        ([4, 4, 4, 4], 2),
        ([6, 6, 3, 3], 3),  # a 3 does not fit beside a 6
        ([6, 6, 2, 2, 1], 3),
        ([1] * 17, 3),
    ],
)
def test_the_lower_bound_knows_more_than_the_number_of_tokens(
    lengths: list[int], bound: int
) -> None:
    assert lower_bound(lengths, 8) == bound == len(pack(lengths, 8))


def test_packs_that_are_not_full_are_packed_again_with_what_comes_next() -> None:
    documents = ["aaaaa", "bbbb", "cccccc", "dddd", "eee", "ff", "ggggggg"]
    packs = list(pack_stream(documents, 8, buffer=4))
    # of the first four, 5 and 6 stay; they are kept once, then meet 3 and 2; 7 comes last
    assert sorted(packs[0]) == ["bbbb", "dddd"]
    assert sorted(map(sorted, packs[1:3])) == [["aaaaa", "eee"], ["cccccc", "ff"]]
    assert packs[3:] == [["ggggggg"]]


def test_a_document_is_kept_once_and_then_leaves_in_a_pack_that_is_not_full() -> None:
    documents = ["a" * 7, "b" * 8, "c" * 8, "d" * 8, "e" * 8]
    packs = list(pack_stream(documents, 8, buffer=2))
    assert [documents.index(document) for (document,) in packs] in (
        [1, 0, 2, 3, 4],
        [1, 2, 0, 3, 4],
    )
    nothing_full = ["a" * 7, "b" * 6, "c" * 7, "d" * 6]
    assert len(list(pack_stream(nothing_full, 8, buffer=2))) == 4


def test_a_stream_is_read_no_further_than_its_buffer() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield 1 + read % 7

    stream = pack_stream(endless(), 8, length=int, buffer=50)
    assert read == 0
    packed = 0
    for _ in range(200):
        packed += len(next(stream))
        assert read <= packed + 49  # 50 when a pack is made, one of which is then in it
    assert read > 200


def test_a_document_that_does_not_fit_ends_the_stream_where_it_is_read() -> None:
    stream = pack_stream(["aaaa", "bbbb", "c" * 9, "dddd"], 8, buffer=2)
    assert sorted(next(stream)) == ["aaaa", "bbbb"]
    with pytest.raises(InputError, match="document 2 of the stream has 9 tokens, and a pack has"):
        next(stream)
    with pytest.raises(InputError, match="document 1 of the stream has 0 tokens"):
        list(pack_stream(["a", ""], 8))


def test_an_empty_stream_has_no_packs() -> None:
    assert list(pack_stream([], 8)) == []
