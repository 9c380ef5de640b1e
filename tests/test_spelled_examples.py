"""A prepared example has its text, its turns and its parts again."""

from __future__ import annotations

from typing import Any

import numpy as np

from lossmask import Encoder, Example
from lossmask.demo import load_rows
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL
from lossmask.spelled_examples import spelled_example, token_parts
from lossmask.token_text import TokenTexts

ENCODER = Encoder.from_pretrained(DEMO_MODEL)
TEXTS = TokenTexts(ENCODER.tokenizer)
STOPS = sorted(ENCODER.stop_ids)


def as_prepared(example: Example) -> dict[str, Any]:
    return {
        "input_ids": example.input_ids,
        "labels": example.labels,
        "loss_weights": example.loss_weights,
        "message_index": example.message_index,
    }


def of(*contents: str) -> Example:
    roles = ("user", "assistant")
    messages = [{"role": roles[k % 2], "content": text} for k, text in enumerate(contents)]
    [example] = ENCODER.encode(messages)
    return example


def test_text_offsets_and_spans_are_those_of_encoding() -> None:
    examples = [ENCODER.encode(row)[0] for row in load_rows(DEMO_CONVERSATIONS)[:40]]
    for example in [*examples, of("Grüße 😀", "Héllo\n\n漢字 😀", "a", "b")]:
        again = spelled_example(as_prepared(example), TEXTS, STOPS)
        assert again.text == example.text
        assert np.array_equal(again.offsets, example.offsets)
        assert again.spans == example.spans


def test_turns_that_touch_are_cut_behind_the_stop_token() -> None:
    ids = np.array([40, 2, 41, 42, 2], np.int32)
    item = {
        "input_ids": ids,
        "loss_weights": np.array([0, 1, 1, 1, 1], np.float32),
        "message_index": np.array([0, -1, 1, 1, -1], np.int32),
    }
    spans = spelled_example(item, TEXTS, [2]).spans
    assert [(span.token_start, span.token_end, span.stop) for span in spans] == [
        (1, 2, "<|im_end|>"),
        (2, 5, "<|im_end|>"),
    ]


def test_a_think_block_is_reasoning_and_the_end_of_a_turn_a_stop() -> None:
    example = of("Hi", "<think>\nSo.\n</think>\n\nYes.")
    again = spelled_example(as_prepared(example), TEXTS, STOPS)
    parts = token_parts(again, STOPS)
    texts: dict[str, str] = {}
    for part, token in zip(parts.tolist(), example.input_ids.tolist(), strict=True):
        texts[part] = texts.get(part, "") + TEXTS.text_of(token)
    assert texts["reasoning"] == "<think>\nSo.\n</think>"
    assert texts["content, calls"] == "\n\nYes."
    assert texts["stop"] == "<|im_end|>"
    assert texts["not in the loss"].startswith("<|im_start|>user")
