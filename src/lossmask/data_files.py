r"""Files -> rows, each with its place.

In: paths. Out: :class:`RawRow` s. What a file is, its first bytes tell, and its name only where
they cannot:

* JSON Lines, cut at ``\\n`` only: one object per line;
* a JSON array of objects (``json_arrays``), CSV and TSV with a header row (``csv_files``);
* Parquet, Arrow, folders of ``save_to_disk`` (``columnar_files``);
* ``org/name:config/split``: a data set of the Hugging Face hub (``hub_data``).

Nothing is dropped here: what is no object is a row too, and ends as a rejection that holds its
text.
"""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from lossmask.columnar_files import (
    check_arrow,
    check_parquet,
    check_saved,
    is_saved,
    parquet_starts,
    read_arrow,
    read_parquet,
    read_saved,
    saved_files,
)
from lossmask.csv_files import check_csv, read_csv
from lossmask.dataset_rows import rows_of
from lossmask.errors import InputError
from lossmask.hub_data import HubId, check_hub, hub_fingerprint, read_hub, read_hub_id
from lossmask.json_arrays import check_json_array, read_json_array
from lossmask.raw_rows import BEGINNING, FIRST_ROW, Place, RawRow, Record, Start

__all__ = [
    "RawRow",
    "check_files",
    "fingerprint_of",
    "in_chunks",
    "places_of_chunks",
    "read_row",
    "read_rows",
    "rows_of",
    "total_bytes",
]

_LINES = (".jsonl", ".ndjson", ".json")
_TABLES = (".csv", ".tsv")
_COLUMNS = (".parquet", ".arrow", ".feather")
_WHITE = b" \t\r\n"
_LONGEST_FIRST_LINE = 1 << 24
_NOT_DATA = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the data: run `git lfs pull`",
    b"\x1f\x8b": "is compressed: unpack it with `gunzip`",
    b"\x28\xb5\x2f\xfd": "is compressed: unpack it with `unzstd`",
    b"\xfd7zXZ": "is compressed: unpack it with `unxz`",
    b"BZh": "is compressed: unpack it with `bunzip2`",
    b"PK\x03\x04": "is a ZIP archive (or a spreadsheet): unpack it, or save it as CSV",
    BOM_UTF16_LE: "is UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`",
    BOM_UTF16_BE: "is UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`",
    b"FEA1": "is Feather of version 1: write it anew with version 2",
}
_KINDS = "JSON Lines, a JSON array, CSV, TSV, Parquet or Arrow"


@dataclass(frozen=True, slots=True)
class _Reader:
    """How a kind of file is checked and read; whether its lines have numbers.

    Attributes:
        check: Raises an ``InputError`` where a file is not whole.
        read: Yields all of its rows.
        has_lines: Whether rows are lines of text.
        starts: Yields each place that ``read_from`` can begin at, and the number of rows from there
            to the next; None if reading can only begin at the beginning.
        read_from: Yields the rows from such a place on.
    """

    check: Callable[[Path], None]
    read: Callable[[Path], Iterator[Record]]
    has_lines: bool = False
    starts: Callable[[Path], Iterator[tuple[Start, int]]] | None = None
    read_from: Callable[[Path, Start], Iterator[Record]] | None = None


def check_files(paths: Sequence[Path]) -> None:
    """Check that every path is data that can be read, as far as its beginning and end tell.

    Raises:
        InputError: Names the first that is not, and what to do.
    """
    for path in paths:
        if hub_id := _hub_id(path):
            check_hub(hub_id)
        else:
            _reader_of(path).check(path)


def read_rows(paths: Sequence[Path], place: Place = FIRST_ROW) -> Iterator[RawRow]:
    """Yield the rows of all files in order; blank lines are not rows.

    Args:
        paths: The files.
        place: The first row to yield.

    Raises:
        InputError: A file is not what it begins as; rows before that place were yielded.
    """
    row = place.start_row
    for file, path in enumerate(paths[place.file :], start=place.file):
        start = place.start if file == place.file else BEGINNING
        name, is_record = str(path), not _has_lines(path)
        for found in _read(path, start):
            if row >= place.row:
                number, data, size, problem = found
                yield RawRow(name, number, row, data, is_record, size, problem)
            row += 1


def places_of_chunks(paths: Sequence[Path], size: int) -> Iterator[Place]:
    """Yield the places of the rows 0, ``size``, ``2 * size``, ….

    Reads the files once, of Parquet only the footers.

    Raises:
        InputError: A file is not what it begins as.
    """
    row, wanted = 0, 0
    for file, path in enumerate(paths):
        for start, count in _starts(path):
            for chunk in range(wanted, row + count, size):
                yield Place(chunk, file, start, row)
                wanted = chunk + size
            row += count


def total_bytes(paths: Sequence[Path]) -> int | None:
    """Return the bytes of all files, which the sizes of their rows come to; None if unknown.

    Of JSON Lines the rows come to what blank lines leave, of other files to what headers and
    footers leave.

    Raises:
        InputError: A path is missing or no data.
    """
    if any(_hub_id(path) for path in paths):
        return None
    return sum(file.stat().st_size for path in paths for file in _files_of(path))


def fingerprint_of(path: Path) -> str:
    """Return a hash of the data: the bytes of its files, or the commit of a data set of the hub.

    Raises:
        InputError: A path is missing or no data.
    """
    if hub_id := _hub_id(path):
        return hub_fingerprint(hub_id)
    hashes = [_sha256_of_file(file) for file in _files_of(path)]
    return hashes[0] if path.is_file() else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def read_row(path: Path, row: int) -> RawRow:
    """Return row ``row`` (0-based) of a file.

    Raises:
        InputError: There are fewer rows.
    """
    count = 0
    for raw in read_rows([path]):
        if raw.row == row:
            return raw
        count += 1
    raise InputError(f"{path} has {count} rows, numbered from 0: there is no row {row}")


