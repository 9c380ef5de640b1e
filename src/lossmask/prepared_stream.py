"""Stream a prepared folder from anywhere: a path or URL in, batches out, in bounded memory.

For data that is read once, or lies where random access is slow. Shards are read one after the
other, whole and each once per epoch; all invariants of an example are checked as in
``load_prepared``. No torch, but for worker processes (`PreparedStream.for_torch`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lossmask.example import IGNORE_INDEX
from lossmask.flat_batch import IGNORABLE, FlatBatch, joined_batches
from lossmask.prepared_manifest import (
    MANIFEST_NAME,
    PreparedFolder,
    bad_manifest,
    read_manifest,
    shard_starts,
)
from lossmask.prepared_shards import ShardPart, read_parts
from lossmask.resume_state import place_of, saved_state
from lossmask.stream_order import LastOfStream, StreamOrder

if TYPE_CHECKING:
    from lossmask.torch_stream import TorchStream

__all__ = ["PreparedStream", "stream_prepared"]


def stream_prepared(
    folder: str | Path,
    *,
    batch_size: int,
    shuffle_buffer: int = 0,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    last: LastOfStream | None = None,
) -> PreparedStream:
    """Open a prepared folder for streaming.

    Reads the manifest alone. Without a buffer one row group of a shard is in memory, and the bytes
    of its file; with one, up to ``shuffle_buffer`` examples, or one shard if it holds more, twice
    while they are mixed.

    Args:
        folder: The ``OUT`` of ``lossmask prepare``: a path, or a URL that fsspec knows, such as
            ``s3://bucket/prepared``.
        batch_size: Examples of a batch.
        shuffle_buffer: Examples to hold and mix at a time; shards then come in an order drawn for
            each epoch. 0: everything in the order of the folder.
        seed: Of the order.
        rank: Which of the processes that train this is; each reads shards of its own.
        world_size: How many there are.
        last: What becomes of examples that would give one rank more batches than another: ``keep``
            or ``drop``, as `StreamOrder` says; needed where there are several.

    Returns:
        The stream.

    Raises:
        PolicyError: A setting is wrong.
        PreparedDataError: The folder or its manifest is missing, unfinished or damaged.
    """
    place = PreparedFolder.at(folder)
    manifest = read_manifest(place)
    sizes = tuple(entry["examples"] for entry in manifest["shards"])
    if sum(sizes) != manifest["examples"]:
        raise bad_manifest(
            place.named(MANIFEST_NAME),
            f"examples is {manifest['examples']}, but the shards hold {sum(sizes)}",
        )
    order = StreamOrder(
        sizes=sizes,
        batch_size=batch_size,
        seed=seed,
        shuffle_buffer=shuffle_buffer,
        rank=rank,
        world_size=world_size,
        last=last,
    )
    return PreparedStream(place, manifest, order)


class PreparedStream:
    """The batches of a prepared folder, one epoch per pass, to be resumed after any batch.

    A pass begins where a loaded state says, else at the beginning of the epoch; a pass that is
    finished ends the epoch, one that is broken off does not. Examples have the numbers that
    ``load_prepared`` gives them.

    Args:
        folder: Where it lies.
        manifest: Of it, checked.
        order: Which shards this process reads.
    """

    def __init__(
        self, folder: PreparedFolder, manifest: Mapping[str, Any], order: StreamOrder
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.order = order
        self.epoch = 0
        self.position = 0
        self.resumed = False
        self._firsts = shard_starts(manifest)
        self._columns: frozenset[str] | None = None

    def __len__(self) -> int:
        """Return the number of batches of this process in the whole current epoch."""
        return self.order.batches(self.epoch)

    def __iter__(self) -> Iterator[FlatBatch]:
        """Yield the batches that are left of the epoch, and go on to the next one."""
        yield from self.rest_of_epoch()
        self.epoch, self.position = self.epoch + 1, 0

    def rest_of_epoch(self) -> Iterator[FlatBatch]:
        """Yield the batches that are left of the epoch, and stay at its end.

        Yields:
            ``batch_size`` examples with their numbers; the last batch may be smaller.

        Raises:
            PreparedDataError: A shard is missing or damaged, an example breaks an invariant, or,
                after one process has read everything, the manifest's counts are not true.
        """
        if not self.resumed:
            self.position = 0
        self.resumed = False
        batches = self._batches(self.epoch, self.position)
        if self.order.last == "drop":
            batches = islice(batches, self.order.batches(self.epoch) - self.position)
        for batch in batches:
            self.position += 1
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Begin the next pass at the beginning of an epoch, 0-based."""
        self.epoch, self.position, self.resumed = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the place behind the last batch handed out, as plain data.

        It is that of this process, and to be loaded by the one of the same rank and worker.
        """
        order = self.order.checksum(self.epoch)
        return saved_state(self.epoch, self.position, order, self._settings())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state. Shards before it are not read.

        Raises:
            PolicyError: It is no state of a stream, or that of another order.
        """
        self.epoch, self.position = place_of(
            state, self._settings(), order=self.order.checksum, batches=self.order.batches
        )
        self.resumed = True

    def of_worker(self, worker: int, workers: int) -> PreparedStream:
        """Return the stream of one of several worker processes of this rank, called in that one."""
        order = dataclasses.replace(self.order, worker=worker, workers=workers)
        # Opened again: a connection of fsspec does not live on in another process.
        folder = PreparedFolder.at(self.folder.name)
        stream = PreparedStream(folder, self.manifest, order)
        stream.set_epoch(self.epoch)
        return stream

    def for_torch(self) -> TorchStream:
        """Return it as an iterable data set of torch, whose workers read shards of their own."""
        from lossmask.torch_stream import TorchStream

        return TorchStream(self)

    def _settings(self) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(self.order) if field.name != "sizes"]
        return {name: getattr(self.order, name) for name in names}

    def _batches(self, epoch: int, start: int) -> Iterator[FlatBatch]:
        size = self.order.batch_size
        rest: list[FlatBatch] = []  # fewer than a batch, of earlier pieces
        for piece in self._pieces(epoch, start * size):
            begin = 0
            if rest:
                begin = min(size - len(rest[0]), len(piece))
                rest = [joined_batches([*rest, piece[:begin]])]
                if len(rest[0]) == size:
                    yield rest.pop()
            while len(piece) - begin >= size:
                yield piece[begin : begin + size]
                begin += size
            if begin < len(piece):
                rest = [joined_batches([piece[begin:]])]  # a copy, which holds no shard in memory
        yield from rest

    def _pieces(self, epoch: int, skipped: int) -> Iterator[FlatBatch]:
        """Yield the examples of this process in order, some left out at the beginning."""
        whole = not skipped
        tokens = supervised = 0
        windows = self.order.windows(epoch)
        for number, shards in enumerate(windows):
            size = sum(self.order.sizes[shard] for shard in shards)
            if skipped >= size:
                skipped -= size
                continue
            for piece in self._window(epoch, number, shards):
                tokens += int(piece.lengths.sum())
                supervised += int(np.count_nonzero(piece.columns["labels"] != IGNORE_INDEX))
                left_out = min(skipped, len(piece))
                skipped -= left_out
                if left_out < len(piece):
                    yield piece[left_out:]
        if whole and sum(map(len, windows)) == len(self.order.sizes):
            for key, count in (("tokens", tokens), ("supervised_tokens", supervised)):
                if self.manifest[key] != count:
                    raise bad_manifest(
                        self.folder.named(MANIFEST_NAME),
                        f"{key} is {self.manifest[key]}, but the shards hold {count}",
                    )

    def _window(self, epoch: int, number: int, shards: Sequence[int]) -> Iterator[FlatBatch]:
        """Yield the examples of a window: row group by row group, or mixed."""
        pieces = (self._examples(shard, part) for shard in shards for part in self._parts(shard))
        if not self.order.shuffle_buffer:
            yield from pieces
            return
        whole = joined_batches(list(pieces))
        mixed = self.order.mixed(epoch, number, len(whole))
        yield whole.taken(mixed)

    def _parts(self, shard: int) -> Iterator[ShardPart]:
        entry = self.manifest["shards"][shard]
        for part in read_parts(self.folder, entry["file"], entry["examples"]):
            self._columns = self._columns or frozenset(part.columns)
            if part.columns.keys() != self._columns:
                raise bad_manifest(
                    self.folder.named(MANIFEST_NAME),
                    f"some shards have {IGNORABLE!r}, and {part.where} differs",
                )
            yield part

    def _examples(self, shard: int, part: ShardPart) -> FlatBatch:
        first = int(self._firsts[shard]) + part.first
        numbers = np.arange(first, first + len(part.rows))
        return FlatBatch(part.columns, part.starts[:-1], np.diff(part.starts), numbers)
