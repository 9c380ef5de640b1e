"""Rows of data files by number, one near the other, of files of any size.

In: paths. Out: the row of a number. Nothing is read whole: JSON Lines are read as far as the row
asked for, of Parquet the footers; what can only be read from its beginning is. A few rows around
the last one are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from threading import Lock

from lossmask.data_files import RawRow, check_files, places_of_chunks, read_rows, total_bytes
from lossmask.errors import InputError
from lossmask.raw_rows import FIRST_ROW, Place

_SIZE = 64  # rows read at once, and kept


class RowPicker:
    """Gives rows by number.

    Args:
        paths: Data files, or data sets of the hub, whose rows are always read from the first on.

    Attributes:
        count: Number of rows, None until the end of the data was seen.

    Raises:
        InputError: A path is missing or no data.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        check_files(paths)
        self.paths = tuple(paths)
        self.count: int | None = None
        self._is_local = total_bytes(paths) is not None
        self._places = places_of_chunks(paths, _SIZE)
        self._known: list[Place] = []
        self._rows: dict[int, RawRow] = {}
        self._lock = Lock()

    def row(self, number: int) -> RawRow:
        """Return a row.

        Args:
            number: From 0, over all files.

        Raises:
            InputError: There are fewer rows.
        """
        with self._lock:
            if number not in self._rows and number >= 0:
                self._read(number - number % _SIZE)
            if number not in self._rows:
                known = "" if self.count is None else f"there are {self.count:,}, numbered from 0: "
                raise InputError(f"{known}there is no row {number:,}", reason="no_such_row")
            return self._rows[number]

    def _read(self, first: int) -> None:
        """Read the rows from one on, if there are any."""
        place = self._place_of(first)
        if place is None:
            return
        skipped = first - place.row
        # one more than are wanted tells whether these are the last
        rows = [*islice(read_rows(self.paths, place), skipped, skipped + _SIZE + 1)]
        self._rows = {raw.row: raw for raw in rows}
        if len(rows) <= _SIZE and (rows or first == 0):
            self.count = first + len(rows)

    def _place_of(self, first: int) -> Place | None:
        """Return from where to read to get to a row; None if it is behind the end."""
        if not self._is_local:
            return FIRST_ROW  # telling places would read all of it first
        while len(self._known) <= first // _SIZE:
            found = next(self._places, None)
            if found is None:
                if self._known and self.count is None:
                    self._read(self._known[-1].row)
                return None if self._known or first else FIRST_ROW
            self._known.append(found)
        return self._known[first // _SIZE]
