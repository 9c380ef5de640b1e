"""Ids, labels, mask and weights of an example agree, and cannot be built otherwise."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from lossmask import Encoder, Example, Span
from lossmask.embedded import DEMO_MODEL
from lossmask.example import IGNORE_INDEX
from tests.scenarios import assistant, user


def example(**changes: Any) -> Example:
    """Return ``ab|cd`` in three tokens, the last two supervised with weights 0.5 and 2."""
    values: dict[str, Any] = {
        "text": "abcd",
        "input_ids": np.array([5, 6, 7], np.int32),
        "offsets": np.array([[0, 2], [2, 3], [3, 4]], np.int32),
        "loss_weights": np.array([0, 0.5, 2], np.float32),
        "message_index": np.array([0, 1, -1], np.int32),
        "spans": (Span(1, 2, 4, 1, 3, "d"),),
    }
    return Example(**values | changes)


def test_labels_and_mask_follow_from_the_weights() -> None:
    built = example()
    assert built.loss_mask.tolist() == [False, True, True]
    assert built.labels.tolist() == [IGNORE_INDEX, 6, 7] == [-100, 6, 7]
    assert built.labels.dtype == np.int32
    assert built.supervised_count == 2
    assert built.supervised_text == ["cd"]
    assert len(built) == 3
    assert built.findings == ()


def test_an_example_without_loss_has_no_label() -> None:
    built = example(loss_weights=np.zeros(3, np.float32), spans=())
    assert built.labels.tolist() == [-100] * 3
    assert (built.supervised_count, built.supervised_text) == (0, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss_weights": np.ones(2, np.float32)},
            r"loss_weights has shape \(2,\), expected \(3,\)",
        ),
        ({"offsets": np.zeros((3, 3), np.int32)}, r"offsets has shape \(3, 3\), expected \(3, 2\)"),
        ({"offsets": np.zeros(3, np.int32)}, r"offsets has shape \(3,\), expected \(3, 2\)"),
        ({"message_index": np.zeros(4, np.int32)}, r"message_index has shape \(4,\)"),
        (
            {"input_ids": np.zeros((3, 1), np.int32)},
            r"input_ids has shape \(3, 1\), expected \(3,\)",
        ),
        ({"loss_weights": np.array([0, np.nan, 1], np.float32)}, "must be finite"),
        ({"loss_weights": np.array([0, np.inf, 1], np.float32)}, "must be finite"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example(**changes)


def test_an_example_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'text'"):
        example().text = ""  # type: ignore[misc]


def test_an_encoded_example_agrees_with_its_text() -> None:
    messages = [
        user("Hi 👍🏽"),
        assistant("Hello 𒀀", weight=0.25),
        user("again"),
        assistant("no", train=False),
        user("more"),
        assistant("yes"),
    ]
    [encoded] = Encoder.from_pretrained(DEMO_MODEL).encode(messages)
    mask = encoded.loss_mask
    assert np.array_equal(encoded.labels, np.where(mask, encoded.input_ids, -100))
    assert np.array_equal(mask, encoded.loss_weights > 0)
    assert encoded.supervised_text == ["Hello 𒀀<|im_end|>", "yes<|im_end|>"]
    assert encoded.supervised_count == sum(s.token_end - s.token_start for s in encoded.spans)
    for span, weight in zip(encoded.spans, (0.25, 1.0), strict=True):
        inside = slice(span.token_start, span.token_end)
        assert set(encoded.loss_weights[inside].tolist()) == {weight}
        assert int(encoded.offsets[inside][0, 0]) == span.start
        assert int(encoded.offsets[inside][-1, 1]) == span.end
        assert span.stop == "<|im_end|>"
    dtypes = {encoded.input_ids.dtype, encoded.offsets.dtype, encoded.message_index.dtype}
    assert dtypes == {np.dtype(np.int32)}
    assert encoded.loss_weights.dtype == np.float32
