r"""Files -> rows, each with its place: JSON Lines, cut at ``\\n`` only.

In: paths. Out: :class:`RawRow` s. Nothing is dropped here: a line that is not JSON is a row too,
and ends as a rejection that holds its text.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lossmask.errors import InputError


@dataclass(frozen=True, slots=True)
class RawRow:
    """One line of a file.

    Attributes:
        file: The path as given.
        line: 1-based line number.
        row: 0-based number over all files, blank lines not counted.
        data: The line's bytes, without the newline.
    """

    file: str
    line: int
    row: int
    data: bytes

    @property
    def place(self) -> str:
        """``file:line``, as editors and terminals understand it."""
        return f"{self.file}:{self.line}"

    def parse(self) -> Mapping[str, Any]:
        """Parse the line.

        Raises:
            InputError: It is not UTF-8, not JSON, or not an object.
        """
        try:
            value = json.loads(self.data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"not UTF-8: {error}", reason="broken_json") from error
        except RecursionError as error:
            raise InputError("JSON nested too deeply", reason="broken_json") from error
        except ValueError as error:
            raise InputError(f"not JSON: {error}", reason="broken_json") from error
        if not isinstance(value, dict):
            raise InputError(
                f"expected an object with the key 'messages', got {type(value).__name__}",
                reason="broken_json",
            )
        return value


def check_files(paths: Sequence[Path]) -> None:
    """Check that every path is a readable JSON Lines file.

    Raises:
        InputError: Names the first that is not, and what to do.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"no such file: {path}", reason="no_such_path")
        if path.is_dir():
            raise InputError(
                f"{path} is a folder; name the JSON Lines files in it", reason="no_such_path"
            )
        try:
            with path.open("rb") as stream:
                beginning = stream.read(64).lstrip()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error}", reason="no_such_path") from error
        if beginning.startswith(b"["):
            raise InputError(
                f"{path} is a JSON array; expected JSON Lines, one object per line "
                f"(convert it with: jq -c '.[]' {path.name})"
            )


def read_rows(paths: Sequence[Path]) -> Iterator[RawRow]:
    """Yield the rows of all files in order; blank lines are not rows."""
    row = 0
    for path in paths:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                data = line.rstrip(b"\r\n")
                if number == 1:
                    data = data.removeprefix(BOM_UTF8)
                if data.strip():
                    yield RawRow(str(path), number, row, data)
                    row += 1


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
