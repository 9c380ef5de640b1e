"""A CSV file with a header row -> its rows; every value is a string.

In: a ``.csv`` file (commas) or ``.tsv`` file (tabs), quoted as spreadsheets and the ``csv`` module
do. Out: a :class:`Record` per row, numbered by the line it begins at. CSV has no types, so nothing
is read into a value, with one exception: in the columns ``messages``, ``conversations``, ``tools``,
``segments`` and ``history`` a cell that begins with ``[`` or ``{`` and is JSON stands for what it
says, and an empty cell for nothing at all. Weights in CSV are strings, too.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lossmask.errors import InputError
from lossmask.raw_rows import Record, json_bytes

JSON_COLUMNS = frozenset({"messages", "conversations", "tools", "segments", "history"})
_LONGEST_CELL = 2**31 - 1  # characters; the csv module's own limit is 131,072
_LONGEST_NAME = 100  # characters of a column


def check_csv(path: Path) -> None:
    """Check that the first row is a header.

    Raises:
        InputError: There is none, it names a column twice, or is separated by something else.
    """
    with path.open("rb") as stream:
        _Reader(stream, path)


def read_csv(path: Path) -> Iterator[Record]:
    """Yield the rows below the header; blank lines are not rows.

    Raises:
        InputError: The header or the quotes are not in order.
    """
    with path.open("rb") as stream:
        yield from _Reader(stream, path)


class _Reader:
    """Reads a file whose first row is a header."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        csv.field_size_limit(max(_LONGEST_CELL, csv.field_size_limit()))  # of the whole process
        self._path, self._stream, self._read = path, stream, 0
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self._rows = csv.reader(self._lines(), delimiter=self._delimiter, strict=True)
        self._header = self._next_row() or []
        self._check_header()

    def __iter__(self) -> Iterator[Record]:
        line, before = self._rows.line_num, self._read
        while (cells := self._next_row()) is not None:
            if cells:
                yield self._record(cells, line + 1, self._read - before)
                before = self._read
            line = self._rows.line_num

    def _lines(self) -> Iterator[str]:
        """Yield lines as text; bytes that are not UTF-8 become halves of characters."""
        for line in self._stream:
            text = line.decode("utf-8", errors="surrogateescape")
            text = text if self._read else text.removeprefix("\ufeff")
            self._read += len(line)
            yield text

    def _next_row(self) -> list[str] | None:
        try:
            return next(self._rows, None)
        except csv.Error as error:
            raise InputError(
                f"{self._path}:{self._rows.line_num} is not CSV: {error}", reason="broken_csv"
            ) from error

    def _check_header(self) -> None:
        problem = _problem_of_header(self._header, self._delimiter)
        if problem:
            raise InputError(
                f"{self._path}: {problem}; expected a first row with the names of the columns, "
                f"separated by {'tabs' if self._delimiter != ',' else 'commas'}",
                reason="no_header",
            )

    def _record(self, cells: Sequence[str], line: int, size: int) -> Record:
        if len(cells) != len(self._header):
            data = "\t".join(cells).encode("utf-8", errors="surrogateescape")
            problem = f"the row has {len(cells)} cells, the header has {len(self._header)}"
            return Record(line, data, size, problem)
        row = dict(zip(self._header, cells, strict=True))
        for name, cell in row.items():
            try:
                cell.encode("utf-8")
            except UnicodeEncodeError:
                data = json_bytes(row)
                return Record(line, data, size, f"not UTF-8: the cell of the column {name!r}")
        return Record(line, json_bytes(_with_json(row)), size)


def _problem_of_header(header: Sequence[str], delimiter: str) -> str:
    if not header:
        return "there is no header"
    names = sorted(name for name in set(header) if header.count(name) > 1)
    if names:
        return f"the header names {names[0]!r} more than once"
    for name in header:
        if len(name) > _LONGEST_NAME or "\n" in name or not isinstance(_json_in(name), str):
            return f"the first row holds {name[:40]!r}, which is no name of a column"
    others = [other for other in ";\t,|" if other != delimiter and other in header[0]]
    if len(header) == 1 and others:
        return f"the header is one column, {header[0][:80]!r}, as if separated by {others[0]!r}"
    return ""


def _with_json(row: dict[str, str]) -> dict[str, Any]:
    """Return a row with the cells of the columns that hold JSON read."""
    return {
        name: _json_in(cell) if name in JSON_COLUMNS else cell
        for name, cell in row.items()
        if cell.strip() or name not in JSON_COLUMNS
    }


def _json_in(cell: str) -> Any:
    """Return what a cell says if it is a JSON array or object, else the cell."""
    if not cell.lstrip().startswith(("[", "{")):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
