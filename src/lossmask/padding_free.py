"""Batch examples without padding: examples in, one row of documents out.

The documents stand end to end. Positions begin anew in each, by which the attention of transformers
keeps them apart, and the first label of each is out of the loss, since what precedes it is another
document::

    input_ids       7  8  2 | 9  2 | 5  6  2
    position_ids    0  1  2 | 0  1 | 0  1  2
    labels       -100  8  2 |-100 2|-100 6  2
    loss_weights    0  1  1 | 0  1 | 0  1  1

There is no ``attention_mask``: with one, transformers takes the row for a single document. So it
does with a cache of keys and values: outside of ``Trainer`` and `supervised_loss`, which see to it,
call the model with ``use_cache=False``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossmask.collate import (
    Arrays,
    Tensors,
    check_multiple,
    check_tensors,
    drawn_batch,
    finished,
    rounded_up,
)
from lossmask.errors import PolicyError
from lossmask.example import IGNORE_INDEX
from lossmask.flat_batch import FlatBatch, IntArray
from lossmask.ignoring import IgnoreTokens

__all__ = ["PaddingFreeCollator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingFreeCollator:
    """Put examples end to end, as one row.

    Options are named as in transformers' ``DataCollatorWithFlattening``.

    Example:
        >>> collate = PaddingFreeCollator(return_tensors="np", return_flash_attn_kwargs=True)
        >>> batch = collate([
        ...     {"input_ids": [7, 8, 2], "labels": [7, 8, 2]},
        ...     {"input_ids": [9, 2], "labels": [-100, 2]},
        ... ])
        >>> batch["labels"].tolist(), batch["position_ids"].tolist()
        ([[-100, 8, 2, -100, 2]], [[0, 1, 2, 0, 1]])
        >>> batch["cu_seq_lens_q"].tolist(), batch["max_length_q"]
        ([0, 3, 5], 3)
    """

    return_flash_attn_kwargs: bool = False
    """Whether batches have ``cu_seq_lens_q``, ``cu_seq_lens_k``, ``max_length_q`` and
    ``max_length_k``, from which flash attention knows the documents."""
    return_seq_idx: bool = False
    """Whether batches have ``seq_idx``, from which linear-attention layers know the documents."""
    pad_to_multiple_of: int | None = None
    """Round the length of the row up to a multiple of this; the padding is one more document."""
    pad_token_id: int | None = None
    """Token id that fills it."""
    keeps_weights: bool = True
    """Whether batches have ``loss_weights``; without them, for trainers that know none, a weight
    other than 0 and 1 is refused."""
    ignore: IgnoreTokens | None = None
    """How tokens that are ``ignorable`` are left out; None: not at all."""
    return_tensors: Tensors = "pt"
    """``"pt"``: torch tensors; ``"np"``: NumPy arrays, without torch."""

    def __post_init__(self) -> None:
        check_multiple(self.pad_to_multiple_of)
        if self.pad_to_multiple_of is not None and (
            self.pad_token_id is None or self.pad_token_id < 0
        ):
            raise PolicyError(
                f"pad_to_multiple_of is {self.pad_to_multiple_of} and pad_token_id "
                f"{self.pad_token_id}; give a token id, 0 or more, to pad with."
            )
        check_tensors(self.return_tensors)

    def set_epoch(self, epoch: int) -> None:
        """Draw the tokens to ignore of another epoch, 0-based."""
        if self.ignore is not None:
            self.ignore.epoch = epoch

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Put a batch end to end.

        Args:
            examples: A `FlatBatch`, as ``PreparedDataset.__getitems__`` gives it, or mappings, or
                packs, as `flat_batch` takes them.

        Returns:
            ``input_ids``, ``labels``, ``position_ids`` int64 and ``loss_weights`` float32, each of
            shape (1, tokens); if asked for ``cu_seq_lens_q`` and ``cu_seq_lens_k`` int32 (documents
            + 1,), ``max_length_q`` and ``max_length_k``, which are ints, and ``seq_idx`` int32 (1,
            tokens). With padding, the documents are one more.

        Raises:
            PreparedDataError: The batch is empty, or an example's columns are missing, differ in
                length or are of the wrong type.
        """
        batch = drawn_batch(examples, self.ignore)
        lengths, arrays = self._flat(batch)
        borders = np.concatenate([[0], np.cumsum(lengths)])
        starts = borders[:-1]
        arrays["labels"][starts] = IGNORE_INDEX
        arrays["loss_weights"][starts] = 0
        arrays["position_ids"] = _positions(lengths)
        if self.return_seq_idx:
            arrays["seq_idx"] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        arrays = {name: values[None] for name, values in arrays.items()}
        if self.return_flash_attn_kwargs:
            arrays["cu_seq_lens_q"] = arrays["cu_seq_lens_k"] = borders.astype(np.int32)
        made = finished(arrays, keeps_weights=self.keeps_weights, tensors=self.return_tensors)
        if self.return_flash_attn_kwargs:
            made["max_length_q"] = made["max_length_k"] = int(lengths.max())
        return made

    def _flat(self, batch: FlatBatch) -> tuple[IntArray, Arrays]:
        """Return the lengths of the documents, padding included, and the columns end to end."""
        arrays: Arrays = {
            "input_ids": batch.joined("input_ids", np.int64),
            "labels": batch.joined("labels", np.int64),
            "loss_weights": batch.joined("loss_weights", np.float32),
        }
        size = len(arrays["input_ids"])
        missing = rounded_up(size, self.pad_to_multiple_of) - size
        if not missing:
            return batch.lengths, arrays
        for name, pad in (
            ("input_ids", self.pad_token_id or 0),
            ("labels", IGNORE_INDEX),
            ("loss_weights", 0),
        ):
            arrays[name] = np.pad(arrays[name], (0, missing), constant_values=pad)
        return np.append(batch.lengths, missing), arrays


def _positions(lengths: IntArray) -> IntArray:
    """Return 0, 1, 2, ... for each document, end to end."""
    longest = np.arange(lengths.max())
    return np.concatenate([longest[:length] for length in lengths.tolist()])
