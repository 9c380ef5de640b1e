"""Which examples make which batch: seed, epoch and rank in, batches of numbers out.

The order of an epoch is one permutation of all examples, drawn from seed and epoch. It is cut into
*global batches*, and each of these into the batches of the ranks::

    order of the epoch   3 0 5 4 | 1 6 2 7 | 8 9        batch_size 2, world_size 2
    rank 0               3 0     | 1 6     | 8
    rank 1                   5 4 |     2 7 |   9

Which examples a global batch holds depends on its size alone, not on how many ranks share it. No
state here, and no torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lossmask.errors import PolicyError, PreparedDataError
from lossmask.flat_batch import IntArray

__all__ = ["BatchOrder", "LastBatch", "check_rank"]

LastBatch = Literal["keep", "drop", "repeat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOrder:
    """The batches of one rank, in every epoch.

    Every rank has the same number of batches. With ``last="keep"`` every example is in exactly one
    batch of one rank in each epoch.

    Raises:
        PolicyError: A setting is wrong, or the last batch cannot be what ``last`` says.
        PreparedDataError: There is no example.

    Example:
        >>> order = BatchOrder(examples=5, batch_size=2, shuffle=False)
        >>> [batch.tolist() for batch in order.batches(epoch=0)]
        [[0, 1], [2, 3], [4]]
    """

    examples: int
    """How many there are: ``len`` of the data set."""
    batch_size: int
    """Examples of a batch of one rank."""
    seed: int = 0
    """Of the permutations."""
    shuffle: bool = True
    """Whether the order is drawn; without, it is that of the data."""
    rank: int = 0
    """Which part of each global batch this process has, 0-based."""
    world_size: int = 1
    """How many processes share a global batch."""
    last: LastBatch = "keep"
    """What becomes of the examples that fill no global batch: ``keep`` makes a smaller one of them,
    shared as evenly as can be, and is refused where a rank would get none; ``drop`` leaves them out
    of the epoch; ``repeat`` fills the batch up with the first examples of the epoch's order."""

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise PreparedDataError("there is no example to batch.", reason="no_examples")
        if self.batch_size < 1:
            raise PolicyError(f"batch_size is {self.batch_size}; give 1 or more.")
        check_rank(self.rank, self.world_size)
        if self.last not in get_args(LastBatch):
            raise PolicyError(f"last is {self.last!r}; give 'keep', 'drop' or 'repeat'.")
        left = self.examples % self.global_batch
        if self.last == "keep" and 0 < left < self.world_size:
            raise PolicyError(
                f"{self.examples} examples in global batches of {self.global_batch} leave {left} "
                f"for the last one, and some of {self.world_size} ranks would have none of them: "
                "give last='drop' or last='repeat', or another batch_size."
            )
        if not len(self):
            raise PolicyError(
                f"{self.examples} examples do not fill one global batch of {self.global_batch}: "
                "last='drop' leaves nothing."
            )

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        whole, left = divmod(self.examples, self.global_batch)
        return whole + (left > 0 and self.last != "drop")

    @property
    def global_batch(self) -> int:
        """How many examples all ranks take at a time."""
        return self.batch_size * self.world_size

    def order(self, epoch: int) -> IntArray:
        """Return (examples,) int64: the numbers of all examples as the epoch has them."""
        if not self.shuffle:
            return np.arange(self.examples)
        return np.random.default_rng([self.seed, epoch]).permutation(self.examples)

    def checksum(self, epoch: int) -> int:
        """Return what tells the order of an epoch from others: its CRC-32."""
        return zlib.crc32(self.order(epoch).astype("<i8").tobytes())

    def batches(self, epoch: int, start: int = 0) -> Iterator[IntArray]:
        """Yield the batches of this rank.

        Args:
            epoch: 0-based.
            start: How many batches to leave out at the beginning.

        Yields:
            (batch_size,) int64 numbers of examples; the last one may be shorter.
        """
        order = self.order(epoch)
        for step in range(start, len(self)):
            places = np.arange(step * self.global_batch, (step + 1) * self.global_batch)
            if self.last != "repeat":
                places = places[places < self.examples]
            mine = np.array_split(places, self.world_size)[self.rank]
            yield order.take(mine, mode="wrap")


def check_rank(rank: int, world_size: int) -> None:
    """Check that a rank is one of a number of processes."""
    if world_size < 1 or not 0 <= rank < world_size:
        raise PolicyError(
            f"rank is {rank} of world_size {world_size}; ranks go from 0 to world_size - 1."
        )
