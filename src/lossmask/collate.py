"""Batch examples for a causal language model: examples in, one padded batch out.

Labels are padded by *position*, never by pad id, so that a tokenizer whose pad token is its eos
token keeps the eos in the loss::

    input_ids       7  8  2  9  2  2  2      (2 is eos and pad)
    attention_mask  1  1  1  1  1  0  0
    labels       -100  8  2 -100 2 -100 -100
    loss_weights    0  1  1  0  1  0  0

Tokens that ``Policy.ignore`` names (``ignorable``) are drawn here, anew in each epoch. Batches are
written in NumPy; torch is imported for ``return_tensors="pt"`` alone, and shares their memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lossmask.errors import PolicyError, PreparedDataError
from lossmask.example import IGNORE_INDEX
from lossmask.flat_batch import FlatBatch, flat_batch
from lossmask.ignoring import IgnoreTokens

__all__ = ["PaddedCollator", "Tensors"]

Tensors = Literal["pt", "np"]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class PaddedCollator:
    """Pad examples to one length and stack them.

    Example:
        >>> collate = PaddedCollator(pad_token_id=2, return_tensors="np")
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
    return_tensors: Tensors = "pt"
    """``"pt"``: torch tensors; ``"np"``: NumPy arrays, without torch."""

    def set_epoch(self, epoch: int) -> None:
        """Draw the tokens to ignore of another epoch, 0-based."""
        if self.ignore is not None:
            self.ignore.epoch = epoch

    def __post_init__(self) -> None:
        if self.pad_token_id < 0:
            raise PolicyError(f"pad_token_id is {self.pad_token_id}; give a token id, 0 or more.")
        check_multiple(self.pad_to_multiple_of)
        if self.padding_side not in ("right", "left"):
            raise PolicyError(f"padding_side is {self.padding_side!r}; give 'right' or 'left'.")
        check_tensors(self.return_tensors)

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Pad and stack a batch.

        Args:
            examples: A `FlatBatch`, as ``PreparedDataset.__getitems__`` gives it, or mappings, or
                packs, as `flat_batch` takes them; each document of a pack becomes a row of its own.

        Returns:
            ``input_ids``, ``labels``, ``attention_mask`` int64 and ``loss_weights`` float32, each
            of shape (examples, length); ``position_ids`` int64 as well with left padding.

        Raises:
            PreparedDataError: The batch is empty, or an example's columns are missing, differ in
                length or are of the wrong type.
        """
        batch = drawn_batch(examples, self.ignore)
        padded = self._padded(batch)
        return finished(padded, keeps_weights=self.keeps_weights, tensors=self.return_tensors)

    def _padded(self, batch: FlatBatch) -> Arrays:
        length = rounded_up(int(batch.lengths.max()), self.pad_to_multiple_of)
        shape = (len(batch), length)
        sources = batch.slices()
        left = self.padding_side == "left"
        sizes = batch.lengths.tolist()
        targets = [slice(length - size, length) if left else slice(size) for size in sizes]
        # Columns that every row fills are written once; only the ragged ones need padding first.
        shortest = int(batch.lengths.min())
        ragged = slice(length - shortest) if left else slice(shortest, length)
        padded: Arrays = {}
        for name, (pad, kind) in _padding(self.pad_token_id).items():
            padded[name] = rows = np.empty(shape, kind)
            rows[:, ragged] = pad
            values = batch.columns[name]
            for row, source, target in zip(rows, sources, targets, strict=True):
                row[target] = values[source]
        places = np.arange(length)[ragged]
        ends = batch.lengths[:, None]
        mask = padded["attention_mask"] = np.ones(shape, np.int64)
        mask[:, ragged] = places >= length - ends if left else places < ends
        if left:
            padded["position_ids"] = np.maximum(np.arange(length) - (length - ends), 0)
        return padded


def _padding(pad_token_id: int) -> dict[str, tuple[int, type[np.generic]]]:
    """Return what fills each column, and the type that models want."""
    return {
        "input_ids": (pad_token_id, np.int64),
        "labels": (IGNORE_INDEX, np.int64),
        "loss_weights": (0, np.float32),
    }


def drawn_batch(examples: Sequence[Any], ignore: IgnoreTokens | None) -> FlatBatch:
    """Bring a batch into the flat form, with the tokens to ignore out of the loss.

    Args:
        examples: As `flat_batch` takes them.
        ignore: The draw, or None.

    Returns:
        The batch that a collator lays out.

    Raises:
        PreparedDataError: As `flat_batch`.
    """
    batch = flat_batch(examples, drawn=ignore is not None)
    return batch if ignore is None else ignore.drawn(batch)


def rounded_up(length: int, multiple: int | None) -> int:
    """Return a length rounded up to a multiple."""
    return length if multiple is None else -(-length // multiple) * multiple


def check_multiple(multiple: int | None) -> None:
    """Check ``pad_to_multiple_of``."""
    if multiple is not None and multiple < 1:
        raise PolicyError(f"pad_to_multiple_of is {multiple}; give 1 or more, or None.")


def check_tensors(tensors: str) -> None:
    """Check ``return_tensors``."""
    if tensors not in ("pt", "np"):
        raise PolicyError(f"return_tensors is {tensors!r}; give 'pt' or 'np'.")


def finished(arrays: Arrays, *, keeps_weights: bool, tensors: Tensors) -> dict[str, Any]:
    """Return a batch as its trainer wants it.

    Args:
        arrays: What was laid out.
        keeps_weights: Whether ``loss_weights`` stay.
        tensors: ``"pt"`` or ``"np"``.

    Returns:
        The arrays, or tensors that share their memory.

    Raises:
        PreparedDataError: Weights are left out, and one is not 0 or 1.
    """
    if not keeps_weights:
        _refuse_weights(arrays.pop("loss_weights"))
    if tensors == "np":
        return dict(arrays)
    import torch

    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _refuse_weights(weights: npt.NDArray[np.float32]) -> None:
    lost = np.unique(weights[(weights != 0) & (weights != 1)])
    if lost.size:
        raise PreparedDataError(
            f"a token has the loss weight {float(lost[0])}, and this collator leaves weights out: "
            "train with lossmask, or prepare with weights of 0 and 1.",
            reason="weights_lost",
        )
