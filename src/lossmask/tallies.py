"""How often something was found in rows of data, and where first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lossmask.data_files import RawRow
from lossmask.severities import SEVERITIES, Advice

SHOWN = 3
"""Examples kept of each kind of finding and each reason."""


@dataclass(frozen=True, slots=True)
class Instance:
    """Where something was found.

    Attributes:
        file: The file; empty where it is about all of the data.
        line: 1-based line; a record's number is negative.
        message: Index of the message, or None.
        detail: One sentence for a person.
    """

    file: str
    line: int
    message: int | None
    detail: str

    @property
    def place(self) -> str:
        """``file:line, message 3``, ``file#record`` where it is no line; empty: all of the data."""
        if not self.file:
            return ""
        where = f"{self.file}{'#' if self.line < 0 else ':'}{abs(self.line)}"
        return where if self.message is None else f"{where}, message {self.message}"

    def __str__(self) -> str:
        return f"{self.place}: {self.detail}" if self.file else self.detail

    def to_mapping(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "place": self.place or None,
            "file": self.file or None,
            "line": abs(self.line) or None,
            "message": self.message,
            "detail": self.detail,
        }


@dataclass(slots=True)
class Tally:
    """How often something was found, and where first.

    Attributes:
        count: How often, several times in one row included.
        rows: In how many rows; None where that is not known.
        instances: The first few.
    """

    count: int = 0
    rows: int | None = 0
    instances: list[Instance] = field(default_factory=list)

    def merge(self, other: Tally) -> None:
        """Add the tally of later rows."""
        self.count += other.count
        is_known = self.rows is not None and other.rows is not None
        self.rows = (self.rows or 0) + (other.rows or 0) if is_known else None
        self.instances = (self.instances + other.instances)[:SHOWN]

    def add(self, raw: RawRow, details: Sequence[tuple[int | None, str]]) -> None:
        """Count what one row holds: message index and detail of each."""
        self.count += len(details)
        self.rows = (self.rows or 0) + 1
        index, detail = details[0]
        if len(self.instances) < SHOWN:
            message = None if index is None or index < 0 else index
            self.instances.append(Instance(raw.file, line_of(raw), message, detail))

    def to_mapping(self, advice: Advice, rows_in: int) -> dict[str, Any]:
        """Return it as plain data, with what to know about it."""
        return {
            "severity": advice.severity,
            "count": self.count,
            "rows": self.rows,
            "share": None if self.rows is None else self.rows / max(rows_in, 1),
            "meaning": advice.meaning,
            "effect": advice.effect,
            "fix": advice.fix,
            "examples": [each.to_mapping() for each in self.instances],
        }


def line_of(raw: RawRow) -> int:
    """Return the line of a row, negative if it is the number of a record."""
    return -raw.line if raw.is_record else raw.line


def worst_first(
    tallies: Mapping[str, Tally], advice: Mapping[str, Advice]
) -> list[tuple[str, Tally]]:
    """Return tallies, the worst first, and of those the ones of the most rows."""

    def order(item: tuple[str, Tally]) -> tuple[int, int, str]:
        kind, tally = item
        return SEVERITIES.index(advice[kind].severity), -(tally.rows or tally.count), kind

    return sorted(tallies.items(), key=order)
