"""What a token of a vocabulary spells, byte for byte."""

from __future__ import annotations

import pytest

from lossmask.spelling import NOTHING_SPELLS, Spelling, spellings_to_try
from tests import small_tokenizers


@pytest.mark.parametrize(
    ("spelling", "token", "spelled"),
    [
        (Spelling("bytes"), "Ġhi", b" hi"),
        (Spelling("bytes"), "Ċ", b"\n"),
        (Spelling("bytes"), "ðŁ", b"\xf0\x9f"),
        (Spelling("bytes"), "Ã©", "é".encode()),
        (Spelling("bytes"), "▁", NOTHING_SPELLS),
        (Spelling("bytes", ends="</w>"), "hi</w>", b"hi"),
        (Spelling("bytes", ends="</w>"), "</</w>", b"</"),
        (Spelling("latin1"), "Ã", b"\xc3"),
        (Spelling("latin1"), "▁", NOTHING_SPELLS),
        (Spelling("characters", mark="▁"), "▁hi", b" hi"),
        (Spelling("characters", mark="▁"), "<0xE9>", b"\xe9"),
        (Spelling("characters"), "<0xE9>", b"<0xE9>"),
        (Spelling("characters"), "▁hi", "▁hi".encode()),
        (Spelling("characters", continues="##"), "##lo", b"lo"),
        (Spelling("characters", continues="##"), "##", b"##"),
        (Spelling("characters", continues="##"), "####", b"##"),
    ],
)
def test_a_token_spells_its_bytes(spelling: Spelling, token: str, spelled: bytes) -> None:
    assert spelling.bytes_of(token) == spelled


def test_no_text_holds_the_byte_of_a_token_that_spells_nothing() -> None:
    with pytest.raises(UnicodeDecodeError):
        NOTHING_SPELLS.decode()


def test_a_fast_tokenizer_shows_how_it_spells() -> None:
    assert spellings_to_try(small_tokenizers.byte_level()) == (Spelling("bytes"),)
    assert spellings_to_try(small_tokenizers.sentencepiece()) == (Spelling("characters", mark="▁"),)
    assert spellings_to_try(small_tokenizers.unigram()) == (Spelling("characters", mark="▁"),)
    assert spellings_to_try(small_tokenizers.wordpiece()) == (
        Spelling("characters", continues="##"),
    )
    assert spellings_to_try(small_tokenizers.clip_like()) == (Spelling("bytes", ends="</w>"),)
