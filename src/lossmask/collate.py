"""Batch examples for a causal language model: examples in, padded torch tensors out.

Labels are padded by *position*, never by pad id, so that a tokenizer whose pad token is its eos
token keeps the eos in the loss::

    input_ids       7  8  2  9  2  2  2      (2 is eos and pad)
    attention_mask  1  1  1  1  1  0  0
    labels       -100  8  2 -100 2 -100 -100
    loss_weights    0  1  1  0  1  0  0
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
                ``loss_weights`` of the same shape unless every supervised token weighs 1. Other
                keys are left out of the batch.

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
