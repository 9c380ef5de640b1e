"""Which shards a process streams, and in which order: sizes, seed and rank in, windows out.

A *window* is what is mixed: without a shuffle buffer one shard after the other, as it is, in the
order of the folder; with one, the shards in an order drawn from seed and epoch, as many at a time
as the buffer has room for, whose examples then come in a drawn order too::

    shards of the folder       0  1  2  3  4  5  6         two parts, room for two shards
    drawn order                4  0  6  2  5  1  3
    part 0                    (4  6)(5  3)
    part 1                    (0  2)(1)

Sizes are in the manifest, so that all of this is known without reading a shard. No state here.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lossmask.batch_order import check_rank
from lossmask.errors import PolicyError
from lossmask.flat_batch import IntArray

__all__ = ["LastOfStream", "StreamOrder"]

LastOfStream = Literal["keep", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOrder:
    """The shards of one process. Every shard is read by exactly one, in each epoch.

    Raises:
        PolicyError: A setting is wrong, or several ranks share the shards and ``last`` is not said.
    """

    sizes: tuple[int, ...]
    """Examples of each shard."""
    batch_size: int
    """Examples of a batch of one rank."""
    seed: int = 0
    """Of the draws."""
    shuffle_buffer: int = 0
    """Examples to hold and mix at a time, of one shard at least; 0: everything in order."""
    rank: int = 0
    """Which of the processes that train this is, 0-based."""
    world_size: int = 1
    """How many there are."""
    worker: int = 0
    """Which of the worker processes of this rank, 0-based."""
    workers: int = 1
    """How many there are."""
    last: LastOfStream | None = None
    """What becomes of the examples that would give one rank more batches than another. ``keep``:
    they are read, the last batch of a process may be short, and ranks differ in their number of
    batches. ``drop``: they are left out of the epoch. One rank alone keeps everything."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise PolicyError(f"batch_size is {self.batch_size}; give 1 or more.")
        if self.shuffle_buffer < 0:
            raise PolicyError(f"shuffle_buffer is {self.shuffle_buffer}; give 0 or more examples.")
        check_rank(self.rank, self.world_size)
        check_rank(self.worker, self.workers)
        if self.last not in (None, *get_args(LastOfStream)):
            raise PolicyError(f"last is {self.last!r}; give 'keep' or 'drop'.")
        if self.last is None and self.world_size > 1:
            raise PolicyError(
                "shards differ in size, so ranks would differ in their number of batches: give "
                "last='drop' to leave out what is too much, or last='keep' if yours need not wait "
                "for each other."
            )

    @property
    def part(self) -> int:
        """Which of all processes this is: workers of one number lie side by side."""
        return self.worker * self.world_size + self.rank

    def shards(self, epoch: int) -> IntArray:
        """Return the numbers of all shards as the epoch has them."""
        if not self.shuffle_buffer:
            return np.arange(len(self.sizes))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes))

    def checksum(self, epoch: int) -> int:
        """Return what tells the shards of an epoch and their sizes from others: a CRC-32."""
        shards = self.shards(epoch)
        known = np.concatenate([shards, np.array(self.sizes, np.int64)[shards]])
        return zlib.crc32(known.astype("<i8").tobytes())

    def windows(self, epoch: int) -> list[list[int]]:
        """Return the shards of this process, those that are mixed together."""
        windows: list[list[int]] = []
        held = 0
        for shard in self._shards_of(self.part, epoch):
            if not windows or held + self.sizes[shard] > self.shuffle_buffer:
                windows.append([])
                held = 0
            windows[-1].append(shard)
            held += self.sizes[shard]
        return windows

    def mixed(self, epoch: int, window: int, examples: int) -> IntArray:
        """Return (examples,) int64: the order of a window's examples."""
        if not self.shuffle_buffer:
            return np.arange(examples)
        return np.random.default_rng([self.seed, epoch, self.part, window]).permutation(examples)

    def batches(self, epoch: int) -> int:
        """Return the number of batches of this process.

        Raises:
            PolicyError: It would be 0 on every rank because a rank has no shard.
        """
        if self.last != "drop":
            return -(-self._examples_of(self.part, epoch) // self.batch_size)
        peers = range(self.worker * self.world_size, (self.worker + 1) * self.world_size)
        count = min(self._examples_of(part, epoch) for part in peers) // self.batch_size
        if not count:
            raise PolicyError(
                f"{len(self.sizes)} shards for {self.world_size} ranks of {self.workers} workers "
                f"leave one without a whole batch of {self.batch_size}, and last='drop' would drop "
                "those of all: use fewer workers or smaller batches, or open it with load_prepared."
            )
        return count

    def _shards_of(self, part: int, epoch: int) -> list[int]:
        shards: list[int] = self.shards(epoch)[part :: self.world_size * self.workers].tolist()
        return shards

    def _examples_of(self, part: int, epoch: int) -> int:
        return sum(self.sizes[shard] for shard in self._shards_of(part, epoch))
