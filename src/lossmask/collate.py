"""Batch examples for a causal language model: examples in, padded torch tensors out.

Labels are padded by *position*, never by pad id, so that a tokenizer whose pad token is its eos
token keeps the eos in the loss::

    input_ids       7  8  2  9  2  2  2      (2 is eos and pad)
    attention_mask  1  1  1  1  1  0  0
    labels       -100  8  2 -100 2 -100 -100
    loss_weights    0  1  1  0  1  0  0

Tokens that ``Policy.ignore`` names (``ignorable``) are drawn here, anew in each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lossmask.errors import PolicyError, PreparedDataError
from lossmask.example import IGNORE_INDEX
from lossmask.ignoring import IgnoreTokens

__all__ = ["PaddedCollator"]


@dataclass(frozen=True, slots=True)
class PaddedCollator:
    """Pad examples to one length and stack them.

    Example:
        >>> collate = PaddedCollator(pad_token_id=2)
        >>> batch = collate([
        ...     {"input_ids": [7, 8, 2], "labels": [-100, 8, 2]},
        ...     {"input_ids": [9, 2], "labels": [-100, 2]},
        ... ])
        >>> batch["labels"].tolist()
        [[-100, 8, 2], [-100, 2, -100]]
        >>> batch["attention_mask"].tolist()
        [[1, 1, 1], [1, 1, 0]]
    """

    pad_token_id: int
    """Token id that fills ``input_ids``. Any valid id will do: nothing is ever masked by it."""
    pad_to_multiple_of: int | None = None
    """Round the length of the batch up to a multiple of this, for tensor cores."""
    padding_side: Literal["right", "left"] = "right"
    """Where the padding goes. With ``left`` the batch has ``position_ids`` too, so that a model
    with absolute positions sees the same positions as without padding."""

    keeps_weights: bool = True
    """Whether batches have ``loss_weights``; without them, for trainers that know none, a weight
    other than 0 and 1 is refused."""
    ignore: IgnoreTokens | None = None
    """How tokens that are ``ignorable`` are left out; None: not at all."""

    def set_epoch(self, epoch: int) -> None:
        """Draw the tokens to ignore of another epoch, 0-based."""
        if self.ignore is not None:
            self.ignore.epoch = epoch

    def __post_init__(self) -> None:
        if self.pad_token_id < 0:
            raise PolicyError(f"pad_token_id is {self.pad_token_id}; give a token id, 0 or more.")
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise PolicyError(
                f"pad_to_multiple_of is {self.pad_to_multiple_of}; give 1 or more, or None."
            )
        if self.padding_side not in ("right", "left"):
            raise PolicyError(f"padding_side is {self.padding_side!r}; give 'right' or 'left'.")

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad and stack a batch.

        Args:
            examples: Each with ``input_ids`` and ``labels`` of shape (tokens,), and
                ``loss_weights`` of the same shape unless every supervised token weighs 1; with
                ``ignore`` also ``ignorable`` of that shape and ``index``, the example's number.
                Other keys are left out of the batch.

        Returns:
            ``input_ids``, ``attention_mask``, ``labels`` int64 and ``loss_weights`` float32, each
            of shape (examples, length); ``position_ids`` int64 as well with left padding.

        Raises:
            PreparedDataError: The batch is empty, or an example's columns are missing or differ in
                length.
        """
        if not examples:
            raise PreparedDataError("a batch needs at least one example.", reason="empty_batch")
        columns = [_columns(example, place) for place, example in enumerate(examples)]
        if self.ignore is not None:
            columns = [
                _drawn(columns, example, place, self.ignore)
                for place, (columns, example) in enumerate(zip(columns, examples, strict=True))
            ]
        length = max(len(example["input_ids"]) for example in columns)
        if self.pad_to_multiple_of is not None:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(columns), length)
        padded: dict[str, npt.NDArray[Any]] = {
            "input_ids": np.full(shape, self.pad_token_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "labels": np.full(shape, IGNORE_INDEX, dtype=np.int64),
            "loss_weights": np.zeros(shape, dtype=np.float32),
        }
        for place, example in enumerate(columns):
            size = len(example["input_ids"])
            span = slice(0, size) if self.padding_side == "right" else slice(length - size, length)
            for name, values in example.items():
                padded[name][place, span] = values
            padded["attention_mask"][place, span] = 1
        if not self.keeps_weights:
            _refuse_weights(padded.pop("loss_weights"))
        if self.padding_side == "left":
            positions = padded["attention_mask"].cumsum(axis=1) - 1
            padded["position_ids"] = np.maximum(positions, 0)
        return {name: torch.from_numpy(values) for name, values in padded.items()}


def _columns(example: Mapping[str, Any], place: int) -> dict[str, npt.NDArray[Any]]:
    for name in ("input_ids", "labels"):
        if name not in example:
            raise PreparedDataError(
                f"example {place} of the batch has no {name!r}; it has {sorted(example)}.",
                reason="missing_column",
            )
    ids, labels = np.asarray(example["input_ids"]), np.asarray(example["labels"])
    weights = example.get("loss_weights")
    weights = labels != IGNORE_INDEX if weights is None else np.asarray(weights)
    if ids.ndim != 1 or not len(ids) or not ids.shape == labels.shape == weights.shape:
        raise PreparedDataError(
            f"example {place} of the batch: input_ids {ids.shape}, labels {labels.shape} and "
            f"loss_weights {weights.shape} have to be of one shape (tokens,), not empty.",
            reason="bad_example",
        )
    return {"input_ids": ids, "labels": labels, "loss_weights": weights}


def _refuse_weights(weights: npt.NDArray[np.float32]) -> None:
    lost = np.unique(weights[(weights != 0) & (weights != 1)])
    if lost.size:
        raise PreparedDataError(
            f"a token has the loss weight {float(lost[0])}, and this collator leaves weights out: "
            "train with lossmask, or prepare with weights of 0 and 1.",
            reason="weights_lost",
        )


def _drawn(
    columns: dict[str, npt.NDArray[Any]],
    example: Mapping[str, Any],
    place: int,
    ignore: IgnoreTokens,
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of an example with its tokens to ignore out of the loss."""
    missing = [name for name in ("ignorable", "index") if name not in example]
    if missing:
        raise PreparedDataError(
            f"example {place} of the batch has no {missing[0]!r}, which the tokens to ignore are "
            'drawn by: prepare the data with a policy that has "ignore".',
            reason="missing_column",
        )
    weights = np.asarray(columns["loss_weights"], np.float32)
    ignorable = np.asarray(example["ignorable"], bool)
    weights = ignore.weights(weights, ignorable, example=int(example["index"]))
    labels = np.where(weights != 0, columns["labels"], IGNORE_INDEX)
    return {"input_ids": columns["input_ids"], "labels": labels, "loss_weights": weights}
