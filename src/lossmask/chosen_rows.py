"""Numbers of rows as one types them, ``3,7-9``, ``100-`` -> those rows of a file, in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossmask.data_files import RawRow, read_rows
from lossmask.errors import InputError, PolicyError

_RANGE = re.compile(r"\s*(\d+)\s*(?:(-)\s*(\d+)?\s*)?")


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """Which rows to take, numbered from 0.

    Attributes:
        ranges: Half-open; the end of one that goes on to the last row is None.
    """

    ranges: tuple[tuple[int, int | None], ...]

    @classmethod
    def parse(cls, numbers: Iterable[int] = (), listed: str | None = None) -> ChosenRows:
        """Read single numbers and a list of numbers and ranges.

        Raises:
            PolicyError: The list is none, or a range ends before it begins.

        Example:
            >>> ChosenRows.parse([1], "3,7-9,100-").ranges
            ((1, 2), (3, 4), (7, 10), (100, None))
        """
        ranges: list[tuple[int, int | None]] = [(number, number + 1) for number in numbers]
        for text in [] if listed is None else listed.split(","):
            found = _RANGE.fullmatch(text)
            if found is None:
                raise PolicyError(
                    f"--rows {listed!r}: {text.strip()!r} is no row; give numbers from 0 and "
                    "ranges, as 3,7-9 or 100-"
                )
            first, is_range = int(found[1]), found[2] is not None
            last = int(found[3]) if found[3] else (None if is_range else first)
            if last is not None and last < first:
                raise PolicyError(f"--rows {listed!r}: {text.strip()} ends before it begins")
            ranges.append((first, None if last is None else last + 1))
        return cls(tuple(ranges))

    def __contains__(self, row: int) -> bool:
        return any(first <= row and (end is None or row < end) for first, end in self.ranges)

    @property
    def end(self) -> int | None:
        """Behind the last row, None if the last one of all is among them."""
        ends = [end for _, end in self.ranges]
        return None if None in ends else max((end for end in ends if end is not None), default=0)

    def require(self, count: int, name: str, what: str = "row") -> None:
        """Make sure that each range begins at something that is there, and ends there.

        Raises:
            InputError: There are fewer.
        """
        for first, end in self.ranges:
            last = first if end is None else end - 1
            if last >= count:
                raise InputError(
                    f"{name} has {count} {what}s, numbered from 0: there is no {what} {last}",
                    reason="no_such_row",
                )

    def of(self, paths: Sequence[Path]) -> Iterator[RawRow]:
        """Yield these rows of files, as they stand there.

        Raises:
            InputError: There are fewer rows; those that are there have been yielded.
        """
        count, end = 0, self.end
        for raw in read_rows(paths):
            if end is not None and raw.row >= end:
                return
            count += 1
            if raw.row in self:
                yield raw
        self.require(count, str(paths[0]))
