"""A prepared example -> the same with its text, and what each of its tokens is part of.

Prepared folders hold ids, not text. In: columns of one example and what its tokens spell. Out: an
`Example`. Its spans are the runs of tokens in the loss, cut behind stop tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.example import Example, Span
from lossmask.parts import think_blocks
from lossmask.token_text import TokenTexts

__all__ = ["PARTS", "spelled_example", "token_parts"]

PARTS = ("content, calls", "reasoning", "stop", "not in the loss")
"""What can be told from tokens. Tool calls cannot: every template writes them in its own way."""


def spelled_example(
    item: Mapping[str, Any], texts: TokenTexts, stop_ids: Collection[int]
) -> Example:
    """Return a prepared example with the text that its tokens spell.

    Args:
        item: As `PreparedDataset` gives it.
        texts: What tokens spell.
        stop_ids: Tokens at which inference ends a turn.
    """
    ids = np.asarray(item["input_ids"], np.int32)
    text, offsets = texts.spell(ids)
    weights = np.asarray(item["loss_weights"], np.float32)
    messages = np.asarray(item["message_index"], np.int32)
    spans = []
    for start, end, ends_turn in _runs(weights != 0, np.isin(ids, list(stop_ids))):
        first, last = int(offsets[start, 0]), int(offsets[end - 1, 1])
        stop = text[int(offsets[end - 1, 0]) : last] if ends_turn else None
        spans.append(Span(int(messages[start:end].max()), first, last, start, end, stop))
    return Example(
        text, ids, offsets, weights, messages, tuple(spans), ignorable=item.get("ignorable")
    )


def token_parts(example: Example, stop_ids: Collection[int]) -> npt.NDArray[np.str_]:
    """Return what each token of an example is part of, names of `PARTS`.

    Args:
        example: Of n tokens, with spans as `spelled_example` makes them.
        stop_ids: Tokens at which inference ends a turn.

    Returns:
        (n,) str. A think block is reasoning, as it is when data is prepared, one that the prompt
        opens included.
    """
    in_loss = example.loss_mask
    is_stop = in_loss & np.isin(example.input_ids, list(stop_ids))
    is_reasoning = np.zeros(len(example), np.bool_)
    for span in example.spans:
        before = np.flatnonzero(example.message_index[: span.token_start] >= 0)
        behind = int(before[-1]) + 1 if len(before) else 0
        begins = example.text[int(example.offsets[behind, 0]) : span.start]
        for start, end, _ in think_blocks(example.text[span.start : span.end], begins):
            at = example.offsets[:, 0]
            is_reasoning |= (at >= span.start + start) & (at < span.start + end)
    return np.select([~in_loss, is_stop, is_reasoning], [PARTS[3], PARTS[2], PARTS[1]], PARTS[0])


def _runs(
    in_loss: npt.NDArray[np.bool_], is_stop: npt.NDArray[np.bool_]
) -> list[tuple[int, int, bool]]:
    """Return the runs of tokens in the loss; behind stop tokens a new one begins.

    Returns:
        First token, the one behind the last, and whether the last is a stop token.
    """
    cut = np.diff(in_loss.astype(np.int8), prepend=0) != 0
    cut[1:] |= in_loss[1:] & is_stop[:-1] & ~is_stop[1:]
    borders = [*np.flatnonzero(cut).tolist(), len(in_loss)]
    return [
        (start, end, bool(is_stop[end - 1])) for start, end in pairwise(borders) if in_loss[start]
    ]
