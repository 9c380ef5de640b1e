"""A :class:`Diff` -> sentences and plain data: what one side does that the other does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lossmask.diffing import KINDS, Change, Diff, ExamplePair, RowDiff
from lossmask.token_alignment import text_of
from lossmask.token_places import (
    ANSWER,
    ANSWER_TEMPLATE,
    ELSEWHERE,
    FURTHER,
    STOP,
    TEMPLATE,
    UNKNOWN,
)

__all__ = ["Sides", "counted", "diff_mapping", "sentences"]

_TOKENS = {
    TEMPLATE: "{count} that no model generates: text of the template, such as headers",
    ANSWER: "{count} of answers",
    ANSWER_TEMPLATE: "{count} that the template writes inside of answers",
    "assistant message": "{count} of assistant messages outside of completions",
    UNKNOWN: "{count} of text that the other side does not have",
}
_WHY = ": those turns do not teach when to stop"


@dataclass(frozen=True, slots=True)
class Sides:
    """What A and B are called.

    Attributes:
        a: Short name of A, as sentences use it.
        b: The same of B.
        about_a: What A is, in a line.
        about_b: The same of B.
    """

    a: str
    b: str
    about_a: str
    about_b: str


def sentences(diff: Diff, sides: Sides) -> list[str]:
    """Say what differs, what matters most first; nothing if nothing does.

    Example:
        >>> from collections import Counter
        >>> found = Diff(rows=2, differing=1, same=1, tokens=(9, 9), supervised=(4, 3))
        >>> found.lost, found.lost_rows = Counter({"stop token": 1}), Counter({"stop token": 1})
        >>> sentences(found, Sides("lossmask", "TRL", "", ""))
        ['TRL does not train 1 stop token, in 1 row: those turns do not teach when to stop']
    """
    return [
        *_of_rejected(diff, sides),
        *_of_whole(diff, sides),
        *_of_tokens(diff, sides),
        *_of_texts(diff, sides),
    ]


def _of_rejected(diff: Diff, sides: Sides) -> Iterator[str]:
    for name, rejected in ((sides.a, diff.rejected_a), (sides.b, diff.rejected_b)):
        for reason, tally in sorted(rejected.items(), key=lambda item: -item[1].rows):
            yield f"{name} rejects {_of(tally.rows, diff.rows)} ({reason})"


def _of_whole(diff: Diff, sides: Sides) -> Iterator[str]:
    for name, tokens, supervised, other in zip(
        (sides.a, sides.b), diff.tokens, diff.supervised, reversed(diff.supervised), strict=True
    ):
        if tokens and other and not supervised:
            yield f"{name} trains nothing: not one of {counted(tokens, 'token')} is in its loss"
        if tokens and other != supervised == tokens:
            yield f"{name} trains every one of its {counted(tokens, 'token')}"


def _of_tokens(diff: Diff, sides: Sides) -> Iterator[str]:
    for counts, rows, mine, other in (
        (diff.added, diff.added_rows, sides.b, sides.a),
        (diff.lost, diff.lost_rows, sides.a, sides.b),
    ):
        for place, count in counts.most_common():
            told = _tokens(place.removesuffix(ELSEWHERE), count)
            if place == FURTHER:
                says = f"{mine} trains {told} in further examples, which {other} does not make"
            elif place.endswith(ELSEWHERE):
                says = f"{mine} trains {told}, in text that {other} does not have"
            elif counts is diff.lost:
                says = f"{other} does not train {told}"
            else:
                says = f"{mine} trains {told}"
            misses_stops = counts is diff.lost and place == STOP
            yield f"{says}{_in(rows[place], diff)}{_WHY if misses_stops else ''}"


def _of_texts(diff: Diff, sides: Sides) -> Iterator[str]:
    rows, tokens = diff.rows_by_kind, diff.tokens_by_kind
    if rows["weight"]:
        yield (
            f"{counted(tokens['weight'], 'token')}{_in(rows['weight'], diff)}: in the loss of "
            "both, with other weights"
        )
    if rows["text"]:
        yield f"the text differs in {_of(rows['text'], diff.rows)}"
    if rows["ids"]:
        yield f"the same text is other tokens in {_of(rows['ids'], diff.rows)}"
    if rows["examples"]:
        yield (
            f"{sides.a} and {sides.b} make different numbers of examples of "
            f"{_of(rows['examples'], diff.rows)}"
        )


def _in(rows: int, diff: Diff) -> str:
    return f", in {counted(rows, 'row')}" if diff.rows > 1 else ""


def _tokens(place: str, count: int) -> str:
    if place == STOP:
        return counted(count, STOP)
    said = "{count}" if place == FURTHER else _TOKENS.get(place, f"{{count}} of {place}s")
    return said.format(count=counted(count, "token"))


def _of(rows: int, whole: int) -> str:
    if rows == whole:
        return f"all {counted(rows, 'row')}" if rows > 1 else "the row"
    return f"{rows:,} of {counted(whole, 'row')}"


def counted(count: int, what: str) -> str:
    """Return a number of things.

    Example:
        >>> counted(1, "token"), counted(2000, "token")
        ('1 token', '2,000 tokens')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def diff_mapping(diff: Diff, sides: Sides) -> dict[str, Any]:
    """Return everything as plain data, for JSON."""
    return {
        "a": {"name": sides.a, "about": sides.about_a},
        "b": {"name": sides.b, "about": sides.about_b},
        "rows": diff.rows,
        "same": diff.same,
        "differing": diff.differing,
        "only_a": diff.only_a,
        "only_b": diff.only_b,
        "neither": diff.neither,
        "tokens": list(diff.tokens),
        "supervised_tokens": list(diff.supervised),
        "kinds": {
            kind: {"rows": diff.rows_by_kind[kind], "tokens": diff.tokens_by_kind.get(kind, 0)}
            for kind in KINDS
            if diff.rows_by_kind[kind]
        },
        "only_in_loss_of_a": _counts(diff.lost, diff.lost_rows),
        "only_in_loss_of_b": _counts(diff.added, diff.added_rows),
        "rejected_a": {reason: asdict(tally) for reason, tally in diff.rejected_a.items()},
        "rejected_b": {reason: asdict(tally) for reason, tally in diff.rejected_b.items()},
        "summary": sentences(diff, sides),
        "shown": [_row(found) for found in diff.shown],
    }


