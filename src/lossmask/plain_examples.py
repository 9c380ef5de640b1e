"""One example out of a batch of flat tokens, as the whole way would have built it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lossmask.example import Example, Span
from lossmask.parts import parts_of_answers
from lossmask.plain_conversations import PlainLayout
from lossmask.plain_tokens import FlatTokens
from lossmask.tokenizing import Offsets


def plain_examples(layouts: Sequence[PlainLayout], tokens: FlatTokens) -> Iterator[Example | None]:
    """Yield the examples of a batch, None for each that has to go the whole way."""
    for number, layout in enumerate(layouts):
        yield plain_example(layout, tokens, number) if tokens.is_exact[number] else None


def plain_example(layout: PlainLayout, tokens: FlatTokens, number: int) -> Example:
    """Return one example of a batch.

    Args:
        layout: Its text and places.
        tokens: The batch.
        number: Which one of the batch; it has to be exact.
    """
    first, end = (int(at) for at in tokens.starts[number : number + 2])
    span = slice(first, end)
    bounds = tokens.bounds[first : end + 1] - tokens.bounds[first]
    offsets = _characters(layout.text, bounds)
    ids, in_loss = tokens.input_ids[span], tokens.loss_weights[span] != 0
    return Example(
        text=layout.text,
        input_ids=ids,
        offsets=offsets,
        loss_weights=tokens.loss_weights[span],
        message_index=tokens.message_index[span],
        spans=tuple(_span(layout.text, offsets, *place) for place in layout.completions),
        parts=parts_of_answers(in_loss, tokens.is_stop[ids], tokens.message_index[span]),
    )


def _characters(text: str, bounds: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Offsets:
    """Return the characters of tokens that lie between bounds in bytes, int32 (tokens, 2)."""
    starts, ends = bounds[:-1], bounds[1:]
    if text.isascii():
        return np.stack([starts, ends], axis=1).astype(np.int32)
    is_lead = (np.frombuffer(text.encode(), np.uint8) & 0xC0) != 0x80
    of_byte = np.cumsum(is_lead) - 1
    return np.stack([of_byte[starts], of_byte[ends - 1] + 1], axis=1).astype(np.int32)


def _span(text: str, offsets: Offsets, message: int, start: int, end: int) -> Span:
    token_start, token_end = np.searchsorted(offsets[:, 0], [start, end]).tolist()
    stop = text[offsets[token_end - 1, 0] : end]
    return Span(message, start, end, token_start, token_end, stop)
