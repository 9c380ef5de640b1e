"""White space is what ``str.isspace`` takes for it."""

from __future__ import annotations

import sys

from lossmask.white_space import is_visible


def test_every_character_is_what_isspace_says() -> None:
    text = "".join(map(chr, range(sys.maxunicode + 1)))
    assert is_visible(text).tolist() == [not character.isspace() for character in text]


def test_half_a_character_is_visible_and_no_text_is_no_character() -> None:
    assert is_visible("\ud800 ").tolist() == [True, False]
    assert is_visible("").tolist() == []
