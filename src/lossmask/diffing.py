"""Two ways of making examples of the same rows -> which rows and tokens differ, and how.

In: what each side, A and B, made of a row. Out: a :class:`Diff`, which accounts for every row,
counts tokens by kind of difference and by what they are, and keeps the first rows that differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lossmask.errors import LossmaskError
from lossmask.example import Example
from lossmask.formats import to_normal
from lossmask.layout import Layout
from lossmask.outcome import Outcome, Rejection
from lossmask.raw_rows import RawRow
from lossmask.token_alignment import Segment, align, pair_examples
from lossmask.token_places import ELSEWHERE, FURTHER, UNKNOWN, places_of

__all__ = [
    "KINDS",
    "Change",
    "Comparison",
    "Diff",
    "ExamplePair",
    "RowDiff",
    "compare_examples",
]

Kind = Literal["examples", "text", "ids", "only_a", "only_b", "weight"]
KINDS: Mapping[Kind, str] = {
    "examples": "another number of examples",
    "text": "other text",
    "ids": "the same text in other tokens",
    "only_a": "in the loss of A only",
    "only_b": "in the loss of B only",
    "weight": "in the loss of both, with other weights",
}
"""Every kind of difference, with the words for it."""

Places = Callable[[Example, Sequence[Mapping[str, Any]] | None], list[str]]


@dataclass(frozen=True, slots=True)
class Change:
    """Neighbouring tokens that differ alike; intervals are half-open.

    Attributes:
        kinds: How, of :data:`KINDS`.
        place: What they are (see ``token_places``); of several, the first that differs.
        lost: Tokens of A that are in the loss of A only, by what they are.
        added: Tokens of B that are in the loss of B only, by what they are.
        reweighted: Tokens of B that both train, with other weights.
    """

    a_start: int
    a_end: int
    b_start: int
    b_end: int
    kinds: tuple[Kind, ...]
    place: str
    lost: Mapping[str, int]
    added: Mapping[str, int]
    reweighted: int = 0


@dataclass(frozen=True, slots=True)
class ExamplePair:
    """Two examples of a row that stand for each other; None where one side has none.

    Attributes:
        segments: Their alignment, empty without one of them.
        changes: Where they differ, in order.
    """

    a: Example | None
    b: Example | None
    segments: tuple[Segment, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class RowDiff:
    """A row of which both sides made examples.

    Attributes:
        row: 0-based number.
        place: ``file:line``.
        messages: The conversation, empty where it is not known.
        pairs: All examples of either side.
        kinds: Every kind of difference in it; empty if there is none.
    """

    row: int
    place: str
    messages: tuple[Mapping[str, Any], ...]
    pairs: tuple[ExamplePair, ...]
    kinds: tuple[Kind, ...]


@dataclass(slots=True)
class Rejected:
    """Rows that one side rejects for one reason.

    Attributes:
        rows: How many.
        first: The first one: ``file:line`` and detail.
    """

    rows: int = 0
    first: str = ""


@dataclass(slots=True)
class Diff:
    """What became of all rows. ``rows`` is the sum of the five numbers behind it.

    Attributes:
        rows: Rows compared.
        same: Rows whose examples are the same on both sides.
        differing: Rows of which both sides made examples that differ.
        only_a: Rows that B rejects.
        only_b: Rows that A rejects.
        neither: Rows that both reject.
        tokens: Of the examples of A and of B, in rows that neither rejects.
        supervised: Tokens in the loss of A and of B, in those rows.
        rows_by_kind: Rows that have a kind of difference.
        tokens_by_kind: Tokens, of B for ``only_b`` and ``weight``, of the longer side for ``ids``
            and ``text``, else of A.
        lost: Tokens in the loss of A only, by what they are; and in how many rows.
        added: The same of B.
        rejected_a: Rejections of A by reason.
        rejected_b: Rejections of B by reason.
        shown: The first rows that differ.
    """

    rows: int = 0
    same: int = 0
    differing: int = 0
    only_a: int = 0
    only_b: int = 0
    neither: int = 0
    tokens: tuple[int, int] = (0, 0)
    supervised: tuple[int, int] = (0, 0)
    rows_by_kind: Counter[str] = field(default_factory=Counter)
    tokens_by_kind: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    lost_rows: Counter[str] = field(default_factory=Counter)
    added: Counter[str] = field(default_factory=Counter)
    added_rows: Counter[str] = field(default_factory=Counter)
    rejected_a: dict[str, Rejected] = field(default_factory=dict)
    rejected_b: dict[str, Rejected] = field(default_factory=dict)
    shown: list[RowDiff] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Whether every row came out alike; rejected by both counts as that."""
        return self.rows == self.same + self.neither

    def add_rejected(self, place: str, a: Rejection | None, b: Rejection | None) -> None:
        """Count a row that one side or both reject."""
        self.rows += 1
        if a is not None and b is not None:
            self.neither += 1
        elif a is None:
            self.only_a += 1
        else:
            self.only_b += 1
        for rejection, known in ((a, self.rejected_a), (b, self.rejected_b)):
            if rejection is not None:
                tally = known.setdefault(rejection.reason, Rejected())
                tally.rows += 1
                tally.first = tally.first or f"{place}: {_told(rejection)}"

    def add_same(self, tokens: int, supervised: int) -> None:
        """Count a row of which both sides made the same examples."""
        self.rows += 1
        self.same += 1
        self.tokens = _plus(self.tokens, (tokens, tokens))
        self.supervised = _plus(self.supervised, (supervised, supervised))

    def add_compared(self, found: RowDiff, limit: int, *, keeps_same: bool = False) -> None:
        """Count a row of which both sides made examples; keep it if it differs, or in any case."""
        self.rows += 1
        self.differing += bool(found.kinds)
        self.same += not found.kinds
        for pair in found.pairs:
            sides = pair.a, pair.b
            self.tokens = _plus(self.tokens, [0 if each is None else len(each) for each in sides])
            self.supervised = _plus(
                self.supervised, [0 if each is None else each.supervised_count for each in sides]
            )
        self._add_changes([change for pair in found.pairs for change in pair.changes])
        self.rows_by_kind.update(found.kinds)
        if keeps_same or (found.kinds and len(self.shown) < limit):
            self.shown.append(found)

    def _add_changes(self, changes: Sequence[Change]) -> None:
        lost: Counter[str] = Counter()
        added: Counter[str] = Counter()
        for change in changes:
            lost.update(change.lost)
            added.update(change.added)
            self.tokens_by_kind["weight"] += change.reweighted
            longer = max(change.a_end - change.a_start, change.b_end - change.b_start)
            for kind in ("ids", "text"):
                self.tokens_by_kind[kind] += longer if kind in change.kinds else 0
        self.lost.update(lost)
        self.added.update(added)
        self.lost_rows.update(lost.keys())
        self.added_rows.update(added.keys())
        self.tokens_by_kind["only_a"] += lost.total()
        self.tokens_by_kind["only_b"] += added.total()

    def merge(self, other: Diff, limit: int) -> None:
        """Add what became of other rows; of all rows that differ the first are kept."""
        for name in ("rows", "same", "differing", "only_a", "only_b", "neither"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.tokens = _plus(self.tokens, other.tokens)
        self.supervised = _plus(self.supervised, other.supervised)
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for mine, theirs in (
            (self.rejected_a, other.rejected_a),
            (self.rejected_b, other.rejected_b),
        ):
            for reason, tally in theirs.items():
                known = mine.setdefault(reason, Rejected())
                known.rows += tally.rows
                known.first = known.first or tally.first
        self.shown = sorted([*self.shown, *other.shown], key=lambda found: found.row)[:limit]


_COUNTERS = ("rows_by_kind", "tokens_by_kind", "lost", "lost_rows", "added", "added_rows")


@dataclass(slots=True)
class Comparison:
    """Takes the outcomes of B for rows whose outcomes of A are there, where B is encoded.

    Attributes:
        ours: What A made of the rows.
        layout: How rows are laid out, for the roles of messages.
        limit: How many rows that differ are kept.
        keeps_same: Whether rows that do not differ are kept as well.
        knows_b: Whether the examples of B tell which message wrote what; those of other tools do
            not, and are told by A.
        diff: What was found.
    """

    ours: Sequence[Outcome]
    layout: Layout
    limit: int
    keeps_same: bool = False
    knows_b: bool = True
    diff: Diff = field(default_factory=Diff)

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Compare the next row."""
        mine = self.ours[self.diff.rows]
        if mine.rejection is not None or outcome.rejection is not None:
            self.diff.add_rejected(raw.place, mine.rejection, outcome.rejection)
            return
        theirs = outcome.examples
        if not self.knows_b:
            theirs = tuple(_drawn_like(each, mine.examples) for each in theirs)
        if _are_same(mine.examples, theirs) and not self.keeps_same:
            counts = [(len(each), each.supervised_count) for each in theirs]
            self.diff.add_same(*map(sum, zip(*counts, strict=True)))
            return
        found = compare_examples(
            mine.examples,
            theirs,
            _messages_of(raw, self.layout),
            row=raw.row,
            place=raw.place,
            places_b=places_of if self.knows_b else None,
        )
        self.diff.add_compared(found, self.limit, keeps_same=self.keeps_same)

    def close(self) -> None:
        """Forget the outcomes of A, which need not travel."""
        self.ours = ()


def compare_examples(
    a: Sequence[Example],
    b: Sequence[Example],
    messages: Sequence[Mapping[str, Any]],
    *,
    row: int,
    place: str,
    places_a: Places = places_of,
    places_b: Places | None = places_of,
) -> RowDiff:
    """Compare what two sides made of one row.

    Args:
        a: The examples of A.
        b: Those of B.
        messages: The conversation, empty if it is not known.
        row: 0-based number of the row.
        place: Its file and line.
        places_a: Names what the tokens of A are.
        places_b: The same of B; None: B does not tell, A does where it has the same text.
    """
    pairs = []
    for i, j in pair_examples(a, b):
        mine, other = None if i is None else a[i], None if j is None else b[j]
        pairs.append(_compare_pair(mine, other, messages or None, places_a, places_b))
    found = {kind for pair in pairs for change in pair.changes for kind in change.kinds}
    kinds = tuple(kind for kind in KINDS if kind in found)
    return RowDiff(row, place, tuple(messages), tuple(pairs), kinds)


def _compare_pair(
    a: Example | None,
    b: Example | None,
    messages: Sequence[Mapping[str, Any]] | None,
    places_a: Places,
    places_b: Places | None,
) -> ExamplePair:
    if a is None or b is None:
        return _unpaired(a, b, messages, places_a, places_b)
    segments = align(a, b)
    if all(each.kind == "same" for each in segments) and np.array_equal(
        a.loss_weights, b.loss_weights
    ):
        return ExamplePair(a, b, tuple(segments), ())
    ours = places_a(a, messages)
    if places_b is None:
        theirs, owners = _told_by(a, ours, b, segments)
        b = replace(b, message_index=owners)
    else:
        theirs = places_b(b, messages)
    changes: list[Change] = []
    for segment in segments:
        if segment.kind == "same":
            changes += _changes_of_same(a, b, segment, ours, theirs)
        else:
            changes.append(_change_of_other(a, b, segment, ours, theirs))
    return ExamplePair(a, b, tuple(segments), tuple(changes))


def _unpaired(
    a: Example | None,
    b: Example | None,
    messages: Sequence[Mapping[str, Any]] | None,
    places_a: Places,
    places_b: Places | None,
) -> ExamplePair:
    """Return an example that only one side has: all of it is a change."""
    only = a if a is not None else b
    assert only is not None
    places = places_a if a is not None else places_b
    names = [UNKNOWN] * len(only) if places is None else places(only, messages)
    trained = Counter({FURTHER: only.supervised_count} if only.supervised_count else {})
    n = len(only)
    if a is not None:
        change = Change(0, n, 0, 0, ("examples", "only_a"), names[0], trained, {})
    else:
        change = Change(0, 0, 0, n, ("examples", "only_b"), names[0], {}, trained)
    return ExamplePair(a, b, (), (change,))


def _told_by(
    a: Example, places: Sequence[str], b: Example, segments: Sequence[Segment]
) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Say of each token of B what A says of the one with the same text, or where that begins.

    Returns:
        What they are, and the messages that wrote them, -1 where A does not have the text.
    """
    told, owners = [UNKNOWN] * len(b), np.full(len(b), -1, np.int32)
    for segment in segments:
        if segment.kind == "text" or segment.a_start == segment.a_end:
            continue
        begins = a.offsets[segment.a_start : segment.a_end, 0] - a.offsets[segment.a_start, 0]
        for token in range(segment.b_start, segment.b_end):
            twin = token - segment.b_start
            if segment.kind == "tokens":
                at = int(b.offsets[token, 0] - b.offsets[segment.b_start, 0])
                twin = int(np.searchsorted(begins, at, side="right")) - 1
            told[token] = places[segment.a_start + twin]
            owners[token] = a.message_index[segment.a_start + twin]
    return told, owners


def _changes_of_same(
    a: Example, b: Example, segment: Segment, ours: Sequence[str], theirs: Sequence[str]
) -> Iterator[Change]:
    """Yield the runs of the same tokens that count differently."""
    mine = a.loss_weights[segment.a_start : segment.a_end]
    other = b.loss_weights[segment.b_start : segment.b_end]
    differing = np.flatnonzero(mine != other).tolist()
    shift = segment.b_start - segment.a_start

    def likeness(numbered: tuple[int, int]) -> tuple[int, Kind, str]:
        order, token = numbered
        kind: Kind = "only_a" if not other[token] else "only_b" if not mine[token] else "weight"
        is_told_by_b = kind == "only_b"
        place = theirs[segment.b_start + token] if is_told_by_b else ours[segment.a_start + token]
        return token - order, kind, place

    for (_, kind, place), run in groupby(enumerate(differing), key=likeness):
        tokens = [token for _, token in run]
        start, count = segment.a_start + tokens[0], len(tokens)
        yield Change(
            start,
            start + count,
            start + shift,
            start + shift + count,
            (kind,),
            place,
            {place: count} if kind == "only_a" else {},
            {place: count} if kind == "only_b" else {},
            count if kind == "weight" else 0,
        )


def _change_of_other(
    a: Example, b: Example, segment: Segment, ours: Sequence[str], theirs: Sequence[str]
) -> Change:
    """Return the change of tokens that are not the same, with what they count, by characters."""
    mine, other = range(segment.a_start, segment.a_end), range(segment.b_start, segment.b_end)
    if segment.kind == "text":
        lost = [token for token in mine if a.loss_weights[token]]
        added = [token for token in other if b.loss_weights[token]]
        reweighted = 0
    else:
        of_a, of_b = _by_character(a, mine), _by_character(b, other)
        lost = [t for t in mine if a.loss_weights[t] and _any(of_b == 0, a, t, mine.start)]
        added = [t for t in other if b.loss_weights[t] and _any(of_a == 0, b, t, other.start)]
        differs = (of_a != 0) & (of_b != 0) & (of_a != of_b)
        reweighted = sum(_any(differs, b, token, other.start) for token in other)
    kinds: list[Kind] = ["text" if segment.kind == "text" else "ids"]
    kinds += ["only_a"] if lost else []
    kinds += ["only_b"] if added else []
    kinds += ["weight"] if reweighted else []
    first = [*(ours[t] for t in lost), *(theirs[t] for t in (*added, *other))]
    place = first[0] if first else ours[mine.start]
    return Change(
        mine.start,
        mine.stop,
        other.start,
        other.stop,
        tuple(kinds),
        place,
        Counter(_of_segment(ours[token], segment) for token in lost),
        Counter(_of_segment(theirs[token], segment) for token in added),
        reweighted,
    )


def _of_segment(place: str, segment: Segment) -> str:
    """Say of what a token is that it is in text that the other side does not have, if it is."""
    return place if segment.kind != "text" or place == UNKNOWN else place + ELSEWHERE


def _by_character(example: Example, tokens: range) -> npt.NDArray[np.float32]:
    """Return the weight of each character that some tokens stand for; 0 where none does."""
    if not tokens:
        return np.zeros(0, np.float32)
    spans = example.offsets[tokens.start : tokens.stop]
    base = int(spans[0, 0])
    weights = np.zeros(int(spans[:, 1].max()) - base, np.float32)
    for token, (start, end) in zip(tokens, spans.tolist(), strict=True):
        weights[start - base : end - base] = example.loss_weights[token]
    return weights


def _any(of_characters: npt.NDArray[np.bool_], example: Example, token: int, first: int) -> bool:
    """Return whether something holds for a character of a token; of none, for all there are."""
    base = int(example.offsets[first, 0])
    start, end = (int(at) - base for at in example.offsets[token])
    return bool(of_characters[start:end].any() if end > start else of_characters.all())


def _drawn_like(example: Example, others: Sequence[Example]) -> Example:
    """Return an example of ids with all that another one of the same ids tells of them."""
    for other in others:
        if np.array_equal(example.input_ids, other.input_ids):
            return replace(other, loss_weights=example.loss_weights, findings=(), ignorable=None)
    return example


def _are_same(a: Sequence[Example], b: Sequence[Example]) -> bool:
    return len(a) == len(b) and all(
        mine.text == other.text
        and np.array_equal(mine.input_ids, other.input_ids)
        and np.array_equal(mine.loss_weights, other.loss_weights)
        for mine, other in zip(a, b, strict=True)
    )


def _messages_of(raw: RawRow, layout: Layout) -> tuple[Mapping[str, Any], ...]:
    """Return the messages of a row, none of one that holds text or cannot be read."""
    try:
        return tuple(to_normal(raw.parse(), layout).get("messages") or ())
    except LossmaskError:
        return ()


def _told(rejection: Rejection) -> str:
    where = "" if rejection.message_index is None else f"message {rejection.message_index}: "
    return where + rejection.detail


def _plus(a: tuple[int, int], b: Sequence[int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]
