"""The shards of a prepared folder: Parquet in, checked examples end to end out.

A shard's file is read whole and decoded row group by row group. Every invariant of an example is
checked here, over the flat columns, for whoever reads a folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lossmask.errors import PreparedDataError
from lossmask.example import IGNORE_INDEX
from lossmask.flat_batch import IGNORABLE, IntArray
from lossmask.prepared_manifest import PreparedFolder

__all__ = ["TOKEN_COLUMNS", "ShardPart", "column_kinds", "read_parts"]

TOKEN_COLUMNS: Mapping[str, type[np.generic]] = {
    "input_ids": np.int32,
    "labels": np.int32,
    "loss_weights": np.float32,
    "message_index": np.int32,
}
"""The columns that hold one value per token, with the NumPy type of their values. One more,
``ignorable``, bool, is there where the policy names tokens to ignore."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardPart:
    """The examples of one Parquet row group, end to end.

    Example ``k`` is ``columns[name][starts[k]:starts[k + 1]]`` for every column::

        starts    0           3        5
        input_ids 7   8   2 | 9   2
        labels   -100 8   2 |-100 2
    """

    where: str
    """Path of the shard, for error messages."""
    first: int
    """Index of the part's first example inside its shard."""
    rows: IntArray
    """(examples,) int64: input row each example came from, 0-based."""
    starts: IntArray
    """(examples + 1,) int64: where each example begins in the flat columns."""
    columns: Mapping[str, npt.NDArray[Any]]
    """Column name -> (tokens,) array."""


def column_kinds(*, ignorable: bool) -> dict[str, type[np.generic]]:
    """Return the columns of a folder with the NumPy types of their values."""
    return {**TOKEN_COLUMNS, **({IGNORABLE: np.bool_} if ignorable else {})}


def example_name(where: str, index: int, row: int) -> str:
    """Name an example of a shard for an error message."""
    return f"{where}, example {index} (input row {row})"


def read_parts(folder: PreparedFolder, file: str, examples: int) -> Iterator[ShardPart]:
    """Read one shard.

    Args:
        folder: Where it lies.
        file: Its name.
        examples: How many the manifest says that it holds.

    Yields:
        Its row groups, those without examples left out.

    Raises:
        PreparedDataError: The shard is missing or damaged, or an example breaks an invariant.
    """
    where = folder.named(file)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(folder.read(file)))
    except FileNotFoundError as error:
        raise _bad_shard(where, "the manifest lists this shard, but it is not there") from error
    except (pa.ArrowException, OSError) as error:
        raise _bad_shard(where, f"this shard cannot be read ({error})") from error
    with parquet:
        names = parquet.schema_arrow.names
        for name in ("row", *TOKEN_COLUMNS):
            if name not in names:
                raise _bad_shard(where, f"column {name!r} is missing")
        found = parquet.metadata.num_rows
        if found != examples:
            raise _bad_shard(where, f"it holds {found} examples, the manifest says {examples}")
        kinds = column_kinds(ignorable=IGNORABLE in names)
        first = 0
        for group in range(parquet.num_row_groups):
            part = _part(where, first, _decoded(parquet, group, where, ["row", *kinds]), kinds)
            if len(part.rows):
                _check_examples(part)
                yield part
            first += len(part.rows)


def _decoded(parquet: pq.ParquetFile, group: int, where: str, columns: list[str]) -> pa.Table:
    try:
        return parquet.read_row_group(group, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _bad_shard(where, f"this shard cannot be read ({error})") from error


def _part(
    where: str, first: int, table: pa.Table, kinds: Mapping[str, type[np.generic]]
) -> ShardPart:
    columns: dict[str, npt.NDArray[Any]] = {}
    starts: IntArray | None = None
    for name, kind in kinds.items():
        values, own = _flat(where, name, table.column(name).combine_chunks(), np.dtype(kind))
        columns[name] = values
        starts = own if starts is None else starts
        differing = np.flatnonzero(own != starts)
        if len(differing):
            index = first + int(differing[0]) - 1
            raise _bad_shard(where, f"example {index}: {name} and input_ids differ in length")
    rows = table.column("row").combine_chunks()
    if rows.type != pa.int64() or rows.null_count:
        raise _bad_shard(where, f"column 'row' is {rows.type}, not int64 without nulls")
    assert starts is not None  # TOKEN_COLUMNS is not empty
    return ShardPart(where, first, rows.to_numpy(), starts, columns)


def _flat(
    where: str, name: str, column: pa.Array, kind: np.dtype[Any]
) -> tuple[npt.NDArray[Any], IntArray]:
    """Return the values of a list column end to end, and (examples + 1,) int64 starts."""
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list or column.type.value_type != pa.from_numpy_dtype(kind):
        raise _bad_shard(where, f"column {name!r} is {column.type}, not a list of {kind}")
    values = column.flatten()
    if column.null_count or values.null_count:
        raise _bad_shard(where, f"column {name!r} holds nulls")
    starts = column.offsets.to_numpy().astype(np.int64)
    return values.to_numpy(zero_copy_only=False), starts - starts[0]


def _bad_shard(where: str, what: str) -> PreparedDataError:
    return PreparedDataError(
        f"{where}: {what}. Delete the folder and run `lossmask prepare` again.", reason="bad_shard"
    )


def _check_examples(part: ShardPart) -> None:
    """Check the invariants of every example of a part over its flat columns.

    Raises:
        PreparedDataError: Names the first example, token and value that break one.
    """
    ids, labels, weights = (part.columns[name] for name in ("input_ids", "labels", "loss_weights"))
    in_loss = labels != IGNORE_INDEX
    _demand(part, ids >= 0, "input_ids", "a token id is not negative")
    _demand(part, ~in_loss | (labels == ids), "labels", "a label is -100 or the token itself")
    _demand(
        part,
        np.isfinite(weights) & ((weights != 0) == in_loss),
        "loss_weights",
        "a weight is finite, and 0 out of the loss only",
    )
    predicted = np.concatenate([[0], np.cumsum(in_loss, dtype=np.int64)])
    # Position 0 has nothing before it that could predict it.
    first_predicted = np.minimum(part.starts[:-1] + 1, part.starts[1:])
    silent = np.flatnonzero(predicted[part.starts[1:]] == predicted[first_predicted])
    if len(silent):
        raise PreparedDataError(
            f"{_name(part, int(silent[0]))} has no token in the loss that could be predicted. "
            "Prepare the data again; such a row belongs in rejected.jsonl.",
            reason="no_supervised_token",
        )


def _demand(part: ShardPart, holds: npt.NDArray[np.bool_], name: str, rule: str) -> None:
    broken = np.flatnonzero(~holds)
    if not len(broken):
        return
    position = int(broken[0])
    index = int(np.searchsorted(part.starts, position, side="right")) - 1
    token = position - int(part.starts[index])
    raise PreparedDataError(
        f"{_name(part, index)}, token {token}: {name} is {part.columns[name][position]} and "
        f"input_ids {part.columns['input_ids'][position]}, but {rule}. Prepare the data again.",
        reason="broken_example",
    )


def _name(part: ShardPart, index: int) -> str:
    return example_name(part.where, part.first + index, int(part.rows[index]))
