"""Nearly the same texts are found by signatures and verified exactly, in linear time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from lossmask import near_duplicates
from lossmask.near_duplicates import (
    CANDIDATES,
    COLUMNS,
    SIMILAR,
    alike,
    band_keys,
    earlier_alike,
    jaccard,
    shingles,
)

WIDTH = 5
WORDS = [f"{a}{b}" for a in ("ba", "ko", "mi", "tru") for b in ("lan", "sig", "wor", "dex")]


def texts(count: int, *, words: int = 30) -> list[str]:
    draw = random.Random(7)
    return [" ".join(draw.choices(WORDS, k=words)) + f" {draw.random()}" for _ in range(count)]


def changed(text: str, times: int) -> str:
    draw = random.Random(3)
    characters = list(text)
    for _ in range(times):
        characters[draw.randrange(len(text))] = "#"
    return "".join(characters)


def test_keys_do_not_depend_on_what_else_is_hashed_with_a_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [*texts(20), "short", "漢字とかな🙂 " * 9]
    together = band_keys(given, WIDTH)
    assert together.shape == (22, COLUMNS)
    alone = np.concatenate([band_keys([text], WIDTH) for text in given])
    assert (together == alone).all()
    monkeypatch.setattr(near_duplicates, "_CHARACTERS_AT_ONCE", 300)
    assert (band_keys(given, WIDTH) == together).all()


def test_equal_texts_have_equal_keys_and_others_have_none_in_common() -> None:
    one, same, other = band_keys(["what is it now?", "what is it now?", "zzzzz yyyyy xxx"], WIDTH)
    assert (one == same).all()
    assert not (one == other).any()


def test_pairs_above_the_threshold_are_found_and_verified_exactly() -> None:
    given = [text for base in texts(60) for text in (base, changed(base, 3))]
    found = list(earlier_alike(band_keys(given, WIDTH), given.__getitem__, WIDTH))
    exact = {
        later: jaccard(shingles(given[later], WIDTH), shingles(given[later - 1], WIDTH))
        for later in range(1, len(given), 2)
    }
    expected = {later for later, similarity in exact.items() if similarity >= SIMILAR}
    assert len(expected) > 40
    assert {later for later, _, _ in found} == expected
    assert all(other == later - 1 and exact[later] == s for later, other, s in found)


def test_a_text_below_the_threshold_is_no_duplicate_whatever_its_keys_say() -> None:
    given = ["aaaa bbbb cccc", "dddd eeee ffff"]
    keys = np.zeros((2, COLUMNS), np.uint64)
    assert list(earlier_alike(keys, given.__getitem__, WIDTH)) == []


def test_a_text_is_compared_with_few_however_many_are_alike() -> None:
    given = [f"{number:05d} " * 9 for number in range(500)]
    keys = np.arange(500, dtype=np.uint64)[:, None] % np.uint64(3) * np.ones(COLUMNS, np.uint64)
    read: list[int] = []

    def text_of(number: int) -> str:
        read.append(number)
        return given[number]

    assert list(earlier_alike(keys, text_of, WIDTH)) == []
    assert len(read) <= 500 * (1 + CANDIDATES)
    assert len(read) < 1_600  # the first and the last before it, of one text each


def test_long_texts_are_verified_if_their_least_hashes_agree_as_often_as_alike_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []
    for number, base in enumerate(texts(60)):
        long = " ".join([base, *texts(40)[number % 20 :][:20]])
        given += [long, changed(long, 1 + number)]
    assert min(map(len, given)) > 600
    keys = band_keys(given, WIDTH)
    found = list(earlier_alike(keys, given.__getitem__, WIDTH))
    monkeypatch.setattr(near_duplicates, "_UNLIKE", -1.0)
    verified = []

    def shingles_of(text: str, width: int) -> Any:
        verified.append(text)
        return shingles(text, width)

    monkeypatch.setattr(near_duplicates, "shingles", shingles_of)
    assert list(earlier_alike(keys, given.__getitem__, WIDTH)) == found
    assert len(found) > 20
    most = len(verified)
    verified.clear()
    monkeypatch.setattr(near_duplicates, "_UNLIKE", 0.6)
    assert list(earlier_alike(keys, given.__getitem__, WIDTH)) == found
    assert len(verified) < 0.9 * most


def test_texts_are_found_in_others() -> None:
    others = texts(30)
    given = [texts(40)[35], changed(others[4], 1), "nothing like any other text of these"]
    keys, other_keys = band_keys(given, WIDTH), band_keys(others, WIDTH)
    [(number, other, similarity)] = alike(
        keys, given.__getitem__, other_keys, others.__getitem__, WIDTH
    )
    assert (number, other) == (1, 4)
    assert similarity == jaccard(shingles(given[1], WIDTH), shingles(others[4], WIDTH))
    nothing = band_keys([], WIDTH)
    assert list(alike(keys, given.__getitem__, nothing, others.__getitem__, WIDTH)) == []
    assert list(earlier_alike(nothing, given.__getitem__, WIDTH)) == []
