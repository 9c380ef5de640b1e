"""Batches that can be resumed in the middle of an epoch: a data set and an order in, batches out.

`ResumableLoader` is a loader of its own; `ResumableBatches` is a ``batch_sampler`` for the loaders
of torch and torchdata. The state is a place in an order that a seed decides, so a resumed pass has
exactly the batches that were left, in their order::

    data = load_prepared("prepared")
    order = BatchOrder(examples=len(data), batch_size=8, rank=rank, world_size=world_size)
    loader = ResumableLoader(data, order, PaddedCollator(pad_token_id))
    for batch in loader:             # batches 0, 1, 2 of epoch 0
        ...
        saved = loader.state_dict()  # {"epoch": 0, "position": 3, ...}

    loader.load_state_dict(saved)
    for batch in loader:             # batches 3, 4, ... of epoch 0
        ...
    for batch in loader:             # epoch 1

torch is imported only for worker processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from lossmask.batch_order import BatchOrder
from lossmask.errors import PolicyError
from lossmask.flat_batch import FlatBatch, IntArray

__all__ = ["BatchedData", "ResumableBatches", "ResumableLoader"]

_Item = TypeVar("_Item")
_SAME = ("examples", "global_batch", "seed", "shuffle", "last")
"""What has to be as it was for the batches that are left to be the same."""


class BatchedData(Protocol):
    """A data set that gives many examples at once: ``PreparedDataset``, or packs of one."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: IntArray, /) -> FlatBatch: ...


class ResumableBatches:
    """A ``batch_sampler`` that knows where it is: yields the numbers of each batch's examples.

    A pass begins where a loaded state says, else at the beginning of the epoch; a pass that is
    finished ends the epoch, one that is broken off does not.

    torch's ``DataLoader`` with worker processes asks for batches before they are used, and this
    counts what was asked for: take its state only where there are no workers, or let torchdata's
    ``StatefulDataLoader`` or `ResumableLoader` take it.

    Args:
        order: Which examples make which batch.
    """

    def __init__(self, order: BatchOrder) -> None:
        self.order = order
        self.epoch = 0
        self.position = 0
        self._resumed = False
        self._checksum: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.counted(self.order.batches))

    def counted(self, source: Callable[[int, int], Iterator[_Item]]) -> Iterator[_Item]:
        """Yield what is left of the epoch, and count it.

        Args:
            source: Epoch and number of the first batch -> the batches from there on.
        """
        if not self._resumed:
            self.position = 0
        self._resumed = False
        for item in source(self.epoch, self.position):
            self.position += 1
            yield item
        self.epoch, self.position = self.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Begin the next pass at the beginning of an epoch, 0-based."""
        self.epoch, self.position, self._resumed = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the order, as plain data.

        The state is the same on every rank, and may be loaded by another number of ranks whose
        global batch is as large.
        """
        settings = {name: getattr(self.order, name) for name in _SAME}
        place = {"epoch": self.epoch, "position": self.position}
        return place | {"order": self._order_checksum()} | settings

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state.

        Raises:
            PolicyError: It is no state of such batches, or that of another order.
        """
        needed = {"epoch", "position", "order", *_SAME}
        if missing := sorted(needed - state.keys()):
            raise PolicyError(f"the state to resume has no {missing[0]!r}; it has {sorted(state)}.")
        for name in _SAME:
            if state[name] != getattr(self.order, name):
                raise PolicyError(
                    f"the state to resume has {name} {state[name]!r}, and here it is "
                    f"{getattr(self.order, name)!r}: the batches that are left would be others. "
                    "Resume with the data and settings that the state was saved with."
                )
        if not 0 <= state["position"] <= len(self.order):
            raise PolicyError(
                f"the state to resume is at batch {state['position']} of {len(self.order)}."
            )
        self.epoch, self.position, self._resumed = state["epoch"], state["position"], True
        if state["order"] != self._order_checksum():
            raise PolicyError(
                f"seed {self.order.seed} draws another order of epoch {self.epoch} here than where "
                "the state was saved: resume with the same version of NumPy."
            )

    def _order_checksum(self) -> int:
        if self._checksum is None or self._checksum[0] != self.epoch:
            self._checksum = (self.epoch, self.order.checksum(self.epoch))
        return self._checksum[1]


class ResumableLoader:
    """Iterates over one epoch after the other, in batches, and can be resumed after any batch.

    The state counts the batches that were handed out, so it is exact for any number of workers, and
    may be resumed with another.

    Args:
        data: Gives the examples.
        order: Which of them make which batch.
        collate: Makes a batch of them. One that draws tokens to ignore is told the epoch.
        workers: Processes of torch's ``DataLoader`` that read and collate; 0: this process does,
            without torch.

    Raises:
        PolicyError: ``order`` is not one of ``data``, or ``workers`` is negative.
    """

    def __init__(
        self,
        data: BatchedData,
        order: BatchOrder,
        collate: Callable[[Any], Any],
        *,
        workers: int = 0,
    ) -> None:
        if len(data) != order.examples:
            raise PolicyError(
                f"the order is of {order.examples} examples, and the data holds {len(data)}."
            )
        if workers < 0:
            raise PolicyError(f"workers is {workers}; give 0 or more.")
        self.data = data
        self.collate = collate
        self.workers = workers
        self._batches = ResumableBatches(order)

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches that are left of the epoch."""
        return self._batches.counted(self._load)

    @property
    def epoch(self) -> int:
        """The epoch of the pass that is going on, or of the next one, 0-based."""
        return self._batches.epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin the next pass at the beginning of an epoch, 0-based."""
        self._batches.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the place behind the last batch handed out, as `ResumableBatches.state_dict`."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state, as `ResumableBatches.load_state_dict`."""
        self._batches.load_state_dict(state)

    def _load(self, epoch: int, start: int) -> Iterator[Any]:
        set_epoch = getattr(self.collate, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        batches = self._batches.order.batches(epoch, start)
        if not self.workers:
            return (self.collate(self.data.__getitems__(batch)) for batch in batches)
        import torch
        from torch.utils.data import DataLoader

        data: Any = self.data
        sampler: Any = batches
        return iter(
            DataLoader(
                data,
                batch_sampler=sampler,
                collate_fn=self.collate,
                num_workers=self.workers,
                # A pass draws nothing from torch's own generator, which a resumed run shares.
                generator=torch.Generator(),
            )
        )
