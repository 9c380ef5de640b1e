"""Every token lies in one piece, and no character in two."""

from __future__ import annotations

from transformers import AutoTokenizer

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.pieces import pieces_of
from tests.scenarios import assistant, user


def test_pieces_take_tokens_that_share_a_character_together() -> None:
    encoder = Encoder(AutoTokenizer.from_pretrained(DEMO_MODEL))
    [example] = encoder.encode([user("Hi"), assistant("\U0001f600!")])
    pieces = pieces_of(example)
    assert "".join(piece.text for piece in pieces) == example.text
    ranges = [(piece.token_start, piece.token_end) for piece in pieces]
    assert [first for first, _ in ranges] == [0, *(behind for _, behind in ranges[:-1])]
    assert ranges[-1][1] == len(example)
    [emoji] = [piece for piece in pieces if "\U0001f600" in piece.text]
    assert emoji.token_end - emoji.token_start > 1
    assert emoji.start == example.text.index("\U0001f600")
    assert [piece.text for piece in pieces if piece.is_stop] == ["<|im_end|>"]
    trained = "".join(piece.text for piece in pieces if piece.is_trained)
    assert trained == "\U0001f600!<|im_end|>"
    assert {piece.message_index for piece in pieces if piece.is_trained} == {1, -1}
