"""Tokens get the characters that they spell, or the first that does not fit is named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lossmask.normalised_text import NormalisedText
from lossmask.placing import Misfit, Piece, end_of_word, place

END = Piece(b"</s>", is_added=True)
UNKNOWN = Piece(b"<unk>", is_added=True, is_unknown=True)


def placed(
    text: str,
    pieces: Sequence[Piece | bytes],
    *,
    begins_text: bool = True,
    unknown: dict[int, tuple[int, int]] | None = None,
) -> list[str] | Misfit:
    """Return the characters of each token."""
    seen = NormalisedText.as_given(text, text)
    whole = [piece if isinstance(piece, Piece) else Piece(piece) for piece in pieces]
    found = place(whole, seen, begins_text=begins_text, unknown=unknown)
    if isinstance(found, Misfit):
        return found
    return [text[start:end] for start, end in found.tolist()]


def test_tokens_that_spell_the_text_have_what_they_spell() -> None:
    assert placed("a bc", [b"a", b" b", b"c"]) == ["a", " b", "c"]


def test_each_token_of_one_character_has_all_of_it() -> None:
    assert placed("x🙂y", [b"x\xf0", b"\x9f", b"\x99\x82y"]) == ["x🙂", "🙂", "🙂y"]


def test_a_dummy_space_begins_the_text_or_follows_an_added_token() -> None:
    assert placed("a</s>b", [b" a", END, b" b"]) == ["a", "</s>", "b"]
    assert placed("a</s> b", [b" a", END, b" b"]) == ["a", "</s>", " b"]
    assert placed("a</s>  b", [b" a", END, b"  ", b" b"]) == ["a", "</s>", " ", " b"]


def test_a_dummy_space_of_its_own_has_the_character_behind_it() -> None:
    assert placed("龘a", [b" ", b"\xe9\xbe", b"\x98", b"a"]) == ["龘", "龘", "龘", "a"]
    assert placed("</s>", [END, b" "]) == ["</s>", ""]


def test_a_dummy_space_stands_nowhere_else() -> None:
    assert placed("ab", [b"a", b" b"]) == Misfit(1, 1)
    assert placed("ab", [b" a", b"b"], begins_text=False) == Misfit(0, 0)
    assert placed("a</s>b", [b"a", END, b" b"], begins_text=False) == ["a", "</s>", "b"]


def test_real_space_before_an_added_token_is_told_from_a_dummy() -> None:
    eats = Piece(b"</s>", is_added=True, eats_before=True)
    assert placed("  </s>", [b" ", END]) == Misfit(1, 1)
    assert placed(" </s>", [b" ", END]) == [" ", "</s>"]
    assert placed("</s>", [b" ", END]) == ["</s>"[:1], "</s>"]
    assert placed("a  </s>", [b"a", eats]) == ["a", "  </s>"]


def test_an_added_token_has_the_white_space_it_swallows() -> None:
    eats = Piece(b"<b>", is_added=True, eats_after=True)
    assert placed("a<b>\n  c", [b"a", eats, b"c"]) == ["a", "<b>\n  ", "c"]
    assert placed("a<b> \u3000", [b"a", eats]) == ["a", "<b> \u3000"]
    assert placed("a <b>c", [b"a", eats, b"c"]) == Misfit(1, 1)


def test_an_unknown_token_has_the_characters_reported_for_it() -> None:
    assert placed("a龘龘b", [b"a", UNKNOWN, b"b"], unknown={1: (1, 3)}) == ["a", "龘龘", "b"]


@pytest.mark.parametrize("reported", [(0, 3), (2, 3), (1, 2), (1, 4), (1, 1)])
def test_a_report_that_its_neighbours_contradict_is_refused(reported: tuple[int, int]) -> None:
    found = placed("a龘龘b", [b"a", UNKNOWN, b"b"], unknown={1: reported})
    assert isinstance(found, Misfit)


def test_an_unknown_token_that_the_text_spells_out_is_that_text() -> None:
    assert placed("a<unk>b", [b"a", UNKNOWN, b"b"], unknown={}) == ["a", "<unk>", "b"]
    assert placed("a?b", [b"a", UNKNOWN, b"b"], unknown={}) == Misfit(1, 1)


def test_an_unknown_token_that_nothing_is_reported_for_is_a_word() -> None:
    pieces: list[Piece | bytes] = [UNKNOWN, b" ", UNKNOWN, UNKNOWN, b"!"]
    assert placed("🙂x 龘🙂!", pieces) == ["🙂x", " ", "龘", "🙂", "!"]


def test_the_first_token_that_does_not_fit_is_named() -> None:
    assert placed("abc</s>", [b"a", b"x", b"c", END]) == Misfit(1, 1)
    assert placed("abc</s>", [b"a", b"b", END]) == Misfit(2, 2)
    assert placed("abc", [b"a", b"b"]) == Misfit(2, 2)
    assert placed("a", [b"a", b"b"]) == Misfit(1, 1)
    assert placed("", [b"a"]) == Misfit(0, 0)


def test_no_tokens_spell_no_text() -> None:
    assert placed("", []) == []
    assert placed("a", []) == Misfit(0, 0)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *(("ab c", "ab"), ("ab.c", "ab"), (".ab", "."), ("你好", "你"), ("a你", "a")),
        *(("🙂🏽 x", "🙂🏽"), ("a\u3000b", "a"), ("a“b", "a"), ("a_b", "a"), ("a\x07b", "a\x07b")),
        *(("a\x0bb\x85c\u2028d", "a\x0bb\x85c"), ("a\rb", "a"), ("a\x1cb", "a\x1cb")),
    ],
)
def test_a_word_ends_where_bert_ends_it(text: str, word: str) -> None:
    assert text[: end_of_word(text, 0)] == word
