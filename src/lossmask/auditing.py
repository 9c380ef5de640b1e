"""Data -> what training on it would be: every row, what was found, what it costs.

In: rows and what encoding made of them. Out: an :class:`Audit`, which adds up and keeps an example
of everything it counts. Its parts are collected where the rows are encoded; rows that repeat others
are found once all are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.audit_statistics import Source, Statistics, count_parts
from lossmask.control_tokens import control_tokens_of
from lossmask.data_files import RawRow
from lossmask.encoder import Encoder
from lossmask.errors import LossmaskError
from lossmask.example import Example, Span
from lossmask.formats import to_normal
from lossmask.layout import Layout
from lossmask.outcome import Lost, Outcome
from lossmask.plain_tokens import FlatTokens
from lossmask.policy import PARTS
from lossmask.repeated_rows import Repeated, RowTexts, identity_of
from lossmask.severities import FOUND, REJECTED, SEVERITIES, Severity
from lossmask.skeletons import PlainLayout
from lossmask.tallies import SHOWN, Instance, Tally, line_of, worst_first
from lossmask.tokenizing import TextTokenizer

FORMAT = 1
"""Of :meth:`Audit.to_mapping`."""
_CONTENT, _STOP, _PROMPT = (PARTS.index(part) for part in ("content", "stop", "prompt"))


@dataclass(frozen=True, slots=True)
class Checks:
    """What an audit asks of tokens besides.

    Attributes:
        stop_ids: Where inference ends a turn.
        bos_id: The beginning of a sequence, None if the tokenizer has none.
        control_ids: Control tokens that messages may hold as such: under ``control_tokens=allow``.
        layout: How rows are laid out.
    """

    stop_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    control_ids: tuple[int, ...] = ()
    layout: Layout = field(default_factory=Layout)

    @classmethod
    def of(cls, encoder: Encoder) -> Checks:
        """Return what is to be asked of the tokens of an encoder."""
        setting, control = encoder._setting, ()
        if setting.policy.control_tokens == "allow" and isinstance(
            setting.tokenizer, TextTokenizer
        ):
            control = tuple(sorted(control_tokens_of(setting.tokenizer, setting.stops).ids))
        bos = encoder.tokenizer.bos_token_id
        return cls(tuple(sorted(encoder.stop_ids)), bos, control, encoder.layout)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is the same for all rows of a batch, computed once."""

    tokens: FlatTokens
    parts: npt.NDArray[np.int64]
    doubled: frozenset[int]

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # pickled as None: whoever has it next sees another batch


