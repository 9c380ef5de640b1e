"""A row of data as it was read: its bytes, and its place.

In: what a reader found. Out: a :class:`RawRow`, cheap to hand to another process, which parses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from lossmask.errors import InputError

_decode = msgspec.json.Decoder().decode


class Record(NamedTuple):
    """What a reader of one file yields.

    Attributes:
        number: 1-based number of the line that it begins at, or of the record.
        data: JSON, as written or as made from the record.
        size: Bytes of the file that it takes up, None where that cannot be known.
        problem: Why it cannot be read, where its data does not tell; empty otherwise.
    """

    number: int
    data: bytes
    size: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading of a file can begin.

    Attributes:
        position: What lies before it: bytes of JSON Lines, row groups of Parquet, nothing of files
            that are only read from their beginning.
        number: Lines or records before it.
    """

    position: int = 0
    number: int = 0


BEGINNING = Start()


@dataclass(frozen=True, slots=True)
class Place:
    """A row of several files, and from where on they are read to get to it.

    Attributes:
        row: 0-based number of the row over all files.
        file: Index of the file that it is in.
        start: Where to begin in that file.
        start_row: The number, over all files, of the row there; ``row`` at most.
    """

    row: int = 0
    file: int = 0
    start: Start = BEGINNING
    start_row: int = 0


FIRST_ROW = Place()


class RawRow(NamedTuple):
    """One row of a file or data set.

    Attributes:
        file: The path as given.
        line: 1-based line number; of a record that is no line of a text file: its 1-based number.
        row: 0-based number over all files, blank lines not counted.
        data: The row as JSON; of JSON Lines the line's bytes, without the newline.
        is_record: Whether ``line`` is the number of a record.
        bytes_read: Bytes of the input that the row takes up, None where that is not known.
        problem: Why the row cannot be read, where ``data`` does not tell; empty otherwise.
    """

    file: str
    line: int
    row: int
    data: bytes
    is_record: bool = False
    bytes_read: int | None = None
    problem: str = ""

    @property
    def size(self) -> int:
        """Bytes of the input; those of ``data`` and a newline where that is not known."""
        return len(self.data) + 1 if self.bytes_read is None else self.bytes_read

    @property
    def place(self) -> str:
        """``file:line``, as editors and terminals understand it, or ``file#record``."""
        return f"{self.file}{'#' if self.is_record else ':'}{self.line}"

    def parse(self) -> Mapping[str, Any]:
        """Parse the row.

        Raises:
            InputError: It could not be read, is not UTF-8, not JSON, or not an object.
        """
        if self.problem:
            raise InputError(self.problem, reason="broken_row")
        try:
            value = parsed_json(self.data)
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


def parsed_json(data: bytes) -> Any:
    """Parse JSON in UTF-8 as ``json.loads`` does, in about half the time.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return json.loads(data.decode("utf-8"))  # half a character, NaN, 1e999; or says what it is


def json_bytes(value: object) -> bytes:
    """Write a value as JSON in UTF-8.

    Raises:
        TypeError: It holds something that is not JSON.
        ValueError: It holds itself.
        RecursionError: It is nested too deeply.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # half a character can only be written as an escape
        return json.dumps(value, separators=(",", ":")).encode("ascii")
