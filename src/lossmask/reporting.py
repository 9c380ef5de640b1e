"""Data -> what a report shows: figures of every row, and some examples token by token.

In: data files and how to encode them. Out: plain data, which ``assets/web/report.js`` draws. The
rows are read twice: once in processes that a hostile row may end, to count everything; then those
that are shown, to say of each token where it came from.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.attribution import attribute
from lossmask.auditing import ROWS_PER_CHUNK, Audit, by_rows
from lossmask.confinement import Limits
from lossmask.data_files import RawRow, check_files, in_chunks, read_rows
from lossmask.encoder import Encoder
from lossmask.errors import InputError
from lossmask.explanations import FINDINGS, REASONS
from lossmask.formats import to_normal
from lossmask.outcome import Outcome
from lossmask.preparing import EncoderSource
from lossmask.token_data import PieceTable, token_data
from lossmask.worker import Chunk, Progress
from lossmask.workers import Workers

OF_EACH_FINDING = 5
"""Examples that are shown of each kind of finding, if there are so many."""
OF_EACH_REASON = 20
"""Rejected rows that are shown of each reason."""
MOST_TOKENS = 500_000
"""Tokens that a report shows, so that a browser can open it: of fewer examples if they are long."""
_EXCERPT = 600  # characters of a rejected row
_BARS = 32

Ints = npt.NDArray[np.int64]


@dataclass(slots=True)
class Facts:
    """What is remembered of every example and of some rejected rows, besides the audit.

    Attributes:
        audit: Everything that is counted.
        rows: Row of each example.
        lengths: Its tokens.
        supervised: Its tokens in the loss.
        found: Kind of finding -> indices of the examples that have it.
        rejected: Reason -> the first rows rejected for it.
    """

    audit: Audit = field(default_factory=Audit)
    rows: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    supervised: array[int] = field(default_factory=lambda: array("q"))
    found: dict[str, array[int]] = field(default_factory=dict)
    rejected: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Take the outcome of the next row."""
        self.audit.add(raw, outcome)
        if (rejection := outcome.rejection) is not None:
            kept = self.rejected.setdefault(rejection.reason, [])
            if len(kept) < OF_EACH_REASON:
                kept.append(
                    {
                        "place": raw.place,
                        "row": raw.row,
                        "reason": rejection.reason,
                        "detail": rejection.detail,
                        "message": rejection.message_index,
                        "text": _excerpt(raw),
                    }
                )
        for example in outcome.examples:
            for kind in {finding.kind for finding in example.findings}:
                self.found.setdefault(kind, array("q")).append(len(self.rows))
            self.rows.append(raw.row)
            self.lengths.append(len(example))
            self.supervised.append(example.supervised_count)

    def close(self) -> None:
        """Close the audit."""
        self.audit.close()

    def merge(self, other: Facts) -> None:
        """Add the facts of later rows."""
        self.audit.merge(other.audit)
        for kind, places in other.found.items():
            mine = self.found.setdefault(kind, array("q"))
            mine.extend(len(self.rows) + place for place in places)
        for name in ("rows", "lengths", "supervised"):
            getattr(self, name).extend(getattr(other, name))
        for reason, kept in other.rejected.items():
            mine_of = self.rejected.setdefault(reason, [])
            mine_of.extend(kept[: OF_EACH_REASON - len(mine_of)])


def _short(place: str, paths: Sequence[Path]) -> str:
    """Return a place without the folders of its file, where the name alone tells which it is."""
    for path in paths:
        if place.startswith(f"{path}") and [each.name for each in paths].count(path.name) == 1:
            return place.removeprefix(f"{path}"[: -len(path.name)])
    return place


def _excerpt(raw: RawRow) -> str:
    return raw.data[: 4 * _EXCERPT].decode("utf-8", "replace")[:_EXCERPT]


