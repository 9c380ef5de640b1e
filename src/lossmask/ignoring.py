"""Tokens left out of the loss by chance: the draw.

In: the weights of an example and which of its tokens ``Policy.ignore`` names, or a batch of them.
Out: the weights of one epoch. The draw depends on seed, epoch and example alone, not on batches or
processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lossmask.errors import PolicyError
from lossmask.example import IGNORE_INDEX
from lossmask.flat_batch import IGNORABLE, FlatBatch


@dataclass(slots=True)
class IgnoreTokens:
    """Leaves tokens out of the loss, anew in each epoch.

    Example:
        >>> ignore = IgnoreTokens(probability=1.0)
        >>> weights, ignorable = np.ones(2, np.float32), np.array([True, False])
        >>> ignore.weights(weights, ignorable, example=0).tolist()
        [0.0, 1.0]
    """

    probability: float = 0.8
    """With which a token is left out."""
    seed: int = 0
    """Of the draw."""
    epoch: int = 0
    """0-based; set it at the beginning of each epoch."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise PolicyError(f"probability is {self.probability!r}; give a number from 0 to 1.")

    def weights(
        self,
        weights: npt.NDArray[np.float32],
        ignorable: npt.NDArray[np.bool_],
        *,
        example: int,
    ) -> npt.NDArray[np.float32]:
        """Return the weights with which an example counts in this epoch.

        Args:
            weights: float32 (n,).
            ignorable: bool (n,).
            example: Number of the example in the data, 0 or more.
        """
        drawn = np.random.default_rng([self.seed, self.epoch, example]).random(len(weights))
        ignored = ignorable & (drawn < self.probability)
        return np.where(ignored, np.float32(0), weights)

    def drawn(self, batch: FlatBatch) -> FlatBatch:
        """Return a batch with its tokens to ignore out of the loss.

        Args:
            batch: With the column ``ignorable`` and the numbers of its examples.

        Returns:
            The batch, end to end, with the weights and labels of this epoch.
        """
        assert batch.numbers is not None  # which the caller has checked
        ends = np.cumsum(batch.lengths)
        starts = ends - batch.lengths
        ignorable, weights = batch.joined(IGNORABLE), batch.joined("loss_weights")
        for start, end, number in zip(
            starts.tolist(), ends.tolist(), batch.numbers.tolist(), strict=True
        ):
            span = slice(start, end)
            weights[span] = self.weights(weights[span], ignorable[span], example=number)
        labels = np.where(weights != 0, batch.joined("labels"), IGNORE_INDEX)
        columns = {"input_ids": batch.joined("input_ids"), "labels": labels}
        return FlatBatch(columns | {"loss_weights": weights}, starts, batch.lengths, batch.numbers)
