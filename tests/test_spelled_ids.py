"""Ids get the text that they spell, whatever they are; ids and weights stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from lossmask.spelled_ids import example_of_ids
from lossmask.tokenizing import TextTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(load_tokenizer(DEMO_MODEL))


def pieces(ids: list[int], tokenizer: TextTokenizer) -> tuple[str, list[str]]:
    weights = np.linspace(0, 1, len(ids), dtype=np.float32)
    example = example_of_ids(ids, weights, tokenizer)
    assert example.input_ids.tolist() == ids
    assert example.loss_weights.tolist() == weights.tolist()
    assert set(example.message_index.tolist()) == {-1}
    return example.text, [example.text[start:end] for start, end in example.offsets.tolist()]


def test_ids_that_the_tokenizer_gives_are_placed_as_it_does(tokenizer: TextTokenizer) -> None:
    [tokens] = tokenizer.encode(["<|im_start|>n 🎉<|im_end|>"])
    text, found = pieces(tokens.ids.tolist(), tokenizer)
    assert text == "<|im_start|>n 🎉<|im_end|>"
    assert found == ["<|im_start|>", "n", " ", "🎉", "🎉", "🎉", "🎉", "<|im_end|>"]


def test_ids_that_it_would_never_give_are_spelled_one_by_one(tokenizer: TextTokenizer) -> None:
    [emoji] = tokenizer.encode(["🎉"])
    first, second = (tokenizer.encode([letter])[0].ids.tolist() for letter in "no")
    text, found = pieces([*first, *second, *emoji.ids.tolist()], tokenizer)
    assert (text, found) == ("no🎉", ["n", "o", "🎉", "🎉", "🎉", "🎉"])


def test_half_a_character_is_a_replacement_character(tokenizer: TextTokenizer) -> None:
    [emoji] = tokenizer.encode(["🎉"])
    [letter] = tokenizer.encode(["n"])
    text, found = pieces([*emoji.ids.tolist()[:2], *letter.ids.tolist()], tokenizer)
    assert (text, found) == ("��n", ["�", "�", "n"])


def test_messages_that_are_known_stay_known(tokenizer: TextTokenizer) -> None:
    owners = np.array([3], np.int32)
    example = example_of_ids([5], np.ones(1, np.float32), tokenizer, owners)
    assert example.message_index.tolist() == [3]