def report(
    paths: Sequence[Path],
    source: EncoderSource,
    *,
    limits: Limits,
    examples: int = 200,
    workers: int = 1,
    progress: Progress = lambda done: None,
    shown: Callable[[int, int], None] = lambda done, count: None,
) -> dict[str, Any]:
    """Return what a report of data files shows, as plain data.

    Args:
        paths: Data files, in any format that ``data_files`` and ``formats`` read.
        source: Tokenizer, template and policy.
        limits: What one row may cost.
        examples: How many to show; figures are of all.
        workers: Processes; the result is the same for any number.
        progress: Told the bytes of input done.
        shown: Told how many of the rows that are shown are done.

    Raises:
        InputError: A file is missing or no data, or there is no row.
        TemplateError: The first rows all reach the limits.
    """
    facts = collect(paths, source, limits=limits, workers=workers, progress=progress)
    chosen = sample(facts, examples)
    encoder, table = source.load(), PieceTable()
    drawn = list(_draw(paths, encoder, facts, chosen, table, shown))
    rejected = [each for rows in facts.rejected.values() for each in rows]
    tallied = [*facts.audit.findings.values(), *facts.audit.rejections.values()]
    for tally in tallied:
        tally.places = [_short(place, paths) for place in tally.places]
    for each in (*drawn, *rejected):
        each["place"] = _short(each["place"], paths)
    return {
        "title": ", ".join(path.name or str(path) for path in paths),
        "version": version("lossmask"),
        "setting": setting_of(paths, source),
        "figures": figures(facts),
        "histograms": histograms(facts),
        "findings": _tallies(facts.audit.findings, FINDINGS, facts.audit.rows_in),
        "rejections": _tallies(facts.audit.rejections, REASONS, facts.audit.rows_in),
        "rejected": rejected,
        "sample": sample_text(len(facts.rows), len(drawn), examples),
        "examples": drawn,
        "table": table.entries,
    }


def collect(
    paths: Sequence[Path],
    source: EncoderSource,
    *,
    limits: Limits,
    workers: int = 1,
    progress: Progress = lambda done: None,
) -> Facts:
    """Encode every row of data files and count what comes of it; nothing is written.

    Raises:
        InputError: A file is missing or no data, or there is no row.
        TemplateError: The first rows all reach the limits.
    """
    check_files(paths)
    rows = in_chunks(read_rows(paths), ROWS_PER_CHUNK)
    chunks = (Chunk(number, chunk, Facts()) for number, chunk in enumerate(rows))
    with Workers(source.load, limits) as processes:
        processes.try_template(next(iter(in_chunks(read_rows(paths), ROWS_PER_CHUNK)), []))
        finished = sorted(processes.encode(chunks, workers, progress), key=lambda c: c.number)
    whole = Facts()
    for chunk in finished:
        whole.merge(chunk.results)
    if not whole.audit.rows_in:
        raise InputError(f"no rows in {', '.join(map(str, paths))}", reason="no_rows")
    return whole


def sample(facts: Facts, count: int) -> list[int]:
    """Choose the examples that are shown: some of each finding, then evenly spaced ones.

    Args:
        facts: Of all rows.
        count: How many to choose, at most.

    Returns:
        Their indices, ascending; the same for the same data.
    """
    total, chosen, tokens = len(facts.rows), dict[int, None](), 0
    of_findings = (
        _spaced(facts.found[kind], OF_EACH_FINDING)
        for kind, _ in by_rows(facts.audit.findings)
        if kind in facts.found
    )
    evenly = _spaced(range(total), count)
    rest = (index for index in range(total))
    for candidates in (*of_findings, evenly, rest):
        for index in candidates:
            if len(chosen) == count or tokens > MOST_TOKENS:
                return sorted(chosen)
            if index not in chosen:
                chosen[index] = None
                tokens += facts.lengths[index]
    return sorted(chosen)


