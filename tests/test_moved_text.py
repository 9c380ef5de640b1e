"""What moved is located by what it became; the rest is inferred only where it spells the same."""

from __future__ import annotations

import numpy as np
import pytest

from lossmask.moved_text import (
    UNKNOWN,
    Pair,
    StructureChangedError,
    codes,
    infer,
    located,
    runs_at_tags,
)
from lossmask.replacements import grades
from lossmask.traced_text import COARSE, LITERAL


def pair(leaf: str, text: str) -> Pair:
    return Pair(codes(leaf), codes(text))


def test_characters_are_located_by_what_both_replacements_made_of_them() -> None:
    seen = located(pair("abb", "<abb>a-bb"), pair("xyz", "<xyz>a-yz"), pair("uvw", "<uvw>a-vw"))
    assert seen.offsets.tolist() == [UNKNOWN, 0, 1, 2, UNKNOWN, UNKNOWN, UNKNOWN, 1, 2]
    assert seen.moved.tolist() == [c != UNKNOWN for c in seen.offsets.tolist()]
    assert seen.replaced.tolist() == [True] * 3


def test_characters_that_became_the_same_are_told_apart_by_their_neighbours() -> None:
    seen = located(pair("abab", "abab|ab"), pair("xyzy", "xyzy|zy"), pair("uvwv", "uvwv|wv"))
    assert seen.offsets.tolist() == [0, 1, 2, 3, UNKNOWN, 2, 3]


def test_a_character_whose_neighbours_disagree_has_no_offset() -> None:
    seen = located(pair("xbybz", "xbz"), pair("mnonp", "mnp"), pair("qrsrt", "qrt"))
    assert seen.offsets.tolist() == [0, COARSE, 4]


def test_characters_that_nothing_tells_apart_have_no_offset() -> None:
    seen = located(pair("bb", "bb"), pair("yy", "yy"), pair("vv", "vv"))
    assert seen.offsets.tolist() == [COARSE, COARSE]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("no: xy", "no: uv"),  # another branch: its text is the same both times
        ("yes:xy", "no: uv"),
        ("no: xy", "yes:uv"),
        ("yes:xb", "yes:ub"),
    ],
)
def test_what_moves_beside_the_leaf_is_an_error(first: str, second: str) -> None:
    base = pair("ab", "yes:ab")
    assert located(base, pair("xy", "yes:xy"), pair("uv", "yes:uv")).moved.sum() == 2
    if first == "yes:xb":
        assert located(base, pair("xy", first), pair("uv", second)).moved.sum() == 1
        return
    with pytest.raises(StructureChangedError, match="other text changes too"):
        located(base, pair("xy", first), pair("uv", second))


def test_a_character_that_the_renderer_replaces_is_an_error() -> None:
    with pytest.raises(StructureChangedError, match="writes other characters in place"):
        located(pair("a-b", "A-b"), pair("x-y", "x-y"), pair("u-v", "u-v"))


def test_punctuation_replaced_only_the_second_time_must_be_the_leafs_own() -> None:
    base, first = pair("a.b", "a.b."), pair("x.y", "x.y.")
    assert located(base, first, pair("u!v", "u!v.")).offsets.tolist() == [0, 1, 2, UNKNOWN]
    with pytest.raises(StructureChangedError, match="other text changes too"):
        located(base, first, pair("u!v", "u!v?"))


def test_runs_at_tags_and_ends_are_told() -> None:
    text = ' a b\n</x> c"d '
    grade = grades(text)
    flags, run = runs_at_tags(grade, np.array([c.isalpha() and c != "x" for c in text]))
    assert "".join(c for c, flag in zip(text, flags, strict=True) if flag) == " \n</x>  "
    assert run.tolist() == [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4]


def inferred(text: str, leaf_text: str, known: dict[int, int], replaced: str) -> list[int]:
    """Infer from known position -> offset; return an offset per character, -1 for none."""
    origins = np.full(len(text), LITERAL, np.int64)
    for position, offset in known.items():
        origins[position] = offset
    infer(origins, text, 0, leaf_text, np.array([c in replaced for c in leaf_text]))
    return [int(origin) for origin in origins]


def test_a_gap_of_the_right_width_that_spells_the_same_is_filled() -> None:
    assert inferred("<a b>", "a b", {1: 0, 3: 2}, "ab") == [-1, 0, 1, 2, -1]
    assert inferred("<a_b>", "a b", {1: 0, 3: 2}, "ab") == [-1, 0, -1, 2, -1]
    assert inferred("<a  b>", "a b", {1: 0, 4: 2}, "ab") == [-1, 0, -1, -1, 2, -1]


def test_a_gap_that_spells_the_same_escaped_is_filled() -> None:
    assert inferred('"a\\nb"', "a\nb", {1: 0, 4: 2}, "ab") == [-1, 0, 1, 1, 2, -1]
    assert inferred("a&lt; b", "a< b", {0: 0, 6: 3}, "ab") == [0, 1, 1, 1, 1, 2, 3]


def test_a_replaced_character_that_did_not_move_is_never_inferred() -> None:
    assert inferred("axb", "axb", {0: 0, 2: 2}, "axb") == [0, -1, 2]
    assert inferred('a"x', 'a"x', {0: 0}, "ax") == [0, 1, -1]


def test_quotes_at_the_ends_are_taken_and_tags_and_white_space_are_not() -> None:
    assert inferred('["a"]', '"a"', {2: 1}, "a") == [-1, 0, 1, 2, -1]
    assert inferred("<x>a\n", "<x>a\n", {3: 3}, "a") == [-1, -1, -1, 3, -1]
    assert inferred("a\n</x>\nb", "a\n</x>\nb", {0: 0, 7: 7}, "ab") == [0, *[-1] * 6, 7]


def test_another_leafs_characters_stay_its_own() -> None:
    origins = np.array([0, (1 << 32) | 0, 2], np.int64)
    infer(origins, 'a"b', 0, 'a"b', np.array([True, False, True]))
    assert origins.tolist() == [0, 1 << 32, 2]