@dataclass(slots=True)
class Audit:
    """What the rows came to.

    Attributes:
        checks: What is asked of tokens besides.
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
        statistics: Lengths, parts, sources.
        findings: By kind.
        rejections: By reason.
        texts: What rows are compared by.
        not_told: What cannot be told from this input, one sentence each.
    """

    checks: Checks = field(default_factory=Checks)
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
    statistics: Statistics = field(default_factory=Statistics)
    findings: dict[str, Tally] = field(default_factory=dict)
    rejections: dict[str, Tally] = field(default_factory=dict)
    texts: RowTexts = field(default_factory=RowTexts)
    not_told: tuple[str, ...] = ()
    _batch: _Batch | None = field(default=None, compare=False, repr=False)

    @property
    def rows_rejected(self) -> int:
        """Rows that became nothing."""
        return self.rows_in - self.rows_kept

    @property
    def stop_rate(self) -> float | None:
        """The share of supervised turns that end with a stop token in the loss; None of none."""
        return self.statistics.stops_trained / self.turns if self.turns else None

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst that was found, None of nothing."""
        found = {FOUND[kind].severity for kind in self.findings}
        found |= {REJECTED[reason].severity for reason in self.rejections}
        return next((severity for severity in SEVERITIES if severity in found), None)

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Count one row."""
        row = _parsed(raw)
        source = self.statistics.source(_source(raw, row))
        source.rows += 1
        self.rows_in += 1
        self.lost += outcome.lost
        if outcome.rejection is not None:
            tally = self.rejections.setdefault(outcome.rejection.reason, Tally())
            tally.add(raw, [(outcome.rejection.message_index, outcome.rejection.detail)])
            return
        self.rows_kept += 1
        source.rows_kept += 1
        self.rows_expanded += len(outcome.examples) > 1
        self.texts.add(raw.file, line_of(raw), identity_of(to_normal(row, self.checks.layout)))
        for number, example in enumerate(outcome.examples):
            self._add_example(source, example, is_first=not number)
        self._add_findings(raw, outcome.examples)

    def add_plain(
        self,
        raw: RawRow,
        row: Mapping[str, Any],
        layouts: Sequence[PlainLayout],
        batch: tuple[FlatTokens, range],
    ) -> None:
        """Count one row that became examples of a batch, with nothing to find in encoding it."""
        tokens, numbers = batch
        if self._batch is None or self._batch.tokens is not tokens:
            self._batch = self._look_at(tokens)
        source = self.statistics.source(_source(raw, row))
        source.rows += 1
        source.rows_kept += 1
        self.rows_in += 1
        self.rows_kept += 1
        self.rows_expanded += len(layouts) > 1
        found: dict[str, list[tuple[int | None, str]]] = {}
        for number, layout in zip(numbers, layouts, strict=True):
            first, end = tokens.starts[number : number + 2].tolist()
            turns = len(layout.frame.turns)
            self.count_example(
                source,
                (end - first, tokens.in_loss[number]),
                turns=(turns, 0, turns),
                parts=self._batch.parts[number],
                is_first=number == numbers.start,
            )
            if number in self._batch.doubled:
                ids, index = tokens.input_ids[first:end], tokens.message_index[first:end]
                for kind, details in self.asked_of(ids, index).items():
                    found.setdefault(kind, []).extend(details)
        self.texts.add(raw.file, line_of(raw), identity_of(row))
        if len(layouts) > 1:
            trained = [[index for index, *_ in layout.completions] for layout in layouts]
            found |= _expanded(trained)
        self._tally(raw, found)

    def close(self) -> None:
        """Compute what takes all rows of a chunk at once."""
        self._batch = None
        self.texts.close()

    def merge(self, other: Audit) -> None:
        """Add the audit of later rows, their texts aside."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lost += other.lost
        self.statistics.merge(other.statistics)
        for mine, theirs in ((self.findings, other.findings), (self.rejections, other.rejections)):
            for kind, tally in theirs.items():
                mine.setdefault(kind, Tally()).merge(tally)

    def add_repeats(self, kind: str, repeated: Sequence[Repeated], says: str) -> None:
        """Take rows that repeat others, as a finding of a kind.

        Args:
            kind: Of the finding.
            repeated: The rows.
            says: What of them, before the place that they repeat.
        """
        if repeated:
            instances = [
                Instance(each.file, each.line, None, f"{_likeness(each)}{says} {each.other}")
                for each in repeated[:SHOWN]
            ]
            self.findings[kind] = Tally(len(repeated), len(repeated), instances)

    def add_about_all(self, kind: str, detail: str) -> None:
        """Take a finding about all of the data."""
        self.findings[kind] = Tally(1, self.rows_kept, [Instance("", 0, None, detail)])

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON: see ``docs/audit.md``."""
        plain = {name: getattr(self, name) for name in _NUMBERS}
        return {
            "format": FORMAT,
            "worst": self.worst,
            **plain,
            "rows_rejected": self.rows_rejected,
            "supervised_share": self.supervised_tokens / max(self.tokens, 1),
            "stop_rate": self.stop_rate,
            "lost": asdict(self.lost),
            "findings": {
                kind: tally.to_mapping(FOUND[kind], self.rows_in)
                for kind, tally in worst_first(self.findings, FOUND)
            },
            "rejections": {
                reason: tally.to_mapping(REJECTED[reason], self.rows_in)
                for reason, tally in worst_first(self.rejections, REJECTED)
            },
            "statistics": self.statistics.to_mapping(),
            "not_told": list(self.not_told),
        }

    def count_example(
        self,
        source: Source,
        tokens: tuple[int, int],
        *,
        turns: tuple[int, int, int],
        parts: npt.NDArray[np.int64],
        is_first: bool = True,
    ) -> None:
        """Count one example.

        Args:
            source: Of its row.
            tokens: All of its tokens, and those in the loss.
            turns: Its supervised turns, those without a stop token, those with one in the loss.
            parts: int64 (parts, 2), as ``count_parts`` gives it.
            is_first: Whether it is the first one of its row.
        """
        for counts in (self, source):
            counts.examples += 1
            counts.tokens += tokens[0]
            counts.supervised_tokens += tokens[1]
        self.turns += turns[0]
        self.turns_without_stop += turns[1]
        if not is_first:
            self.repeated_tokens += tokens[0] - tokens[1]
        self.statistics.add(*tokens, turns=turns[0], stops=turns[2], parts=parts)

    def _add_example(self, source: Source, example: Example, *, is_first: bool) -> None:
        [parts] = count_parts(self._parts(example), example.loss_mask)
        without = sum(span.stop is None for span in example.spans)
        stops = sum(_trains_stop(example, span) for span in example.spans)
        self.count_example(
            source,
            (len(example), example.supervised_count),
            turns=(len(example.spans), without, stops),
            parts=parts,
            is_first=is_first,
        )

    def _parts(self, example: Example) -> npt.NDArray[np.int8]:
        """Return the parts of an example; of a text, what is in the loss is content or stop."""
        if example.parts is not None:
            return example.parts
        is_stop = np.isin(example.input_ids, self.checks.stop_ids)
        inside = np.where(is_stop, np.int8(_STOP), np.int8(_CONTENT))
        parts: npt.NDArray[np.int8] = np.where(example.loss_mask, inside, np.int8(_PROMPT))
        return parts

    def _add_findings(self, raw: RawRow, examples: Sequence[Example]) -> None:
        found: dict[str, list[tuple[int | None, str]]] = {}
        for example in examples:
            for finding in example.findings:
                found.setdefault(finding.kind, []).append((finding.message_index, finding.detail))
            asked = self.asked_of(example.input_ids, example.message_index)
            for kind, details in asked.items():
                found.setdefault(kind, []).extend(details)
        if "special_token_doubled" in found:  # which says the same, and more
            found.pop("bos_doubled", None)
        trained = [[span.message_index for span in example.spans] for example in examples]
        self._tally(raw, found | _expanded(trained))

    def _tally(self, raw: RawRow, found: Mapping[str, list[tuple[int | None, str]]]) -> None:
        for kind, details in found.items():
            self.findings.setdefault(kind, Tally()).add(raw, details)

    def asked_of(
        self, ids: npt.NDArray[np.int32], message_index: npt.NDArray[np.int32]
    ) -> dict[str, list[tuple[int | None, str]]]:
        """Return what the tokens of one example themselves tell."""
        found: dict[str, list[tuple[int | None, str]]] = {}
        bos = self.checks.bos_id
        if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
            detail = f"the first two tokens are both {bos}, the beginning of a sequence"
            found["bos_doubled"] = [(None, detail)]
        if self.checks.control_ids:
            is_control = np.isin(ids, self.checks.control_ids) & (message_index >= 0)
            for token in np.flatnonzero(is_control).tolist():
                detail = f"token {token} of the example is the control token {ids[token]}"
                found.setdefault("control_token_in_content", []).append(
                    (int(message_index[token]), detail)
                )
        return found

    def _look_at(self, tokens: FlatTokens) -> _Batch:
        starts, ids = tokens.starts, tokens.input_ids
        parts = count_parts(tokens.parts(), tokens.labels >= 0, starts[:-1].tolist())
        doubled: list[int] = []
        if self.checks.bos_id is not None:
            first, second = starts[:-1], np.minimum(starts[:-1] + 1, len(ids) - 1)
            is_double = (ids[first] == self.checks.bos_id) & (ids[second] == self.checks.bos_id)
            doubled = np.flatnonzero(is_double & (np.diff(starts) > 1)).tolist()
        return _Batch(tokens, parts, frozenset(doubled))