def _spaced(values: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the values, the first and the last among them, or all if fewer."""
    if len(values) <= count or count < 2:
        return list(values[:count])
    return [values[k * (len(values) - 1) // (count - 1)] for k in range(count)]


def sample_text(total: int, shown: int, asked: int) -> str:
    """Say how the examples that are shown were chosen."""
    if shown == total:
        return f"All {total:,} examples are shown."
    limit = (
        f"; no more than those that make {MOST_TOKENS:,} tokens"
        if shown < min(asked, total)
        else ""
    )
    return (
        f"{shown:,} of {total:,} examples are shown: up to {OF_EACH_FINDING} of each finding, "
        f"the others evenly spaced over the data{limit}. All figures are of every row."
    )


def _draw(
    paths: Sequence[Path],
    encoder: Encoder,
    facts: Facts,
    chosen: Sequence[int],
    table: PieceTable,
    shown: Callable[[int, int], None],
) -> Iterable[dict[str, Any]]:
    """Yield the chosen examples as plain data, each with its place and what is before it."""
    first_of: dict[int, int] = {}
    for index, row in enumerate(facts.rows):
        first_of.setdefault(row, index)
    wanted: dict[int, list[int]] = {}
    for index in chosen:
        wanted.setdefault(facts.rows[index], []).append(index)
    last, done = max(wanted, default=-1), 0
    for raw in read_rows(paths) if wanted else ():
        if raw.row in wanted:
            row = raw.parse()
            outcome, authors = encoder.encode_row(row), attribute(encoder, row)
            messages = messages_of(row, encoder)
            for index in wanted[raw.row]:
                number = index - first_of[raw.row]
                yield {
                    "place": raw.place,
                    "row": raw.row,
                    "number": number + 1,
                    "of": len(outcome.examples),
                    **token_data(
                        outcome.examples[number], messages, authors=authors[number], table=table
                    ),
                }
            done += 1
            shown(done, len(wanted))
        if raw.row == last:
            return


def messages_of(row: Mapping[str, Any], encoder: Encoder) -> Sequence[Mapping[str, Any]]:
    """Return the messages of a row in any layout; of a row of text, one for each of its ranges."""
    normal = to_normal(row, encoder.layout)
    return normal.get("messages") or [{"role": "text"}] * len(normal.get("weights", [0]))


def setting_of(paths: Sequence[Path], source: EncoderSource) -> list[list[str]]:
    """Return what decided over the examples, as ``[name, value]`` for people."""
    policy = source.policy.to_mapping()
    default = type(source.policy)().to_mapping()
    changed = [f"{name}={value}" for name, value in policy.items() if value != default[name]]
    named = [
        ("data", ", ".join(map(str, paths))),
        ("tokenizer", source.tokenizer),
        ("chat template", source.chat_template or "the tokenizer's"),
        ("policy", ", ".join(changed) or "default: every assistant message"),
        ("variables", ", ".join(f"{name}={value!r}" for name, value in source.template_variables)),
        ("longest example", f"{source.fit.max_length:,} tokens" if source.fit.max_length else ""),
    ]
    return [[name, value] for name, value in named if value]


def figures(facts: Facts) -> dict[str, Any]:
    """Return the numbers of the overview."""
    audit, lengths = facts.audit, np.asarray(facts.lengths, np.int64)
    at = (0.5, 0.95, 1) if len(lengths) else ()
    quantiles = np.quantile(lengths, at, method="lower").tolist() if at else []
    return {
        "rows_in": audit.rows_in,
        "rows_kept": audit.rows_kept,
        "rows_rejected": audit.rows_rejected,
        "rows_expanded": audit.rows_expanded,
        "examples": audit.examples,
        "tokens": audit.tokens,
        "supervised_tokens": audit.supervised_tokens,
        "repeated_tokens": audit.repeated_tokens,
        "turns": audit.turns,
        "turns_without_stop": audit.turns_without_stop,
        "lost_tokens": audit.lost.tokens,
        "length_quantiles": quantiles,
    }


def histograms(facts: Facts) -> list[dict[str, Any]]:
    """Return histograms of the examples: a title, edges, how many examples lie between two."""
    lengths = np.asarray(facts.lengths, np.int64)
    supervised = np.asarray(facts.supervised, np.int64)
    shares = supervised * 100 // np.maximum(lengths, 1)
    counts = np.histogram(shares, [*range(0, 100, 5), 101])[0].tolist()
    of_shares = {"edges": list(range(0, 101, 5)), "counts": counts}
    return [
        {"title": "tokens of an example", "bars": _bars(lengths), "unit": "", "filters": True},
        {"title": "supervised tokens of an example", "bars": _bars(supervised), "unit": ""},
        {"title": "supervised share of an example", "bars": of_shares, "unit": "%"},
    ]


def _bars(values: Ints) -> dict[str, list[int]]:
    """Return bars of a round width up to the 99th percentile; the last takes all that is more."""
    if not len(values):
        return {"edges": [0, 1], "counts": [0]}
    most, end = int(values.max()), float(np.quantile(values, 0.99))
    steps = (step * 10**power for power in range(12) for step in (1, 2, 5))
    width = next(step for step in steps if end / step <= _BARS)
    edges = [*range(0, int(end // width + 1) * width + 1, width)]
    if most >= edges[-1]:
        edges.append(most + 1)
    return {"edges": edges, "counts": np.histogram(values, edges)[0].tolist()}


def _tallies(tallies: Mapping[str, Any], meanings: Mapping[str, str], rows: int) -> list[Any]:
    return [
        {
            "kind": kind,
            "meaning": meanings.get(kind, ""),
            "rows": tally.rows,
            "count": tally.count,
            "share": tally.rows / rows,
            "places": tally.places,
        }
        for kind, tally in by_rows(dict(tallies))
    ]
