"""Which tokens stand for each other: exact segments, of the same and of different text."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lossmask import Example
from lossmask.token_alignment import Segment, align, pair_examples, text_of
from tests.hand_made import made


def drawn(a: Example, b: Example) -> list[tuple[str, str, str]]:
    """Return the kind of each segment with its tokens on both sides."""
    texts = [[e.text[s:t] for s, t in e.offsets.tolist()] for e in (a, b)]
    return [
        (
            each.kind,
            "|".join(texts[0][each.a_start : each.a_end]),
            "|".join(texts[1][each.b_start : each.b_end]),
        )
        for each in align(a, b)
    ]


def test_the_same_tokens_are_one_segment() -> None:
    assert align(made("a|b|c"), made("a|b|c", [1])) == [Segment(0, 3, 0, 3, "same")]


def test_two_tokenizations_of_one_text_are_cut_where_both_have_a_border() -> None:
    a, b = made("Hel|lo| wor|ld|!"), made("Hello| |world|!")
    assert drawn(a, b) == [
        ("tokens", "Hel|lo", "Hello"),
        ("tokens", " wor|ld", " |world"),
        ("same", "!", "!"),
    ]


def test_the_same_text_with_another_id_is_other_tokens() -> None:
    a, b = made("x|y|z"), made("x|y|z")
    b.input_ids[1] = 7
    assert drawn(a, b) == [("same", "x", "x"), ("tokens", "y", "y"), ("same", "z", "z")]


def test_text_that_one_side_lacks_is_a_segment_of_its_own() -> None:
    a, b = made("<|a|>|Hi|<|e|>"), made("<|a|>|<think>|Hi|<|e|>")
    assert drawn(a, b) == [
        ("same", "<|a|>", "<|a|>"),
        ("text", "", "<think>"),
        ("same", "Hi|<|e|>", "Hi|<|e|>"),
    ]


def test_other_text_stands_where_other_text_stood() -> None:
    assert drawn(made("u:|Hi|no|."), made("u:|Hi|yes|yes|.")) == [
        ("same", "u:|Hi", "u:|Hi"),
        ("text", "no", "yes|yes"),
        ("same", ".", "."),
    ]


def test_the_same_text_amid_other_text_is_other_tokens_where_ids_differ() -> None:
    a, b = made("a|b|c|d"), made("a|b|c|e")
    b.input_ids[1] = 7
    assert [kind for kind, *_ in drawn(a, b)] == ["same", "tokens", "same", "text"]


def test_tokens_of_one_character_stay_together() -> None:
    a, b = made("x|🎉|🎉|y", shared=[2]), made("x|🎉y")
    assert drawn(a, b) == [("same", "x", "x"), ("tokens", "🎉|🎉|y", "🎉y")]
    assert text_of(a, 1, 3) == "🎉"
    assert text_of(a, 2, 2) == ""


def test_equally_many_examples_are_paired_in_order() -> None:
    assert pair_examples([made("a"), made("b")], [made("b"), made("a")]) == [(0, 0), (1, 1)]


def test_of_more_examples_the_most_alike_are_paired() -> None:
    full, first = made("a|b|c|d"), made("a|x|y")
    assert pair_examples([full, first], [made("a|x|z")]) == [(0, None), (1, 0)]
    assert pair_examples([made("a|b|q|d")], [full, first]) == [(0, 0), (None, 1)]
    assert pair_examples([made("a|b")], [first, made("p"), full]) == [
        (None, 0),
        (None, 1),
        (0, 2),
    ]


def test_examples_without_anything_in_common_are_not_paired() -> None:
    found = pair_examples([made("p"), made("q")], [made("x")])
    assert found == [(0, None), (1, None), (None, 0)]


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "ba", ""]), max_size=12),
    st.lists(st.sampled_from(["a", "b", "ab", "ba", ""]), max_size=12),
)
def test_segments_cover_every_token_of_both_and_say_what_is_true(
    mine: list[str], other: list[str]
) -> None:
    a, b = made("|".join(["<", *mine])), made("|".join(["<", *other]))
    i = j = 0
    for each in align(a, b):
        assert (each.a_start, each.b_start) == (i, j)
        i, j = each.a_end, each.b_end
        same = np.array_equal(
            a.input_ids[each.a_start : each.a_end], b.input_ids[each.b_start : each.b_end]
        )
        texts = text_of(a, each.a_start, i), text_of(b, each.b_start, j)
        assert (each.kind == "same") == same
        assert (each.kind == "text") == (texts[0] != texts[1])
    assert (i, j) == (len(a), len(b))
