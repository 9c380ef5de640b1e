"""How examples lie in a shard."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lossmask.encoded_rows import examples_table, parquet_bytes

KINDS: dict[str, Any] = {
    "input_ids": np.int32,
    "labels": np.int32,
    "loss_weights": np.float32,
    "message_index": np.int32,
    "ignorable": np.bool_,
}


def examples(*lengths: int) -> pa.Table:
    """Return examples of given lengths, each value another one."""
    columns: dict[str, list[Any]] = {"row": list(range(len(lengths))), "length": list(lengths)}
    for name, kind in KINDS.items():
        columns[name] = [np.arange(length).astype(kind) for length in lengths]
    return examples_table(columns)


@pytest.mark.parametrize("table", [examples(3, 0, 2), examples(3, 0, 2).slice(1)])
def test_a_shard_holds_the_examples_plainly_and_says_that_nothing_is_null(table: pa.Table) -> None:
    file = pq.ParquetFile(io.BytesIO(parquet_bytes(table)))
    assert file.read().to_pylist() == table.to_pylist()
    assert file.schema_arrow.field("row") == pa.field("row", pa.int64(), nullable=False)
    for name, kind in KINDS.items():
        element = pa.field("element", pa.from_numpy_dtype(kind), nullable=False)
        assert file.schema_arrow.field(name) == pa.field(name, pa.list_(element), nullable=False)
    group = file.metadata.row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        is_id = column.path_in_schema.startswith(("input_ids", "labels"))
        values = "BYTE_STREAM_SPLIT" if is_id else "PLAIN"
        assert set(column.encodings) == {values, "RLE"}  # RLE: where lists begin
        assert column.compression == "ZSTD"
        assert not column.is_stats_set


def test_a_shard_does_not_depend_on_how_its_table_was_put_together() -> None:
    whole = examples(3, 1, 2)
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 0), whole.slice(1)])
    assert parquet_bytes(parts) == parquet_bytes(whole)
