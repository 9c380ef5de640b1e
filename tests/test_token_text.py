"""What tokens spell, one by one and together, whatever the tokenizer writes bytes as."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from lossmask.token_text import TokenTexts
from tests.small_tokenizers import byte_level, sentencepiece

TEXT = "Ab é 😀<|end|>\nlast"


@pytest.mark.parametrize("tokenizer", [byte_level("Ġ l"), sentencepiece("▁ l")])
def test_tokens_spell_the_text_they_were_made_of(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    text, offsets = TokenTexts(tokenizer).spell(ids)
    assert text.removeprefix(" ") == TEXT
    shift = len(text) - len(TEXT)
    face = 5 + shift
    shared = [
        k for k, (start, end) in enumerate(offsets.tolist()) if (start, end) == (face, face + 1)
    ]
    assert len(shared) == 4  # the bytes of the face, a token each
    for token, (start, end) in zip(ids, offsets.tolist(), strict=True):
        if end - start > 1 or text[start:end].isascii():
            assert TokenTexts(tokenizer).text_of(token) == text[start:end]


def test_bytes_that_are_no_character_are_seen() -> None:
    tokenizer = byte_level()
    texts = TokenTexts(tokenizer)
    [*_, lead, _, _, _] = tokenizer("a😀", add_special_tokens=False)["input_ids"]
    assert texts.text_of(lead) == "\\xf0"
    text, offsets = texts.spell([lead, lead])
    assert text == "\ufffd\ufffd"
    assert offsets.tolist() == [[0, 1], [1, 2]]


def test_a_row_of_the_embedding_without_a_token_has_its_id_for_a_text() -> None:
    texts = TokenTexts(load_tokenizer(DEMO_MODEL))
    assert texts.text_of(100_000) == "<100000>"
    assert texts.spell([100_000])[0] == "<100000>"


def test_nothing_spells_nothing() -> None:
    text, offsets = TokenTexts(byte_level()).spell([])
    assert text == ""
    assert offsets.shape == (0, 2)
