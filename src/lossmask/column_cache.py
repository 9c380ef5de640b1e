"""Decoded columns kept on disk and memory-mapped, for data sets larger than memory.

::

    CACHE/input_ids.npy     the tokens of all examples, end to end
    CACHE/labels.npy        … one file per column
    CACHE/starts.npy        where each example begins
    CACHE/rows.npy          the input row of each
    CACHE/record.json       of which folder, and which bytes of it

In: what to decode, and what its bytes are known by. Out: arrays that the operating system reads
from disk as they are used. A cache is written beside its place and moved there when it is whole, so
processes that start together do not see a half of it; the first to finish is the one that is used.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.errors import PreparedDataError

__all__ = ["Allocate", "cached_arrays", "mapped_arrays"]

_RECORD = "record.json"

Allocate = Callable[[str, int, type[np.generic]], npt.NDArray[Any]]
"""Makes the array of a column: name, number of values, type of a value."""
Arrays = dict[str, npt.NDArray[Any]]


def cached_arrays(cache: Path, identity: str, decode: Callable[[Allocate], Arrays]) -> Arrays:
    """Return the arrays of a cache, which is written if it is not there or of other bytes.

    Args:
        cache: Its folder.
        identity: What the decoded bytes are known by.
        decode: Decodes into arrays that it is given the means to make.

    Returns:
        Column name -> memory-mapped array, read-only.

    Raises:
        PreparedDataError: The folder holds something else.
        OSError: The cache cannot be written.
    """
    if _identity_of(cache) != identity:
        cache.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{cache.name}.", suffix=".tmp", dir=cache.parent))
        try:
            _write(scratch, identity, decode)
            _move(scratch, cache, identity)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return mapped_arrays(cache)


def mapped_arrays(cache: Path) -> Arrays:
    """Map the arrays of a cache that is there."""
    names = json.loads((cache / _RECORD).read_text(encoding="utf-8"))["columns"]
    # Plain arrays: slicing a ``np.memmap`` takes ten times as long.
    return {name: np.asarray(np.load(cache / f"{name}.npy", mmap_mode="r")) for name in names}


def _identity_of(cache: Path) -> str | None:
    """Return what a cache was written from; None: there is none."""
    try:
        record = json.loads((cache / _RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if cache.exists() and (not cache.is_dir() or any(cache.iterdir())):
            raise _not_ours(cache) from None
        return None
    except ValueError as error:
        raise _not_ours(cache) from error
    if not isinstance(record, Mapping) or record.keys() != {"identity", "columns"}:
        raise _not_ours(cache)
    return str(record["identity"])


def _not_ours(cache: Path) -> PreparedDataError:
    return PreparedDataError(
        f"{cache} is in use, and not as a cache of prepared data: choose a folder that is new or "
        "empty.",
        reason="cache_in_use",
    )


def _write(folder: Path, identity: str, decode: Callable[[Allocate], Arrays]) -> None:
    def allocate(name: str, size: int, kind: type[np.generic]) -> npt.NDArray[Any]:
        path = folder / f"{name}.npy"
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(kind), shape=(size,))

    arrays = decode(allocate)
    for values in arrays.values():
        if isinstance(values, np.memmap):
            values.flush()
    record = json.dumps({"identity": identity, "columns": list(arrays)})
    (folder / _RECORD).write_text(record, encoding="utf-8")


def _move(scratch: Path, cache: Path, identity: str) -> None:
    """Put a finished cache in its place, unless another process was first."""
    if _identity_of(cache) == identity:
        return
    if cache.exists():
        shutil.rmtree(cache, ignore_errors=True)
    try:
        scratch.replace(cache)
    except OSError:
        if _identity_of(cache) != identity:
            raise
