"""Outcomes of rows -> what is written of them: a Parquet shard, rejections, counts.

Runs where the rows are encoded, so that bytes travel from there rather than examples.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lossmask.data_files import RawRow
from lossmask.errors import LossmaskError
from lossmask.outcome import Lost, Outcome, Rejection
from lossmask.plain_tokens import FlatTokens

_TOKEN_COLUMNS = ("input_ids", "labels", "loss_weights", "message_index")
_ID_COLUMNS = ("input_ids", "labels")
_PAGE = 1 << 23  # bytes: a column of a shard is one page, for nobody reads a part of it
_COLUMNS = ("row", "length", *_TOKEN_COLUMNS)


@dataclass(slots=True)
class Counts:
    """What became of rows; of one chunk, or added up."""

    rows_in: int = 0
    rows_kept: int = 0
    rows_rejected: int = 0
    examples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    lost: Lost = field(default_factory=Lost)
    rejections: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        """Add the counts of another chunk."""
        for name in ("rows_in", "rows_kept", "rows_rejected", "examples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.tokens += other.tokens
        self.supervised_tokens += other.supervised_tokens
        self.lost += other.lost
        self.rejections.update(other.rejections)
        self.findings.update(other.findings)

    def to_mapping(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {
            "lost": asdict(self.lost),
            "rejections": dict(self.rejections),
            "findings": dict(self.findings),
        }

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Counts:
        """Read counts back from a manifest, which holds other things besides."""
        return cls.from_mapping({name: manifest[name] for name in cls.__dataclass_fields__})

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Counts:
        """Read counts back from a chunk's record."""
        plain = {k: v for k, v in values.items() if k not in ("lost", "rejections", "findings")}
        return cls(
            **plain,
            lost=Lost(**values["lost"]),
            rejections=Counter(values["rejections"]),
            findings=Counter(values["findings"]),
        )


@dataclass(slots=True)
class EncodedRows:
    """What became of the rows of one chunk, as it is written.

    Attributes:
        counts: Of these rows.
        rejected: The lines of ``rejected.jsonl``.
        columns: ``row`` and ``length`` of each kept example, and by name the values of their tokens
            in pieces, end to end; none once ``shard`` is made. ``ignorable`` is there if the policy
            names tokens to ignore.
        shard: The bytes of a Parquet file, None if no row is kept.
    """

    counts: Counts = field(default_factory=Counts)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})
    shard: bytes | None = None

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Take the outcome of the next row."""
        counts = self.counts
        counts.rows_in += 1
        counts.lost += outcome.lost
        if outcome.rejection is not None:
            counts.rows_rejected += 1
            counts.rejections[outcome.rejection.reason] += 1
            self.rejected.append(rejected_record(raw, outcome.rejection))
            return
        counts.rows_kept += 1
        for example in outcome.examples:
            counts.examples += 1
            counts.tokens += len(example)
            counts.supervised_tokens += example.supervised_count
            counts.findings.update(finding.kind for finding in example.findings)
            self.columns["row"].append(raw.row)
            self.columns["length"].append(len(example))
            for name in _TOKEN_COLUMNS:
                self.columns[name].append(getattr(example, name))
            if example.ignorable is not None:
                self.columns.setdefault("ignorable", []).append(example.ignorable)

    def add_flat(self, raws: Sequence[RawRow], tokens: FlatTokens, numbers: list[range]) -> None:
        """Take the next rows, which became examples of a batch and have no findings.

        Args:
            raws: Rows, one at least.
            tokens: The batch.
            numbers: Of each row its examples of the batch; those of all follow one another.
        """
        first, end = numbers[0].start, numbers[-1].stop
        starts = tokens.starts[first : end + 1]
        span = slice(*starts[[0, -1]].tolist())
        counts = self.counts
        counts.rows_in += len(raws)
        counts.rows_kept += len(raws)
        counts.examples += end - first
        counts.tokens += span.stop - span.start
        counts.supervised_tokens += sum(tokens.in_loss[first:end])
        self.columns["row"] += [
            raw.row for raw, own in zip(raws, numbers, strict=True) for _ in own
        ]
        self.columns["length"] += np.diff(starts).tolist()
        for name in _TOKEN_COLUMNS:
            self.columns[name].append(getattr(tokens, name)[span])

    def close(self) -> None:
        """Turn the kept examples into a Parquet file."""
        if self.columns["row"]:
            self.shard = parquet_bytes(examples_table(self.columns))
        self.columns = {}


def rejected_record(raw: RawRow, rejection: Rejection) -> dict[str, Any]:
    """Return the line of ``rejected.jsonl`` for a row: its place, the reason, the row itself."""
    try:
        original: Any = dict(raw.parse())
    except LossmaskError:
        original = raw.data.decode("utf-8", errors="backslashreplace")
    return {
        "file": raw.file,
        "line": raw.line,
        "row": raw.row,
        "reason": rejection.reason,
        "message_index": rejection.message_index,
        "detail": rejection.detail,
        "original": original,
    }


def json_line(record: Mapping[str, Any]) -> str:
    """Return an object as a line of JSON that can be written as UTF-8."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character can only be written as an escape
        text = json.dumps(record)
    return text + "\n"


def examples_table(columns: Mapping[str, list[Any]]) -> pa.Table:
    """Return kept examples as a table: ``row`` (int64), and a list per example in other columns.

    Args:
        columns: As :class:`EncodedRows` collects them, of one example at least.
    """
    borders = pa.array(np.cumsum([0, *columns["length"]], dtype=np.int32))
    table = {"row": pa.array(columns["row"], pa.int64())}
    for name in [*_TOKEN_COLUMNS, *(["ignorable"] if "ignorable" in columns else [])]:
        values = pa.array(np.concatenate(columns[name]))
        table[name] = pa.ListArray.from_arrays(borders, values)
    return pa.table(table)


def parquet_bytes(examples: pa.Table) -> bytes:
    """Return a table of examples as a shard is written.

    Compressed values, of ids all first bytes, then all second ones, …: a dictionary of token ids
    costs more time than it saves space, and no reader asks for statistics. Nothing is null, which
    saves readers looking.
    """
    written = io.BytesIO()
    pq.write_table(
        _without_nulls(examples),
        written,
        compression="zstd",
        use_dictionary=False,
        column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in _ID_COLUMNS},
        write_statistics=False,
        data_page_size=_PAGE,
    )
    return written.getvalue()


def _without_nulls(examples: pa.Table) -> pa.Table:
    """Return the same table with types that say that neither lists nor values are ever null."""
    fields, columns = list[pa.Field](), list[pa.Array]()
    for field_ in examples.schema:
        chunks, kind = examples.column(field_.name), field_.type
        column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
        assert not column.null_count  # of what this package made
        if pa.types.is_list(kind):
            assert not column.values.null_count
            kind = pa.list_(pa.field("element", kind.value_type, nullable=False))
            column = pa.ListArray.from_arrays(column.offsets, column.values, type=kind)
        fields.append(pa.field(field_.name, kind, nullable=False))
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields))
