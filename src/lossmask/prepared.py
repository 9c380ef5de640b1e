"""Open a prepared folder: Parquet shards and their manifest in, an indexable set of examples out.

Comes in: the folder that ``lossmask prepare`` wrote, on this machine or in an object store::

    OUT/manifest.json        what was prepared, with which tokenizer, and how much of it there is
    OUT/part-00000.parquet   row, input_ids, labels, loss_weights, message_index
    OUT/part-00001.parquet   ...
    OUT/rejected.jsonl       the rows that gave no example (not read here)

Goes out: `PreparedDataset`, flat columns of all tokens, of which examples and batches are ranges.
Everything that the manifest claims and every invariant of an example is checked once, when the
folder is opened. No torch here: data commands read prepared folders too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.column_cache import Allocate, cached_arrays, mapped_arrays
from lossmask.example import IGNORE_INDEX
from lossmask.flat_batch import IGNORABLE, FlatBatch, IntArray
from lossmask.prepared_manifest import (
    MANIFEST_NAME,
    PreparedFolder,
    bad_manifest,
    read_manifest,
    shard_starts,
)
from lossmask.prepared_shards import TOKEN_COLUMNS, column_kinds, example_name, read_parts

__all__ = ["TOKEN_COLUMNS", "PreparedDataset", "load_prepared"]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedDataset:
    """The examples of a prepared folder, in the order in which they were written.

    It has ``__len__``, ``__getitem__`` and ``__getitems__`` and so is a map-style dataset for
    torch's ``DataLoader`` without importing torch. An example is a range of the flat columns:
    reading one decodes and copies nothing.

    The columns take 16 bytes a token (four columns) and 16 an example: in memory, or, with a cache,
    on disk, from where the operating system reads what is used and drops what it needs room for.
    """

    folder: str
    """The path or URL it was read from."""
    manifest: Mapping[str, Any]
    """The parsed ``manifest.json``."""
    columns: Mapping[str, npt.NDArray[Any]]
    """Column name -> (tokens,) array of all examples end to end, read-only."""
    starts: IntArray
    """(examples + 1,) int64: where each example begins in the columns; the last is their length."""
    rows: IntArray
    """(examples,) int64: the input row of each example."""
    cache: str | None = None
    """The folder that the columns are mapped from; None: they are in memory."""

    def __reduce__(self) -> tuple[Callable[..., PreparedDataset], tuple[Any, ...]]:
        """Pickle the path of mapped columns, not their bytes."""
        if self.cache is not None:
            return _mapped, (self.folder, self.manifest, self.cache)
        columns = (self.columns, self.starts, self.rows)
        return PreparedDataset, (self.folder, self.manifest, *columns)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one example.

        Args:
            index: 0-based; negative counts from the end.

        Returns:
            ``input_ids`` int32, ``labels`` int32 (-100 = out of the loss, unshifted),
            ``loss_weights`` float32 and ``message_index`` int32 (-1 = template scaffolding), each
            of shape (tokens,), views of the columns; where the policy names tokens to ignore,
            ``ignorable`` bool of that shape and ``index``, the example's number, as well.

        Raises:
            IndexError: ``index`` is outside the data.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int] | IntArray) -> FlatBatch:
        """Return the examples of a batch, which torch's ``DataLoader`` hands to its collator.

        Args:
            indices: 0-based; negative count from the end. Any order, repetitions too.

        Returns:
            The examples in that order, as ranges of the columns; ``numbers`` are their indices.

        Raises:
            IndexError: An index is outside the data, or no whole number.
        """
        wanted = np.asarray(indices) if len(indices) else np.zeros(0, np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise IndexError(f"indices are whole numbers in one row, not {wanted.dtype} values")
        numbers = wanted.astype(np.int64)
        numbers[numbers < 0] += len(self)
        outside = np.flatnonzero((numbers < 0) | (numbers >= len(self)))
        if len(outside):
            raise IndexError(f"example {wanted[outside[0]]} of {len(self)} in {self.folder}")
        starts = self.starts[numbers]
        return FlatBatch(self.columns, starts, self.starts[numbers + 1] - starts, numbers)

    @property
    def lengths(self) -> IntArray:
        """(examples,) int64: the number of tokens of each example."""
        return np.diff(self.starts)

    @property
    def tokenizer(self) -> Mapping[str, Any]:
        """The manifest's ``tokenizer`` entry: path, vocab_size, eos_token_id, stop_ids and more."""
        entry: Mapping[str, Any] = self.manifest["tokenizer"]
        return entry

    def largest_token(self) -> tuple[int, str]:
        """Find the largest token id, which has to fit the model's embedding.

        Returns:
            The id, and the words that name the first example holding it.
        """
        ids = self.columns["input_ids"]
        if not len(ids):
            return -1, ""
        position = int(ids.argmax())
        return int(ids[position]), self._name(
            int(np.searchsorted(self.starts, position, side="right")) - 1
        )

    def _name(self, number: int) -> str:
        """Name an example for an error message, by its shard and input row."""
        firsts = shard_starts(self.manifest)
        shard = int(np.searchsorted(firsts, number, side="right")) - 1
        file = self.manifest["shards"][shard]["file"]
        where = f"{self.folder.rstrip('/')}/{file}"
        return example_name(where, number - int(firsts[shard]), int(self.rows[number]))


