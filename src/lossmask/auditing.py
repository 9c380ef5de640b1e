"""Data -> what training on it would be: every row, what was found, what it costs.

In: rows and what encoding made of them. Out: an :class:`Audit`, which adds up and keeps an example
of everything it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lossmask.confinement import Limits
from lossmask.data_files import RawRow, check_files, in_chunks, read_rows
from lossmask.errors import InputError
from lossmask.example import Example
from lossmask.outcome import Lost, Outcome
from lossmask.preparing import EncoderSource
from lossmask.worker import Chunk, Progress
from lossmask.workers import Workers

ROWS_PER_CHUNK = 200
SHOWN = 3
"""Examples kept of each kind of finding and each reason."""


@dataclass(slots=True)
class Tally:
    """How often something was found, and where first.

    Attributes:
        count: How often, several times in one row included.
        rows: In how many rows.
        places: The first few, ``file:line, message 3: detail``.
    """

    count: int = 0
    rows: int = 0
    places: list[str] = field(default_factory=list)

    def merge(self, other: Tally) -> None:
        """Add the tally of later rows."""
        self.count += other.count
        self.rows += other.rows
        self.places = (self.places + other.places)[:SHOWN]

    def add(self, place: str, details: Sequence[tuple[int | None, str]]) -> None:
        """Count what one row holds: message index and detail of each."""
        self.count += len(details)
        self.rows += 1
        index, detail = details[0]
        if len(self.places) < SHOWN:
            where = "" if index is None or index < 0 else f", message {index}"
            self.places.append(f"{place}{where}: {detail}")


@dataclass(slots=True)
class Audit:
    """What the rows came to.

    Attributes:
        rows_in: Rows read.
        rows_kept: Rows that became examples.
        examples: Examples.
        tokens: Tokens of all examples.
        supervised_tokens: Tokens in the loss.
        turns: Supervised turns.
        turns_without_stop: Those that end without a stop token.
        rows_expanded: Rows that became more than one example.
        repeated_tokens: Tokens out of the loss in the second and further examples of a row: what
            ``history="expand"`` costs.
        lost: What truncation takes away.
        findings: By kind.
        rejections: By reason.
    """

    rows_in: int = 0
    rows_kept: int = 0
    examples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    turns: int = 0
    turns_without_stop: int = 0
    rows_expanded: int = 0
    repeated_tokens: int = 0
    lost: Lost = field(default_factory=Lost)
    findings: dict[str, Tally] = field(default_factory=dict)
    rejections: dict[str, Tally] = field(default_factory=dict)

    @property
    def rows_rejected(self) -> int:
        """Rows that became nothing."""
        return self.rows_in - self.rows_kept

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Count one row."""
        self.rows_in += 1
        self.lost += outcome.lost
        if outcome.rejection is not None:
            tally = self.rejections.setdefault(outcome.rejection.reason, Tally())
            tally.add(raw.place, [(outcome.rejection.message_index, outcome.rejection.detail)])
            return
        self.rows_kept += 1
        self.rows_expanded += len(outcome.examples) > 1
        self._add_examples(outcome.examples)
        self._add_findings(raw.place, outcome.examples)

    def close(self) -> None:
        """Do nothing: an audit of no more rows is whole."""

    def merge(self, other: Audit) -> None:
        """Add the audit of later rows."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lost += other.lost
        for mine, theirs in ((self.findings, other.findings), (self.rejections, other.rejections)):
            for kind, tally in theirs.items():
                mine.setdefault(kind, Tally()).merge(tally)

    def _add_examples(self, examples: Sequence[Example]) -> None:
        for number, example in enumerate(examples):
            self.examples += 1
            self.tokens += len(example)
            self.supervised_tokens += example.supervised_count
            self.turns += len(example.spans)
            self.turns_without_stop += sum(span.stop is None for span in example.spans)
            if number:
                self.repeated_tokens += len(example) - example.supervised_count

    def _add_findings(self, place: str, examples: Iterable[Example]) -> None:
        found: dict[str, list[tuple[int | None, str]]] = {}
        for example in examples:
            for finding in example.findings:
                found.setdefault(finding.kind, []).append((finding.message_index, finding.detail))
        for kind, details in found.items():
            self.findings.setdefault(kind, Tally()).add(place, details)

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON."""
        plain = {name: getattr(self, name) for name in _NUMBERS}
        return plain | {
            "rows_rejected": self.rows_rejected,
            "lost": asdict(self.lost),
            "findings": {kind: _plain(tally) for kind, tally in by_rows(self.findings)},
            "rejections": {reason: _plain(tally) for reason, tally in by_rows(self.rejections)},
        }


_NUMBERS = tuple(
    name for name in Audit.__dataclass_fields__ if name not in ("lost", "findings", "rejections")
)


def by_rows(tallies: dict[str, Tally]) -> list[tuple[str, Tally]]:
    """Return tallies, those of the most rows first."""
    return sorted(tallies.items(), key=lambda item: (-item[1].rows, item[0]))


def audit(
    paths: Sequence[Path],
    source: EncoderSource,
    *,
    limits: Limits,
    workers: int = 1,
    progress: Progress = lambda done: None,
) -> Audit:
    """Encode every row of data files and count what comes of it; nothing is written.

    Args:
        paths: Data files, in any format that ``data_files`` and ``formats`` read.
        source: Tokenizer, template and policy.
        limits: What one row may cost.
        workers: Processes; the result is the same for any number.
        progress: Told the bytes of input done.

    Raises:
        InputError: A file is missing or no data, or there is no row.
        TemplateError: The first rows all reach the limits.
    """
    check_files(paths)
    rows = in_chunks(read_rows(paths), ROWS_PER_CHUNK)
    chunks = (Chunk(number, chunk, Audit()) for number, chunk in enumerate(rows))
    with Workers(source.load, limits) as processes:
        processes.try_template(islice(read_rows(paths), ROWS_PER_CHUNK))
        finished = sorted(processes.encode(chunks, workers, progress), key=lambda c: c.number)
    whole = Audit()
    for chunk in finished:
        whole.merge(chunk.results)
    if not whole.rows_in:
        raise InputError(f"no rows in {', '.join(map(str, paths))}", reason="no_rows")
    return whole


def _plain(tally: Tally) -> dict[str, Any]:
    return {"count": tally.count, "rows": tally.rows, "examples": tally.places}