def _source(raw: RawRow, row: Mapping[str, Any]) -> str:
    """Return what a row is counted under: its column ``source``, else its file."""
    named = row.get("source")
    return named if isinstance(named, str) and named else raw.file


def _parsed(raw: RawRow) -> Mapping[str, Any]:
    """Return a row, without keys if it cannot be read: why is told by its rejection."""
    try:
        return raw.parse()
    except LossmaskError:
        return {}


def _expanded(trained: Sequence[Sequence[int]]) -> dict[str, list[tuple[int | None, str]]]:
    """Return the finding that a row became several examples.

    Args:
        trained: By example, the messages that it trains.
    """
    if len(trained) < 2:
        return {}
    own = ", ".join(str(index) for each in trained[1:] for index in each)
    return {"history_expanded": [(None, f"{len(trained)} examples; of their own: message {own}")]}


def _trains_stop(example: Example, span: Span) -> bool:
    return span.stop is not None and bool(example.loss_weights[span.token_end - 1])


def _likeness(repeated: Repeated) -> str:
    return "" if repeated.similarity == 1 else f"{repeated.similarity:.0%} alike: "


_NUMBERS = (
    "rows_in",
    "rows_kept",
    "examples",
    "tokens",
    "supervised_tokens",
    "turns",
    "turns_without_stop",
    "rows_expanded",
    "repeated_tokens",
)
