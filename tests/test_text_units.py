"""Texts are cut only where the pieces are tokenized as they are in the text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import AddedToken, PreTrainedTokenizerBase

from lossmask.text_units import Cut, TextUnits, cut_alike, pieces_of
from lossmask.tokenizing import TextTokenizer
from tests import corpus, small_tokenizers
from tests.small_tokenizers import byte_level

START, EATS, LEFT = "<|s|>", "<|eats|>", "<|left|>"
ADDED = (
    AddedToken(START, normalized=False),
    AddedToken(EATS, normalized=False, rstrip=True),
    AddedToken(LEFT, normalized=False, lstrip=True),
)


def units_of(tokenizer: PreTrainedTokenizerBase) -> TextUnits:
    return TextUnits.of(tokenizer, TextTokenizer(tokenizer).encode_flat)


def test_a_piece_is_an_added_token_and_what_follows_it() -> None:
    units = units_of(byte_level(added=ADDED))
    text = "a<|s|>b <|end|> <|s|>"
    assert pieces_of(text, units.starts(text)) == ["a", "<|s|>b ", "<|end|> ", "<|s|>"]
    assert units.starts("<|s|>b<|s|>") == [0, 6]
    assert units.starts("a<|s|>b<|s|>", 1) == [1, 7]
    assert units.starts("") == [0]


def test_no_text_is_cut_before_a_token_that_takes_white_space_before_it() -> None:
    units = units_of(byte_level(added=ADDED))
    text = "a <|left|>b<|eats|> c"
    assert pieces_of(text, units.starts(text)) == ["a <|left|>b", "<|eats|> c"]


@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_level(added=[AddedToken("word", single_word=True, normalized=False)]),
        small_tokenizers.byte_level(added=[AddedToken(" x", normalized=False)]),
    ],
    ids=["a token that has to be a word", "a token that begins with a space"],
)
def test_tokens_that_look_at_their_surroundings_cut_nothing(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    units = units_of(tokenizer)
    assert not {"word", " x"} & units.cutting


def test_a_tokenizer_whose_pieces_turn_out_to_have_other_ids_is_not_cut() -> None:
    tokenizer = byte_level(added=ADDED)
    encode = TextTokenizer(tokenizer).encode_flat

    def by_length(texts: Any) -> Any:
        ids, bounds = encode(texts)
        return np.append(ids, len(texts)), bounds

    assert not TextUnits.of(tokenizer, by_length).cutting
    assert TextUnits.of(tokenizer, encode).cutting


def cut(text: str, whole: str) -> Cut:
    units = units_of(byte_level(added=[*ADDED, AddedToken("<|s|>x", normalized=False)]))
    return cut_alike(text, whole, units.starts(whole), units)


def test_a_text_shares_the_pieces_that_it_begins_with() -> None:
    whole = "<|s|>a<|end|>\n<|s|>b<|end|>\n"
    found = cut("<|s|>a<|end|>\n<|s|>", whole)
    assert (found.shared, found.at, found.rest) == (2, 14, ("<|s|>",))
    found = cut("<|s|>a<|end|>\n", whole)
    assert (found.shared, found.at, found.rest) == (2, 14, ())
    found = cut(whole, whole)
    assert (found.shared, found.at, found.rest) == (4, len(whole), ())
    found = cut("other", whole)
    assert (found.shared, found.at, found.rest) == (0, 0, ("other",))
    assert cut("", whole).rest == ("",)


def test_a_text_that_ends_inside_a_token_or_before_it_grows_shares_no_part_of_it() -> None:
    assert cut("<|s|>a<|en", "<|s|>a<|end|>").rest == ("<|s|>a<|en",)
    found = cut("a<|s|>", "a<|s|>x")  # the longer token begins alike
    assert (found.shared, found.rest) == (1, ("<|s|>",))


@pytest.mark.parametrize("name", ["qwen3", "llama2", "mistral-v3", "phi3-mini", "t5-small", "clip"])
@corpus.needs_corpus
def test_pieces_of_published_tokenizers_end_to_end_have_the_ids_of_the_text(name: str) -> None:
    tokenizer = corpus.tokenizer(name)
    text_tokenizer = TextTokenizer(tokenizer)
    units = units_of(tokenizer)
    assert units.cutting
    tokens = sorted(units.cutting)[:8]
    for token in tokens:
        text = f" a {token} b  {tokens[0]}\n\n{token}{token}c \u00e9 e\u0301 {tokens[-1]} x"
        pieces = pieces_of(text, units.starts(text))
        assert len(pieces) == 6
        apart, _ = text_tokenizer.encode_flat(pieces)
        assert apart.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