def in_chunks(rows: Iterator[RawRow], size: int) -> Iterator[list[RawRow]]:
    """Yield lists of ``size`` rows, the last one shorter."""
    while chunk := list(islice(rows, size)):
        yield chunk


def _hub_id(path: Path) -> HubId | None:
    """Return the data set of the hub that a path names, if it is no path.

    ``folder/name`` of a folder that is here, or with the ending of a data file, is a missing file.
    """
    if path.exists():
        return None
    hub_id = read_hub_id(path.as_posix())
    if hub_id is None or hub_id.split is not None or hub_id.revision is not None:
        return hub_id
    is_file = path.suffix.lower() in (*_LINES, *_TABLES, *_COLUMNS) or path.parent.exists()
    return None if is_file else hub_id


def _has_lines(path: Path) -> bool:
    return _hub_id(path) is None and _reader_of(path).has_lines


def _read(path: Path, start: Start) -> Iterator[Record]:
    if hub_id := _hub_id(path):
        return read_hub(hub_id)
    reader = _reader_of(path)
    return reader.read_from(path, start) if reader.read_from else reader.read(path)


def _starts(path: Path) -> Iterator[tuple[Start, int]]:
    """Return the places in a file that `_read` can begin at, with the rows to the next."""
    starts = None if _hub_id(path) else _reader_of(path).starts
    return starts(path) if starts else iter([(BEGINNING, sum(1 for _ in _read(path, BEGINNING)))])


def _files_of(path: Path) -> list[Path]:
    _reader_of(path)
    return saved_files(path) if path.is_dir() else [path]


def _reader_of(path: Path) -> _Reader:
    """Tell what a path holds.

    Raises:
        InputError: It does not exist, or is none of the kinds.
    """
    if not path.exists():
        raise InputError(f"no such file: {path}", reason="no_such_path")
    if path.is_dir():
        if is_saved(path):
            return _Reader(check_saved, read_saved)
        raise InputError(
            f"{path} is a folder; name the files in it (of folders only those that "
            "`Dataset.save_to_disk` wrote are read)",
            reason="no_such_path",
        )
    try:
        with path.open("rb") as stream:
            return _reader_of_file(path, stream)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}", reason="no_such_path") from error


def _reader_of_file(path: Path, stream: BinaryIO) -> _Reader:
    beginning = stream.read(64)
    suffix = path.suffix.lower()
    for magic, problem in _NOT_DATA.items():
        if beginning.startswith(magic):
            raise InputError(f"{path} {problem}", reason="unknown_format")
    if beginning.startswith(b"PAR1"):
        return _Reader(check_parquet, read_parquet, starts=parquet_starts, read_from=read_parquet)
    if beginning.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return _Reader(check_arrow, read_arrow)
    if suffix in _COLUMNS:
        raise InputError(
            f"{path} is neither Parquet nor Arrow: it begins with {beginning[:16]!r}; it is "
            "something else, or was cut off",
            reason="unknown_format",
        )
    stream.seek(0)
    first = _first_line(stream)
    if first.startswith(b"["):
        return _Reader(check_json_array, read_json_array)
    if suffix in _TABLES and not _is_object(first):
        return _Reader(check_csv, read_csv, has_lines=True)
    if suffix == ".json" and not _is_object(first) and first:
        raise InputError(
            f"{path} is neither a JSON array nor JSON Lines (one object per line): its first line "
            f"is {first[:60]!r}; if it is one object, write the list in it with: "
            f"jq -c '.KEY[]' {path.name}",
            reason="unknown_format",
        )
    if suffix not in _LINES and first and not first.startswith(b"{"):
        raise InputError(
            f"cannot tell what {path} is: it begins with {first[:40]!r}; expected {_KINDS}, the "
            "names of CSV and TSV files ending in .csv and .tsv",
            reason="unknown_format",
        )
    return _Reader(_check_nothing, _read_lines, True, _line_starts, _read_lines)


def _first_line(stream: BinaryIO) -> bytes:
    """Return the first line that is not blank, without white space around it."""
    is_first = True
    while line := stream.readline(_LONGEST_FIRST_LINE):
        line = line.removeprefix(BOM_UTF8) if is_first else line
        is_first = False
        if line.strip(_WHITE):
            return line.strip(_WHITE)
    return b""


def _is_object(line: bytes) -> bool:
    """Return whether a line is a JSON object, or too long to tell and begins as one."""
    if not line.startswith(b"{"):
        return False
    try:
        json.loads(line)
    except RecursionError:
        return True
    except ValueError:
        return len(line) >= _LONGEST_FIRST_LINE - 1
    return True


def _check_nothing(path: Path) -> None:
    """Find nothing wrong: each line of JSON Lines stands or falls by itself."""


def _read_lines(path: Path, start: Start = BEGINNING) -> Iterator[Record]:
    for _, number, data, size in _lines(path, start):
        yield Record(number + 1, data, size)


def _line_starts(path: Path) -> Iterator[tuple[Start, int]]:
    for position, number, _, _ in _lines(path, BEGINNING):
        yield Start(position, number), 1


def _lines(path: Path, start: Start) -> Iterator[tuple[int, int, bytes, int]]:
    """Yield of each line that is not blank where it begins, number, content, size in bytes."""
    position = start.position
    with path.open("rb") as stream:
        stream.seek(position)
        for number, line in enumerate(stream, start=start.number):
            data = line.rstrip(b"\r\n")
            if number == 0:
                data = data.removeprefix(BOM_UTF8)
            if data.strip():
                yield position, number, data, len(line)
            position += len(line)


def _sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