def load_prepared(folder: str | Path, *, cache: str | Path | None = None) -> PreparedDataset:
    """Open a prepared folder and check that it is whole.

    Without a cache every call decodes and checks all shards, into memory. With one, the first call
    does, a shard at a time, and writes 16 bytes a token to the cache; later calls, and the
    processes of one machine, map those files and share their memory. A cache of a folder whose
    files have changed since is written anew.

    Args:
        folder: The ``OUT`` of ``lossmask prepare``: a path, or a URL that fsspec knows, such as
            ``s3://bucket/prepared``.
        cache: Folder on a local disk, new, empty or of an earlier call, to keep the decoded columns
            in: for data larger than memory.

    Returns:
        Its examples.

    Raises:
        PreparedDataError: The folder, the manifest or a shard is missing, unfinished or damaged,
            the counts disagree, or an example breaks an invariant. The text names the file and the
            remedy. Or the cache's folder holds something else.
    """
    place = PreparedFolder.at(folder)
    manifest = read_manifest(place)
    decode = partial(_decode, place, manifest)
    if cache is not None and manifest["tokens"]:  # nothing cannot be mapped
        cached_arrays(Path(cache), place.identity(manifest), decode)
        return _mapped(place.name, manifest, str(cache))
    arrays = decode(lambda name, size, kind: np.empty(size, kind))
    for values in arrays.values():
        values.flags.writeable = False
    return _dataset(place.name, manifest, arrays)


def _mapped(folder: str, manifest: Mapping[str, Any], cache: str) -> PreparedDataset:
    return _dataset(folder, manifest, mapped_arrays(Path(cache)), cache)


def _dataset(
    folder: str, manifest: Mapping[str, Any], arrays: Mapping[str, Any], cache: str | None = None
) -> PreparedDataset:
    columns = {name: arrays[name] for name in arrays if name not in ("starts", "rows")}
    return PreparedDataset(folder, manifest, columns, arrays["starts"], arrays["rows"], cache)


def _decode(
    folder: PreparedFolder,
    manifest: Mapping[str, Any],
    allocate: Allocate,
) -> dict[str, npt.NDArray[Any]]:
    """Decode all shards into arrays of the size that the manifest names, part by part."""
    path = folder.named(MANIFEST_NAME)
    examples, tokens = manifest["examples"], manifest["tokens"]
    arrays = {"starts": allocate("starts", examples + 1, np.int64)}
    arrays["rows"] = allocate("rows", examples, np.int64)
    arrays["starts"][0] = 0
    example = token = supervised = 0
    for entry in manifest["shards"]:
        for part in read_parts(folder, entry["file"], entry["examples"]):
            kinds = column_kinds(ignorable=IGNORABLE in part.columns)
            if "input_ids" not in arrays:
                arrays |= {name: allocate(name, tokens, kind) for name, kind in kinds.items()}
            next_example, next_token = example + len(part.rows), token + int(part.starts[-1])
            for key, count in (("examples", next_example), ("tokens", next_token)):
                if count > manifest[key]:
                    raise bad_manifest(path, f"{key} is {manifest[key]}, but the shards hold more")
            if kinds.keys() != arrays.keys() - {"starts", "rows"}:
                raise bad_manifest(
                    path, f"some shards have {IGNORABLE!r}, and {part.where} differs"
                )
            arrays["rows"][example:next_example] = part.rows
            arrays["starts"][example + 1 : next_example + 1] = token + part.starts[1:]
            for name in kinds:
                arrays[name][token:next_token] = part.columns[name]
            supervised += int(np.count_nonzero(part.columns["labels"] != IGNORE_INDEX))
            example, token = next_example, next_token
    found = {"examples": example, "tokens": token, "supervised_tokens": supervised}
    for key, value in found.items():
        if manifest[key] != value:
            raise bad_manifest(path, f"{key} is {manifest[key]}, but the shards hold {value}")
    if not token:
        arrays |= {name: allocate(name, 0, kind) for name, kind in TOKEN_COLUMNS.items()}
    return arrays
