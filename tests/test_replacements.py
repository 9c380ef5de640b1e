"""Replacements keep length and kind, differ everywhere they may, and leave syntax alone."""

from __future__ import annotations

import json
import unicodedata

import pytest

from lossmask.replacements import (
    NEVER,
    PUNCTUATION,
    SPACE,
    SYNTAX,
    TAG,
    WORDS,
    grades,
    replaced,
)

TEXTS = [
    "Hello, who is 10 there?",
    "你好 龘 𠮷",
    "שלום مرحبا",
    "Zürich ÉCOLE ß",
    "👍🏽 👨‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "e\u0301 na\u0308ive",
    "<think>\nhm\n</think>\n\nso [INST] <|im_end|>",
    '{"city": "Zürich\\n", "days": 20, "deep": {"x": [true, null, -1.5e3]}}',
    "",
]


def test_every_character_has_the_grade_of_its_kind() -> None:
    assert grades("aZ5é龘👍").tolist() == [WORDS] * 6
    assert grades(".0~").tolist() == [PUNCTUATION] * 3
    assert grades(" \n\t").tolist() == [SPACE] * 3
    assert grades("\"'\\{<").tolist() == [SYNTAX] * 5
    assert grades("a<b>[X]").tolist() == [WORDS] + [TAG] * 6
    assert grades("\u0301\u200d\x00ß").tolist() == [NEVER] * 4


def test_in_json_only_what_leaves_it_the_same_json_may_go() -> None:
    text = '{"k": "v.\\n", "n": [-1.5e3, true]}'
    grade = dict(zip(range(len(text)), grades(text).tolist(), strict=True))
    assert [text[at] for at, kind in grade.items() if kind == WORDS] == ["v", "1", "5"]
    assert [text[at] for at, kind in grade.items() if kind == PUNCTUATION] == ["k", ".", "n"]
    assert set(grade.values()) == {WORDS, PUNCTUATION, SYNTAX}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("highest", [WORDS, PUNCTUATION, SPACE, SYNTAX, TAG])
def test_exactly_the_characters_up_to_the_grade_change(text: str, highest: int) -> None:
    first, second = (replaced(text, highest, seed=0, turn=turn) for turn in (0, 1))
    assert len(first) == len(second) == len(text)
    for old, new, other, grade in zip(text, first, second, grades(text).tolist(), strict=True):
        assert len({old, new, other}) == (3 if grade <= highest else 1)


@pytest.mark.parametrize("text", TEXTS)
def test_words_become_words_of_the_same_kind(text: str) -> None:
    for seed in range(3):
        new = replaced(text, WORDS, seed=seed, turn=0)
        for before, after in zip(text, new, strict=True):
            assert unicodedata.category(before) == unicodedata.category(after)
            assert before.isspace() == after.isspace()


def test_json_stays_json_of_the_same_shape() -> None:
    text = '{"city": "Zürich \\"x\\"", "days": 20, "deep": [-1.5e3, 0, {"a": 1}]}'
    for highest in (WORDS, PUNCTUATION):
        for seed in range(4):
            value = json.loads(replaced(text, highest, seed=seed, turn=1))
            assert [type(item) for item in value.values()] == [str, int, list]
    assert list(json.loads(replaced(text, WORDS, seed=0, turn=0))) == ["city", "days", "deep"]


def test_two_turns_tell_apart_hundreds_of_equal_characters() -> None:
    text = "x" * 300
    pairs = set(zip(*(replaced(text, WORDS, seed=0, turn=turn) for turn in (0, 1)), strict=True))
    assert len(pairs) == 300


def test_a_changed_case_is_not_mistaken_for_other_characters() -> None:
    lower, upper = "abcdef" * 100, "ABCDEF" * 100
    turns = [
        [replaced(text, WORDS, seed=0, turn=turn) for turn in (0, 1)] for text in (lower, upper)
    ]
    shouted = set(zip(upper, *(text.upper() for text in turns[0]), strict=True))
    assert not shouted & set(zip(upper, *turns[1], strict=True))


def test_seeds_differ() -> None:
    assert replaced("hello", WORDS, seed=0, turn=0) != replaced("hello", WORDS, seed=1, turn=0)
