"""Data -> what a report shows: the audit of every row, and some examples token by token.

In: data files and how to encode them. Out: plain data, which ``assets/web/report.js`` draws. The
rows are read twice, each time encoded in processes that a hostile row may end: once to audit them
all, then those that are shown, to say of each token who wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lossmask.attribution import Author, attributed
from lossmask.audit_data import audit
from lossmask.auditing import Audit
from lossmask.confinement import Limits
from lossmask.data_files import RawRow, in_chunks, read_rows
from lossmask.encoder import Encoder
from lossmask.example import Example
from lossmask.outcome import Outcome
from lossmask.policy import Policy
from lossmask.preparing import EncoderSource
from lossmask.tallies import Instance, line_of
from lossmask.token_data import PieceTable, token_data
from lossmask.worker import Chunk, Progress
from lossmask.workers import Workers

MOST_TOKENS = 500_000
"""Tokens that a report shows, so that a browser can open it: of fewer examples if they are long."""
_EXCERPT = 2000  # characters of a rejected row
_BARS = 32
_ROWS_PER_CHUNK = 16


@dataclass(frozen=True, slots=True)
class Traced:
    """An example with what is known of its text."""

    raw: RawRow
    number: int
    of: int
    example: Example
    roles: tuple[str, ...]
    authors: tuple[Author, ...]


@dataclass(slots=True)
class Traces:
    """What is shown of the rows of a chunk.

    Attributes:
        examples: Of the rows that are kept.
        rejected: The others, with the reason of each.
    """

    examples: list[Traced] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Take the outcome of the next row."""
        if (rejection := outcome.rejection) is not None:
            found = {"reason": rejection.reason, "detail": rejection.detail}
            excerpt = raw.data[: 4 * _EXCERPT].decode("utf-8", "replace")[:_EXCERPT]
            place = {"place": raw.place, "row": raw.row, "message": rejection.message_index}
            self.rejected.append({**place, **found, "text": excerpt})
            return
        [encoder] = _encoder_of_this_process
        seen = attributed(encoder, raw.parse())
        roles, of = tuple(_roles(seen.normal)), len(seen.authors)
        for number, example in enumerate(seen.outcome.examples):
            authors = seen.authors[number]
            self.examples.append(Traced(raw, number + 1, of, example, roles, authors))

    def close(self) -> None:
        """Do nothing."""


_encoder_of_this_process: list[Encoder] = []


def _load(source: EncoderSource) -> Encoder:
    _encoder_of_this_process[:] = [source.load()]
    return _encoder_of_this_process[0]


