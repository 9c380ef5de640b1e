"""Rows that are tokenized already -> the normal form.

``{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}`` -> ``{"input_ids": [5, 6, 7], "loss_weights":
[0.0, 1.0, 1.0]}``. Also read: ``loss_weights`` and the masks of TRL and transformers. Padding at
the end, told by ``attention_mask``, is taken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.row_values import Row, kind, number, shown, yes_or_no
from lossmask.weight_keys import row_weight

OUT = -100
"""The label of a token that is out of the loss."""

MASKS = ("loss_mask", "assistant_masks", "completion_mask")
"""1 = in the loss."""


def tokens_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read ids with labels, weights or masks; without any of these, all of it is in the loss.

    Raises:
        ConversationError: Two columns disagree (names both and the position), a label is neither
            -100 nor its token, or lengths differ.

    Example:
        >>> tokens_row({"input_ids": [5, 6], "labels": [-100, 6]}, Layout())
        {'input_ids': [5, 6], 'loss_weights': [0.0, 1.0]}
    """
    ids = _column(row, "input_ids")
    for position, token in enumerate(ids):
        if type(token) is not int or token < 0:
            raise _wrong("input_ids", position, token, "a token id")
    sources = {
        key: _in_loss(key, _column(row, key, len(ids)), ids)
        for key in ("labels", "loss_weights", *MASKS)
        if row.get(key) is not None
    }
    _check_agreement(sources)
    weights = [1.0] * len(ids)
    if sources:
        weights = sources.get("loss_weights", next(iter(sources.values())))
    length = _attended(row, ids, weights)
    result: Row = {"input_ids": ids[:length], "loss_weights": weights[:length]}
    weight = row_weight(row)
    if weight is not None:
        result["weight"] = weight
    return result


def _column(row: Mapping[str, Any], key: str, length: int | None = None) -> list[Any]:
    value = row[key]
    if hasattr(value, "tolist"):  # NumPy arrays and tensors, as `datasets` can give them
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise ConversationError(f"{key!r} must be a list of numbers, got {kind(value)}")
    if length is not None and len(value) != length:
        raise ConversationError(
            f"{key!r} has {len(value)} entries, 'input_ids' {length}: one per token is needed"
        )
    return list(value)


def _in_loss(key: str, values: list[Any], ids: list[int]) -> list[float]:
    """Return the weights that one column says."""
    if key == "loss_weights":
        return [number(value, f"loss_weights/{at}") for at, value in enumerate(values)]
    if key in MASKS:
        return [float(yes_or_no(value, f"{key}/{at}")) for at, value in enumerate(values)]
    for position, (label, token) in enumerate(zip(values, ids, strict=True)):
        if type(label) is not int or label not in (OUT, token):
            raise _wrong(key, position, label, f"-100 or the token {token} (labels unshifted)")
    return [float(label != OUT) for label in values]


def _check_agreement(sources: Mapping[str, list[float]]) -> None:
    columns = list(sources.items())
    for key, weights in columns[1:]:
        first, expected = columns[0]
        for position, (one, other) in enumerate(zip(expected, weights, strict=True)):
            if bool(one) != bool(other):
                raise ConversationError(
                    f"{first!r} and {key!r} disagree at token {position}: it is "
                    f"{'in' if one else 'out of'} the loss by {first!r}, "
                    f"{'in' if other else 'out of'} it by {key!r}",
                    reason="contradicting_weights",
                )


def _attended(row: Mapping[str, Any], ids: list[int], weights: list[float]) -> int:
    """Return how many tokens there are before the padding."""
    if row.get("attention_mask") is None:
        return len(ids)
    mask = [
        yes_or_no(value, f"attention_mask/{at}")
        for at, value in enumerate(_column(row, "attention_mask", len(ids)))
    ]
    length = max((at + 1 for at, attended in enumerate(mask) if attended), default=0)
    if not all(mask[:length]):
        raise ConversationError(
            f"'attention_mask' is 0 at token {mask.index(False)}, before tokens that are attended "
            "to: only padding at the end can be taken off"
        )
    for position in range(length, len(ids)):
        if weights[position]:
            raise ConversationError(
                f"token {position} is in the loss, but 'attention_mask' says it is padding",
                reason="contradicting_weights",
            )
    return length


def _wrong(key: str, position: int, value: object, expected: str) -> ConversationError:
    return ConversationError(f"{key!r} is {shown(value)} at token {position}; expected {expected}")
