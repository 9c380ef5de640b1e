"""Rows encoded many at a time and one by one, held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lossmask import Encoder, Example
from lossmask.outcome import Outcome
from lossmask.rendering import ChatTemplate
from tests.scenarios import assistant, user

FIRST = {"messages": [user("a"), assistant("b"), user("c"), assistant("d")]}


def ready(encoder: Encoder) -> Encoder:
    """Let an encoder find its generation prompt; from then on it is on its own.

    The first renderings of a template are held against transformers', which would hide that a
    proof is wrong.
    """
    encoder.encode_row(FIRST)
    template = encoder._setting.template
    if isinstance(template, ChatTemplate):
        template._rendered = 1_000
    return encoder


def contents(example: Example) -> dict[str, Any]:
    """Return all that an example holds, dtypes included."""
    arrays = {
        name: (str(array.dtype), array.tolist())
        for name in ("input_ids", "labels", "loss_weights", "offsets", "message_index")
        for array in [getattr(example, name)]
    }
    return {
        **arrays,
        "text": example.text,
        "spans": example.spans,
        "findings": example.findings,
        "ignorable": None if example.ignorable is None else example.ignorable.tolist(),
        "parts": None if example.parts is None else example.parts.tolist(),
    }


def shown(outcome: Outcome) -> tuple[Any, ...]:
    """Return all that became of a row."""
    return [contents(example) for example in outcome.examples], outcome.rejection, outcome.lost


def check_both_ways(encoder: Encoder, rows: Sequence[Mapping[str, Any]]) -> int:
    """Require the same outcomes; return how many rows were encoded many at a time."""
    batches = encoder.row_batches
    layouts = [layout for row in rows if (layout := batches.lay_out(row)) is not None]
    exact = int(batches.tokenize(layouts).is_exact.sum()) if layouts else 0
    together, alone = encoder.encode_batch(rows), [encoder.encode_row(row) for row in rows]
    for row, one, other in zip(rows, together, alone, strict=True):
        assert shown(one) == shown(other), row
    return exact