def _counts(tokens: Mapping[str, int], rows: Mapping[str, int]) -> dict[str, Any]:
    return {place: {"tokens": tokens[place], "rows": rows[place]} for place in tokens}


def _row(found: RowDiff) -> dict[str, Any]:
    return {
        "row": found.row,
        "place": found.place,
        "kinds": list(found.kinds),
        "examples": [
            {
                "tokens": [None if each is None else len(each) for each in (pair.a, pair.b)],
                "changes": [change_mapping(pair, change) for change in pair.changes],
            }
            for pair in found.pairs
        ],
    }


def change_mapping(pair: ExamplePair, change: Change) -> dict[str, Any]:
    """Return a change as plain data, with the texts of its tokens."""
    return {
        "kinds": list(change.kinds),
        "what": change.place,
        "tokens_a": [change.a_start, change.a_end],
        "tokens_b": [change.b_start, change.b_end],
        "text_a": "" if pair.a is None else text_of(pair.a, change.a_start, change.a_end),
        "text_b": "" if pair.b is None else text_of(pair.b, change.b_start, change.b_end),
        "weights_a": _weights(pair.a, change.a_start, change.a_end),
        "weights_b": _weights(pair.b, change.b_start, change.b_end),
    }


def _weights(example: Any, start: int, end: int) -> list[float]:
    """Return the distinct weights of tokens in their order, as the shortest numbers."""
    if example is None:
        return []
    return list(dict.fromkeys(float(str(each)) for each in example.loss_weights[start:end]))
