r"""Two token sequences -> which tokens of one stand for which of the other.

In: two examples, of the same or of different text, by the same or by different tokenizers. Out:
segments that cover all tokens of both, in order::

    a   <|im_start|> assistant \n       Hel lo <|im_end|>
    b   <|im_start|> assistant \n <think>  Hello <|im_end|>
        -------same----------- --text-- tokens --same--

Where both have the same text, segments end where a token ends in both: no search, nothing to get
wrong. Where texts differ, the texts of the tokens are aligned by ``difflib``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal

import numpy as np
import numpy.typing as npt

from lossmask.example import Example
from lossmask.pieces import pieces_of

__all__ = ["Segment", "align", "pair_examples", "text_of"]

SegmentKind = Literal["same", "tokens", "text"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of two examples that stand for each other; intervals are half-open.

    Attributes:
        kind: ``same``: the same ids and text. ``tokens``: the same text, other ids. ``text``: other
            text, or text that one of them does not have.
    """

    a_start: int
    a_end: int
    b_start: int
    b_end: int
    kind: SegmentKind


def align(a: Example, b: Example) -> list[Segment]:
    """Align the tokens of two examples.

    Returns:
        Segments in order; every token of either lies in exactly one, and two segments of kind
        ``same`` are never neighbours.

    Example:
        >>> from lossmask import Encoder
        >>> from lossmask.embedded import DEMO_MODEL
        >>> encoder = Encoder.from_pretrained(DEMO_MODEL)
        >>> a, b = (encoder.encode([{"role": "user", "content": "Hi"},
        ...     {"role": "assistant", "content": text}])[0] for text in ("Yes", "No"))
        >>> [segment.kind for segment in align(a, b)]
        ['same', 'text', 'same']
    """
    if a.text == b.text:
        if np.array_equal(a.input_ids, b.input_ids):
            return [Segment(0, len(a), 0, len(b), "same")] if len(a) else []
        return _merged(_by_characters(a, b))
    return _merged(_by_texts(a, b))


def text_of(example: Example, start: int, end: int) -> str:
    """Return the text that tokens ``start`` to ``end`` stand for."""
    if start == end:
        return ""
    first = int(example.offsets[start, 0])
    return example.text[first : max(first, int(example.offsets[start:end, 1].max()))]


def pair_examples(
    a: Sequence[Example], b: Sequence[Example]
) -> list[tuple[int | None, int | None]]:
    """Say which examples of a row stand for each other, in order; None where there is none.

    Equally many are paired one by one. Otherwise the pairs, in order, are those with the most
    tokens in common at their beginnings and ends, of equals the first.
    """
    if len(a) == len(b):
        return [(number, number) for number in range(len(a))]
    alike = [[_alike(mine, other) for other in b] for mine in a]
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            best[i][j] = max(alike[i][j] + best[i + 1][j + 1], best[i + 1][j], best[i][j + 1])
    pairs: list[tuple[int | None, int | None]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        if alike[i][j] and best[i][j] == alike[i][j] + best[i + 1][j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    pairs += [(number, None) for number in range(i, len(a))]
    return pairs + [(None, number) for number in range(j, len(b))]


def _alike(a: Example, b: Example) -> int:
    """Count the tokens that two examples have in common at their beginnings and ends."""
    begin = _common(a.input_ids, b.input_ids)
    rest = min(len(a), len(b)) - begin
    return begin + min(rest, _common(a.input_ids[::-1], b.input_ids[::-1]))


def _common(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> int:
    n = min(len(a), len(b))
    differing = np.flatnonzero(a[:n] != b[:n])
    return int(differing[0]) if len(differing) else n


def _by_characters(a: Example, b: Example) -> Iterator[Segment]:
    """Cut two tokenizations of one text wherever both have a border of tokens."""
    ours, theirs = pieces_of(a), pieces_of(b)
    i = j = 0
    while i < len(ours) and j < len(theirs):
        first, second = ours[i], theirs[j]
        mine, other = first.start + len(first.text), second.start + len(second.text)
        while mine != other:
            if mine < other:
                if i + 1 == len(ours):
                    break
                i += 1
                mine = ours[i].start + len(ours[i].text)
            else:
                if j + 1 == len(theirs):
                    break
                j += 1
                other = theirs[j].start + len(theirs[j].text)
        ends = ours[i].token_end, theirs[j].token_end
        yield _segment(a, b, first.token_start, ends[0], second.token_start, ends[1])
        i, j = i + 1, j + 1
    if i < len(ours):
        yield _segment(a, b, ours[i].token_start, len(a), len(b), len(b))
    if j < len(theirs):
        yield _segment(a, b, len(a), len(a), theirs[j].token_start, len(b))


def _by_texts(a: Example, b: Example) -> Iterator[Segment]:
    """Align tokens by their texts; those at the beginning and the end are not searched for."""
    ours, theirs = _texts(a), _texts(b)
    most = min(len(ours), len(theirs))
    begin = next((k for k in range(most) if ours[k] != theirs[k]), most)
    rest = most - begin
    end = next((k for k in range(rest) if ours[-1 - k] != theirs[-1 - k]), rest)
    yield from _of_alike(a, b, 0, 0, begin)
    matcher = SequenceMatcher(
        None, ours[begin : len(ours) - end], theirs[begin : len(theirs) - end], autojunk=False
    )
    for tag, *bounds in matcher.get_opcodes():
        a_start, a_end, b_start, b_end = (begin + at for at in bounds)
        if tag == "equal":
            yield from _of_alike(a, b, a_start, b_start, a_end - a_start)
        else:
            yield _segment(a, b, a_start, a_end, b_start, b_end)
    yield from _of_alike(a, b, len(ours) - end, len(theirs) - end, end)


def _texts(example: Example) -> list[str]:
    text = example.text
    return [text[start:end] for start, end in example.offsets.tolist()]


def _of_alike(a: Example, b: Example, a_start: int, b_start: int, count: int) -> Iterator[Segment]:
    """Yield the segments of tokens whose texts are the same, one by one: ids may differ."""
    ids = zip(
        a.input_ids[a_start : a_start + count].tolist(),
        b.input_ids[b_start : b_start + count].tolist(),
        strict=True,
    )
    at = 0
    for is_same, run in groupby(mine == other for mine, other in ids):
        size = sum(1 for _ in run)
        bounds = a_start + at, a_start + at + size, b_start + at, b_start + at + size
        yield Segment(*bounds, "same" if is_same else "tokens")
        at += size


def _segment(a: Example, b: Example, a_start: int, a_end: int, b_start: int, b_end: int) -> Segment:
    kind: SegmentKind = "text"
    if text_of(a, a_start, a_end) == text_of(b, b_start, b_end):
        is_same = np.array_equal(a.input_ids[a_start:a_end], b.input_ids[b_start:b_end])
        kind = "same" if is_same else "tokens"
    return Segment(a_start, a_end, b_start, b_end, kind)


def _merged(segments: Iterator[Segment]) -> list[Segment]:
    """Join neighbours of kind ``same``."""
    merged: list[Segment] = []
    for each in segments:
        if merged and each.kind == "same" and merged[-1].kind == "same":
            last = merged.pop()
            each = Segment(last.a_start, each.a_end, last.b_start, each.b_end, "same")
        merged.append(each)
    return merged
