"""The sample is the same however a run is divided, and about as large as it is meant to be."""

from __future__ import annotations

import random

from lossmask.sampling import is_sampled


def test_the_text_alone_decides() -> None:
    texts = [f"text number {number}" for number in range(3000)]
    chosen = [text for text in texts if is_sampled(text, 50)]
    assert 20 < len(chosen) < 200
    assert [text for text in reversed(texts) if is_sampled(text, 50)] == chosen[::-1]
    assert all(is_sampled(text, 1) for text in texts)


def test_long_texts_that_begin_alike_are_told_apart() -> None:
    draw = random.Random(0)
    words = ["the", "model", "reads", "every", "turn", "once"]
    texts = ["system prompt " * 20 + " ".join(draw.choices(words, k=200)) for _ in range(5000)]
    assert 40 < sum(is_sampled(text, 50) for text in texts) < 250


def test_the_empty_text_is_a_text() -> None:
    assert is_sampled("", 7)