def _roles(normal: Mapping[str, Any]) -> Iterable[str]:
    """Return the roles of a row; of text, one for each of its weighted ranges."""
    if messages := normal.get("messages"):
        return (str(message["role"]) for message in messages)
    return ["text"] * len(normal.get("weights") or [0])


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
        shown: Told how many of the rows that are shown are done, of how many.

    Raises:
        InputError: A file is missing or no data, or there is no row.
        TemplateError: The first rows all reach the limits.
    """
    found = audit(paths, source, limits=limits, workers=workers, progress=progress)
    wanted = sample(found, examples)
    traces = _trace(list(_chosen(paths, found, wanted)), source, limits, workers, shown)
    kept = fitting(traces.examples, found, examples)
    table, noted = PieceTable(), _findings_by_place(found)
    data: dict[str, Any] = {
        "title": ", ".join(path.name or str(path) for path in paths),
        "version": version("lossmask"),
        "setting": setting_of(paths, source),
        "audit": found.to_mapping(),
        "histograms": histograms(found),
        "rejected": traces.rejected,
        "sample": sample_text(found.examples, len(kept), examples),
        "examples": [_data_of(each, noted, table) for each in kept],
        "table": table.entries,
    }
    _shorten_places(data, paths)
    return data


def sample(found: Audit, count: int) -> list[int]:
    """Choose rows, evenly spaced, that come to about so many examples.

    Returns:
        Their numbers, ascending; the same for the same data.
    """
    if not found.examples:
        return []
    tokens = found.tokens / found.examples
    fitting = min(count, int(MOST_TOKENS / tokens) + 1)
    rows = min(-(-fitting * found.rows_in // found.examples), found.rows_in)
    return spaced(range(found.rows_in), rows)


def spaced(values: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the values, the first and the last among them, or all if fewer.

    Example:
        >>> spaced(range(10), 4)
        [0, 3, 6, 9]
    """
    if len(values) <= count or count < 2:
        return list(values[:count])
    return [values[k * (len(values) - 1) // (count - 1)] for k in range(count)]


def _instances(found: Audit) -> Iterator[tuple[str, Instance]]:
    for tallies in (found.findings, found.rejections):
        for kind, tally in tallies.items():
            for instance in tally.instances:
                yield kind, instance


def _chosen(paths: Sequence[Path], found: Audit, rows: Sequence[int]) -> Iterator[RawRow]:
    """Yield the rows of these numbers, and those that findings and rejections name."""
    numbers = set(rows)
    places = {(instance.file, instance.line) for _, instance in _instances(found)}
    for raw in read_rows(paths):
        if raw.row in numbers or (raw.file, line_of(raw)) in places:
            yield raw


def _trace(
    rows: Sequence[RawRow],
    source: EncoderSource,
    limits: Limits,
    workers: int,
    shown: Callable[[int, int], None],
) -> Traces:
    """Encode rows and keep all that is known of their examples."""
    batches = enumerate(in_chunks(iter(rows), _ROWS_PER_CHUNK))
    chunks = (Chunk(number, batch, Traces()) for number, batch in batches)
    finished, done = list[Chunk[Traces]](), 0
    exact = replace(source, fast=False)  # the other backend does not pay for so few rows
    with Workers(partial(_load, exact), limits) as pool:
        for chunk in pool.encode(chunks, workers):
            finished.append(chunk)
            done += len(chunk.rows)
            shown(done, len(rows))
    whole = Traces()
    for chunk in sorted(finished, key=lambda chunk: chunk.number):
        whole.examples += chunk.results.examples
        whole.rejected += chunk.results.rejected
    return whole


def fitting(traced: Sequence[Traced], found: Audit, count: int) -> list[Traced]:
    """Return so many examples, and no more tokens than fit a page: those with findings first.

    Args:
        traced: What there is, in the order of the data.
        found: Names the rows of each finding.
        count: How many to return, at most.
    """
    places = {(instance.file, instance.line) for _, instance in _instances(found)}
    is_named = [(each.raw.file, line_of(each.raw)) in places for each in traced]
    named = [index for index, named in enumerate(is_named) if named][:count]
    others = [index for index, named in enumerate(is_named) if not named]
    kept, tokens = list[int](), 0
    for index in [*named, *spaced(others, count - len(named))]:
        tokens += len(traced[index].example)
        if kept and tokens > MOST_TOKENS:
            break
        kept.append(index)
    return [traced[index] for index in sorted(kept)]


def sample_text(total: int, shown: int, asked: int) -> str:
    """Say how the examples that are shown were chosen."""
    if shown == total:
        return f"All {total:,} examples are shown."
    limit = f", as many as make {MOST_TOKENS:,} tokens" if shown < min(asked, total) else ""
    return (
        f"{shown:,} of {total:,} examples are shown{limit}: those that findings name, and rows "
        "evenly spaced over the data. All figures are of every row."
    )


def _findings_by_place(found: Audit) -> dict[tuple[str, int], list[tuple[str, Instance]]]:
    """Return the findings that name a row, by its place."""
    noted: dict[tuple[str, int], list[tuple[str, Instance]]] = {}
    for kind, instance in _instances(found):
        noted.setdefault((instance.file, instance.line), []).append((kind, instance))
    return noted


def _data_of(
    traced: Traced,
    noted: Mapping[tuple[str, int], Sequence[tuple[str, Instance]]],
    table: PieceTable,
) -> dict[str, Any]:
    """Return an example as plain data, with what only the audit of all rows finds in its row."""
    messages = [{"role": role} for role in traced.roles]
    data = token_data(traced.example, messages, authors=traced.authors, table=table)
    own = {finding.kind for finding in traced.example.findings}
    for kind, instance in noted.get((traced.raw.file, line_of(traced.raw)), ()):
        if kind not in own and traced.number == 1:
            message = -1 if instance.message is None else instance.message
            data["findings"].append([kind, instance.detail, message])
    place = {"place": traced.raw.place, "row": traced.raw.row}
    return {**place, "number": traced.number, "of": traced.of, **data}


def setting_of(paths: Sequence[Path], source: EncoderSource) -> list[list[str]]:
    """Return what decided over the examples, as ``[name, value]`` for people."""
    policy, default = source.policy.to_mapping(), Policy().to_mapping()
    written = {name: json.dumps(value, ensure_ascii=False) for name, value in policy.items()}
    usual = {name: json.dumps(value) for name, value in default.items()}
    changed = [f"{name}={value}" for name, value in written.items() if value != usual[name]]
    named = [
        ("data", ", ".join(map(str, paths))),
        ("tokenizer", source.tokenizer),
        ("chat template", source.chat_template or "the tokenizer's"),
        ("policy", ", ".join(changed) or "default: every assistant message"),
        ("variables", ", ".join(f"{name}={value!r}" for name, value in source.template_variables)),
        ("longest example", f"{source.fit.max_length:,} tokens" if source.fit.max_length else ""),
    ]
    return [[name, value] for name, value in named if value]


def histograms(found: Audit) -> list[dict[str, Any]]:
    """Return histograms of the examples: a title, edges, how many examples lie between two."""
    counted = found.statistics
    edges = [*range(0, 101, 5)]
    bars = np.zeros(20, np.int64)
    for share, count in counted.shares.items():
        bars[min(share // 50, 19)] += count
    shares = {"edges": edges, "counts": bars.tolist()}
    lengths, supervised = bars_of(counted.lengths), bars_of(counted.supervised)
    return [
        {"title": "tokens of an example", "bars": lengths, "unit": "", "filters": True},
        {"title": "supervised tokens of an example", "bars": supervised, "unit": ""},
        {"title": "supervised share of an example", "bars": shares, "unit": "%"},
    ]


def bars_of(counted: Mapping[int, int]) -> dict[str, list[int]]:
    """Return bars of a round width up to the 99th percentile; the last takes all that is more.

    Args:
        counted: Value -> how often.

    Example:
        >>> bars_of({0: 1, 3: 50, 4: 50})
        {'edges': [0, 1, 2, 3, 4, 5], 'counts': [1, 0, 0, 50, 50]}
    """
    if not counted:
        return {"edges": [0, 1], "counts": [0]}
    values = np.array(sorted(counted), np.int64)
    many = np.array([counted[value] for value in values.tolist()], np.int64)
    up_to = np.cumsum(many)
    end = int(values[np.searchsorted(up_to, 0.99 * up_to[-1])])
    steps = (step * 10**power for power in range(12) for step in (1, 2, 5))
    width = next(step for step in steps if end / step <= _BARS)
    edges = [*range(0, (end // width + 1) * width + 1, width)]
    if int(values[-1]) >= edges[-1]:
        edges.append(int(values[-1]) + 1)
    return {"edges": edges, "counts": np.histogram(values, edges, weights=many)[0].tolist()}


def _shorten_places(data: dict[str, Any], paths: Sequence[Path]) -> None:
    """Name the files of places without their folders, where their names tell which they are."""
    names = [path.name for path in paths]
    folders = {f"{path}": path.name for path in paths if names.count(path.name) == 1 and path.name}

    def shortened(text: str | None) -> str | None:
        for long, short in folders.items():
            text = text and text.replace(long, short)
        return text

    tallies = [*data["audit"]["findings"].values(), *data["audit"]["rejections"].values()]
    found = [instance for tally in tallies for instance in tally["examples"]]
    for each in (*data["examples"], *data["rejected"], *found):
        each["place"] = shortened(each["place"])
    for instance in found:
        instance["detail"] = shortened(instance["detail"])
    for example in data["examples"]:
        example["findings"] = [
            [kind, shortened(says), at] for kind, says, at in example["findings"]
        ]
