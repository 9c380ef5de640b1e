"""A prepared stream as an iterable data set of torch: a stream in, one per worker process out.

::

    stream = stream_prepared("s3://bucket/prepared", batch_size=8, shuffle_buffer=9_000)
    stream = stream.for_torch()
    loader = DataLoader(stream, batch_size=None, collate_fn=PaddedCollator(0), num_workers=2)
    for epoch in range(3):
        stream.set_epoch(epoch)
        for batch in loader:
            ...

The epoch lies in shared memory, so that workers that live on see it. torchdata's
``StatefulDataLoader`` resumes it, with as many workers as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from lossmask.flat_batch import FlatBatch
from lossmask.prepared_stream import PreparedStream

__all__ = ["TorchStream"]


class TorchStream(IterableDataset[FlatBatch]):
    """The batches of a stream; in a worker process those of its own shards.

    Every pass is over the epoch that was set last, so set it before each. A pass that resumes a
    state is over that of the state.

    Args:
        stream: Of this rank.
    """

    def __init__(self, stream: PreparedStream) -> None:
        self._whole = stream
        self._epoch = torch.tensor(stream.epoch)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]
        self._mine: PreparedStream | None = None

    def set_epoch(self, epoch: int) -> None:
        """Let the next passes be over an epoch, 0-based."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[FlatBatch]:
        """Yield the batches that are left of the epoch."""
        mine = self._of_this_process()
        if not mine.resumed:
            mine.set_epoch(int(self._epoch))
        return mine.rest_of_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Return the place of this process, as `PreparedStream.state_dict`."""
        return self._of_this_process().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state, as `PreparedStream.load_state_dict`."""
        self._of_this_process().load_state_dict(state)

    def _of_this_process(self) -> PreparedStream:
        if self._mine is None:
            worker = get_worker_info()
            if worker is None:
                return self._whole
            self._mine = self._whole.of_worker(worker.id, worker.num_workers)
        return self._mine
