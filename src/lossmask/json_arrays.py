r"""A file that is one JSON array -> its elements, in constant memory.

In: a file like ``[{"messages": [...]}, ...]``, on one line or many. Out: a :class:`Record` per
element, its bytes as they stand in the file. Elements are told apart by their brackets and quotes
alone, so one that is not JSON is a row of its own, and those behind it are still found.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lossmask.errors import InputError
from lossmask.raw_rows import Record

_BLOCK = 1 << 20
_STRUCTURE = re.compile(rb'["\[\]{},]')
_WHITE = b" \t\r\n"
_OPENING, _CLOSING, _QUOTE, _COMMA = b"[{", b"]}", b'"', b","
_BACKSLASH = ord("\\")


def check_json_array(path: Path) -> None:
    """Check that an array is whole, as far as its end tells.

    Raises:
        InputError: The file does not end with ``]``.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 4096))
        end = stream.read().rstrip(_WHITE)
    if not end.endswith(b"]"):
        raise InputError(
            f"{path} begins with '[' but does not end with ']': a JSON array that was cut off, or "
            "JSON Lines whose first line is an array",
            reason="broken_json",
        )


def read_json_array(path: Path) -> Iterator[Record]:
    """Yield the elements of an array.

    Raises:
        InputError: The file ends inside the array, or goes on behind it.
    """
    with path.open("rb") as stream:
        yield from _elements(stream, path)


def _elements(stream: BinaryIO, path: Path) -> Iterator[Record]:
    scanner = _Scanner(stream)
    number, start, separator = 0, 0, b""
    while separator != b"]":
        begin = scanner.done
        element, separator = scanner.next_element()
        if not separator:
            raise InputError(
                f"{path} ends inside the JSON array, in element {number + 1}, which begins at byte "
                f"{begin}: it was cut off, or a quote or bracket is not closed",
                reason="broken_json",
            )
        if not element and separator == b"]" and not number:
            break
        number += 1
        yield Record(number, element, scanner.done - start)
        start = scanner.done
    if rest := scanner.rest():
        raise InputError(
            f"{path} goes on behind the end of the JSON array, at byte {scanner.done}: "
            f"{rest[:40]!r}; expected one array, or JSON Lines of objects",
            reason="broken_json",
        )


class _Scanner:
    """Reads a file whose first character that is not white space is ``[``."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = stream.read(_BLOCK)
        self._before = 0  # bytes of the file before the buffer
        self._start = len(BOM_UTF8) if self._buffer.startswith(BOM_UTF8) else 0
        self.rest()
        self._start += 1

    @property
    def done(self) -> int:
        """Bytes up to the end of the element found last, its separator included."""
        return self._before + self._start

    def next_element(self) -> tuple[bytes, bytes]:
        """Return the bytes up to the next comma or bracket of the array, and that.

        The separator is empty at the end of the file.
        """
        at, depth, in_string = self._start, 0, False
        while True:
            end = self._end_of_string(at) if in_string else self._next_of_structure(at)
            if end is None:
                at = len(self._buffer) - self._start  # which goes to the front of the buffer
                if not self._more():
                    return self._buffer, b""
                continue
            character, at = self._buffer[end : end + 1], end + 1
            if character == _QUOTE:
                in_string = not in_string
            elif character in _OPENING:
                depth += 1
            elif depth and character in _CLOSING:
                depth -= 1
            elif not depth and character in (_COMMA, b"]"):
                element = self._buffer[self._start : end].strip(_WHITE)
                self._start = at
                return element, character

    def _next_of_structure(self, at: int) -> int | None:
        found = _STRUCTURE.search(self._buffer, at)
        return None if found is None else found.start()

    def _end_of_string(self, at: int) -> int | None:
        """Return where the quote is that no backslash makes part of the string."""
        while (end := self._buffer.find(_QUOTE, at)) >= 0:
            before = end - 1
            while self._buffer[before] == _BACKSLASH:  # ends at the quote that opens the string
                before -= 1
            if (end - before) % 2:
                return end
            at = end + 1
        return None

    def rest(self) -> bytes:
        """Skip white space; return some of what follows."""
        while True:
            rest = self._buffer[self._start :].lstrip(_WHITE)
            self._start = len(self._buffer) - len(rest)
            if rest or not self._more():
                return rest

    def _more(self) -> bool:
        """Read at least as much again, so that a long element is not copied too often."""
        kept = self._buffer[self._start :]
        block = self._stream.read(max(_BLOCK, len(kept)))
        self._before += self._start
        self._buffer, self._start = kept + block, 0
        return bool(block)
