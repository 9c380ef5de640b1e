"""The batch function: a table of raw rows -> a table of examples and rejections.

In: :data:`RAW_ROWS`, as :func:`table_of_rows` makes it of what ``read_rows`` yields. Out::

    row  input_ids     labels          loss_weights  message_index  rejection       counts
    0    [5, 9, 7]     [-100, 9, 7]    [0, 1, 1]     [-1, 1, 1]     null            null
    2    [5, 8]        …                                            null            null
    1    null          null            null          null           {"file": "…     null
    null null          null            null          null           null            {"rows_in": 3…

first the examples, then the rejected rows, then a row of what adds up. So nothing is lost on the
way through other tools: rows in = kept + rejected can be checked at the end of it.
``ignorable`` (a list of bool) is there if the policy names tokens to ignore.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lossmask.confinement import Limits
from lossmask.encoded_rows import Counts, EncodedRows, examples_table, json_line
from lossmask.encoder import Encoder
from lossmask.errors import InputError
from lossmask.outcome import Outcome
from lossmask.plain_tokens import FlatTokens
from lossmask.raw_rows import RawRow
from lossmask.workers import Chunk, Workers

__all__ = ["RAW_ROWS", "EncodedTable", "TableEncoder", "rows_of_table", "table_of_rows"]

RAW_ROWS = pa.schema(
    {
        "file": pa.string(),
        "line": pa.int64(),
        "row": pa.int64(),
        "data": pa.large_binary(),
        "is_record": pa.bool_(),
        "size": pa.int64(),
        "problem": pa.string(),
    }
)
"""The columns of raw rows; :class:`RawRow` says what they hold."""

_ENCODED = pa.schema(
    {
        "row": pa.int64(),
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "loss_weights": pa.list_(pa.float32()),
        "message_index": pa.list_(pa.int32()),
        "rejection": pa.string(),
        "counts": pa.string(),
    }
)


def table_of_rows(rows: Sequence[RawRow]) -> pa.Table:
    """Return raw rows as a table.

    Example:
        >>> table_of_rows([RawRow("a.jsonl", 1, 0, b"{}")]).column("size").to_pylist()
        [3]
    """
    columns = {name: [getattr(raw, name) for raw in rows] for name in RAW_ROWS.names}
    return pa.table(columns, schema=RAW_ROWS)


def rows_of_table(table: pa.Table) -> list[RawRow]:
    """Return the raw rows of a table.

    Raises:
        InputError: Its columns are not those of raw rows.
    """
    if set(table.column_names) != set(RAW_ROWS.names):
        raise InputError(
            f"expected a table with the columns {', '.join(RAW_ROWS.names)}, got "
            f"{', '.join(table.column_names) or 'none'}: make it with table_of_rows",
            reason="broken_columns",
        )
    columns = [table.column(name).to_pylist() for name in RAW_ROWS.names]
    return [RawRow(*values) for values in zip(*columns, strict=True)]


class TableEncoder:
    """Encodes tables of raw rows, in a process of its own that a hostile row may end.

    Args:
        load: Makes the encoder, as ``EncoderSource.load`` does; picklable.
        limits: What one row may cost; a row that needs more is rejected.
    """

    def __init__(self, load: Callable[[], Encoder], limits: Limits) -> None:
        self._workers = Workers(load, limits)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Encode the rows of a table.

        Args:
            table: With the columns :data:`RAW_ROWS`.

        Returns:
            Examples, rejections and counts, as the module says; :class:`EncodedTable` reads them.

        Raises:
            InputError: The columns are others.
            LossmaskError: The encoder cannot be loaded, or its process ends outside of any row.
        """
        [chunk] = self._workers.encode([Chunk(0, rows_of_table(table), _Tabled())])
        results = chunk.results
        rejected = results.rows.rejected
        besides = {
            "row": [*(each["row"] for each in rejected), None],
            "rejection": [*map(json_line, rejected), None],
            "counts": [*(None for _ in rejected), json.dumps(results.rows.counts.to_mapping())],
        }
        schema = pa.schema([_ENCODED.field(name) for name in besides])
        parts = [_ENCODED.empty_table(), results.examples, pa.table(besides, schema=schema)]
        return pa.concat_tables(
            [part for part in parts if part is not None], promote_options="default"
        )

    def close(self) -> None:
        """End the process."""
        self._workers.__exit__()


@dataclass(frozen=True, slots=True)
class EncodedTable:
    """What a table, or several put together, that :class:`TableEncoder` gave holds.

    Attributes:
        examples: The columns of a prepared shard, None if there is no example.
        rejected: The lines of ``rejected.jsonl``, by row.
        counts: Added up.
    """

    examples: pa.Table | None
    rejected: list[dict[str, Any]]
    counts: Counts

    @classmethod
    def of(cls, table: pa.Table) -> EncodedTable:
        """Take a table apart."""
        counts = Counts()
        for text in table.column("counts").drop_null().to_pylist():
            counts.add(Counts.from_mapping(json.loads(text)))
        lines = table.column("rejection").drop_null().to_pylist()
        kept = table.filter(pc.is_valid(table.column("input_ids")))
        examples = kept.drop_columns(["rejection", "counts"]) if kept.num_rows else None
        rejected = sorted((json.loads(line) for line in lines), key=lambda each: each["row"])
        return cls(examples, rejected, counts)


@dataclass(slots=True)
class _Tabled:
    """Collects what became of the rows, and ends as a table rather than as a file."""

    rows: EncodedRows = field(default_factory=EncodedRows)
    examples: pa.Table | None = None

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Take the outcome of the next row."""
        self.rows.add(raw, outcome)

    def add_flat(self, raws: Sequence[RawRow], tokens: FlatTokens, numbers: list[range]) -> None:
        """Take the next rows, which became examples of a batch and have no findings."""
        self.rows.add_flat(raws, tokens, numbers)

    def close(self) -> None:
        """Make the table."""
        if self.rows.columns["row"]:
            self.examples = examples_table(self.rows.columns)
        self.rows.columns = {}
