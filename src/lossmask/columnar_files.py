"""Parquet files, Arrow files and saved data sets -> rows, batch by batch.

In: a Parquet file, an Arrow file or stream (Feather of version 2 is one), or a folder as
``datasets.Dataset.save_to_disk`` writes it. Out: a :class:`Record` per row, numbered from 1.
Memory does not grow with the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lossmask.arrow_rows import check_schema, rows_of_batch
from lossmask.errors import InputError
from lossmask.raw_rows import BEGINNING, Record, Start

_ROWS_AT_ONCE = 256
_BUFFER = 1 << 20
_NAME_OF_STATE, _NAME_OF_SPLITS = "state.json", "dataset_dict.json"


def check_parquet(path: Path) -> None:
    """Check that a Parquet file is whole.

    Raises:
        InputError: It is not.
    """
    with _errors_of(path, "Parquet"), _parquet(path) as file:
        check_schema(file.schema_arrow, str(path))


def read_parquet(path: Path, start: Start = BEGINNING) -> Iterator[Record]:
    """Yield the rows of a Parquet file, from a row group on.

    Raises:
        InputError: A part of it cannot be read.
    """
    size = path.stat().st_size
    with _errors_of(path, "Parquet"), _parquet(path) as file:
        check_schema(file.schema_arrow, str(path))
        total, done = max(file.metadata.num_rows, 1), start.number
        groups = range(start.position, file.metadata.num_row_groups)
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=groups):
            for row in rows_of_batch(batch):
                done += 1
                share = size * done // total - size * (done - 1) // total
                yield Record(done, row.data, share, row.problem)


def parquet_starts(path: Path) -> Iterator[tuple[Start, int]]:
    """Yield where each row group of a Parquet file begins, and its number of rows.

    Raises:
        InputError: It is not whole.
    """
    with _errors_of(path, "Parquet"), _parquet(path) as file:
        before = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            yield Start(group, before), rows
            before += rows


def check_arrow(path: Path) -> None:
    """Check that a file begins, and ends where it should, as Arrow.

    Raises:
        InputError: It does not.
    """
    with _errors_of(path, "Arrow"), pa.OSFile(str(path)) as source:
        check_schema(_arrow_reader(source).schema, str(path))


def read_arrow(path: Path) -> Iterator[Record]:
    """Yield the rows of an Arrow file or stream.

    Raises:
        InputError: A part of it cannot be read.
    """
    done, position = 0, 0
    with _errors_of(path, "Arrow"), pa.OSFile(str(path)) as source:
        for batch in _arrow_batches(source):
            taken, position = source.tell() - position, source.tell()
            for k, row in enumerate(rows_of_batch(batch)):
                done += 1
                share = taken * (k + 1) // batch.num_rows - taken * k // batch.num_rows
                yield Record(done, row.data, share, row.problem)


def is_saved(path: Path) -> bool:
    """Return whether a folder is what ``save_to_disk`` writes."""
    return (path / _NAME_OF_STATE).is_file() or (path / _NAME_OF_SPLITS).is_file()


def saved_files(path: Path) -> list[Path]:
    """Return the Arrow files of a data set that ``save_to_disk`` wrote, in order.

    Raises:
        InputError: The folder holds several splits, or is not whole.
    """
    if (path / _NAME_OF_SPLITS).is_file():
        splits = _json_of(path / _NAME_OF_SPLITS).get("splits") or []
        folders = ", ".join(str(path / str(split)) for split in splits)
        raise InputError(f"{path} holds several data sets, name one: {folders}", reason="no_split")
    state = _json_of(path / _NAME_OF_STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(
            f"{path} was saved by an old version of `datasets` with a list of rows beside the "
            "data; load it and save it anew",
            reason="broken_columns",
        )
    try:
        files = [path / entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path / _NAME_OF_STATE} does not list the data files", reason="broken_columns"
        ) from error
    for file in files:
        if not file.is_file():
            raise InputError(f"{path} is not whole: there is no {file}", reason="no_such_path")
    return files


def check_saved(path: Path) -> None:
    """Check that a saved data set is whole.

    Raises:
        InputError: It is not.
    """
    for file in saved_files(path):
        check_arrow(file)


def read_saved(path: Path) -> Iterator[Record]:
    """Yield the rows of a saved data set, numbered over all of its files.

    Raises:
        InputError: A part of it cannot be read.
    """
    before = 0
    for file in saved_files(path):
        number = 0
        for record in read_arrow(file):
            number = record.number
            yield Record(before + number, record.data, record.size, record.problem)
        before += number


def _parquet(path: Path) -> pq.ParquetFile:
    # buffered: or a whole column of a row group would be in memory at once
    return pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)


def _arrow_reader(source: Any) -> Any:
    if source.read(6) == b"ARROW1":
        return pa.ipc.open_file(source)
    source.seek(0)
    return pa.ipc.open_stream(source)


def _arrow_batches(source: Any) -> Iterator[pa.RecordBatch]:
    reader = _arrow_reader(source)
    if hasattr(reader, "num_record_batches"):
        for k in range(reader.num_record_batches):
            yield reader.get_batch(k)
    else:
        yield from reader


def _json_of(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}", reason="broken_json") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object", reason="broken_json")
    return found


@contextmanager
def _errors_of(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read as {kind}: {_first_line(error)}; it was cut off or is broken",
            reason="broken_columns",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
