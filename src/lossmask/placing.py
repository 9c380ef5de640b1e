"""Spelled tokens + the text they have to spell -> the place of each token.

In: what each token spells, and a :class:`NormalisedText`. Out: a character interval per token, or
the first token that does not fit. The tokens must spell the text in order and completely; besides,
only the three things that :class:`Piece` names are allowed.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
import numpy.typing as npt

from lossmask.normalised_text import NormalisedText

Offsets = npt.NDArray[np.int32]

_IDEOGRAPHS = (
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF)),
    *((0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F)),
)  # each is a word of its own to BERT


@dataclass(frozen=True, slots=True)
class Piece:
    """One token as it stands in a text.

    Attributes:
        spelled: The bytes it spells. At the start of the text and behind an added token, the first
            may be a dummy space that no text has.
        is_added: It is matched in the text before anything else is tokenized.
        eats_before: It swallows the white space before it.
        eats_after: It swallows the white space behind it.
        is_unknown: It may stand for text that it does not spell.
    """

    spelled: bytes
    is_added: bool = False
    eats_before: bool = False
    eats_after: bool = False
    is_unknown: bool = False

    @property
    def is_odd(self) -> bool:
        """Whether it stands for other characters than it spells."""
        return self.eats_before or self.eats_after or self.is_unknown


@dataclass(frozen=True, slots=True)
class Misfit:
    """Where tokens and text come apart.

    Attributes:
        token: Index of the first token that does not fit; the number of tokens if text is left.
        character: Where in the text it should have begun.
    """

    token: int
    character: int


def place(
    pieces: Sequence[Piece],
    seen: NormalisedText,
    *,
    begins_text: bool,
    unknown: Mapping[int, tuple[int, int]] | None,
) -> Offsets | Misfit:
    """Return the characters of each token.

    Args:
        pieces: n tokens.
        seen: What they have to spell.
        begins_text: Whether a dummy space may stand before the first character.
        unknown: By token: the characters that an unknown one stands for; None: a word each.

    Returns:
        int32 (n, 2), half-open, starts ascending; or the first token that does not fit.
    """
    spelled = [piece.spelled for piece in pieces]
    if b"".join(spelled) == seen.data:
        bounds = np.fromiter(accumulate(map(len, spelled), initial=0), np.int64, len(spelled) + 1)
        return seen.intervals(bounds[:-1], bounds[1:])
    between = [k for k, piece in enumerate(pieces) if piece.is_added or piece.is_unknown]
    return _Placement(pieces, seen, unknown, spelled, [*between, len(pieces)]).place(begins_text)


@dataclass(frozen=True, slots=True)
class _Placement:
    """Places one stretch of plain tokens after the other, with an added or unknown one between."""

    pieces: Sequence[Piece]
    seen: NormalisedText
    unknown: Mapping[int, tuple[int, int]] | None
    spelled: Sequence[bytes]
    between: Sequence[int]
    """The added and the unknown tokens, and the number of tokens."""

    def place(self, begins_text: bool) -> Offsets | Misfit:
        starts: list[int] = []
        ends: list[int] = []
        at, first, may_be_dummy = 0, 0, begins_text
        while True:
            stop = self._stop(first)
            dummy = self._dummy(first, stop, at, may_be_dummy)
            if dummy is None:
                return self._misfit(first, stop, at)
            if first < stop:
                widths = map(len, self.spelled[first:stop])
                borders = list(accumulate(chain([next(widths) - dummy], widths), initial=at))
                starts += borders[:-1]
                ends += borders[1:]
                at = borders[-1]
            if stop == len(self.pieces):
                return self.seen.intervals(np.array(starts, np.int64), np.array(ends, np.int64))
            starts.append(at)
            at = self._choose_end(stop, at)
            ends.append(at)
            first, may_be_dummy = stop + 1, True

    def _stop(self, first: int) -> int:
        """Return the first added or unknown token from ``first`` on, or the number of tokens."""
        return self.between[bisect_left(self.between, first)]

    def _dummy(self, first: int, stop: int, at: int, may_be_dummy: bool) -> int | None:
        """Return how many bytes of a stretch of tokens are a dummy space, None if it misfits."""
        joined = b"".join(self.spelled[first:stop])
        data = self.seen.data
        if data.startswith(joined, at) and self._fits(stop, at + len(joined)):
            return 0
        if not may_be_dummy or not joined.startswith(b" "):
            return None
        follows = data.startswith(joined[1:], at) and self._fits(stop, at + len(joined) - 1)
        return 1 if follows else None

    def _fits(self, k: int, at: int) -> bool:
        """Return whether token ``k``, added or unknown, or else the end of the text is there."""
        if k == len(self.pieces):
            return at == len(self.seen.data)
        return bool(self._ends(k, at))

    def _choose_end(self, k: int, at: int) -> int:
        """Return the first end of token ``k`` that what follows it fits to."""
        ends = self._ends(k, at)
        if len(ends) == 1:
            return ends[0]
        stop = self._stop(k + 1)
        fitting = (end for end in ends if self._dummy(k + 1, stop, end, True) is not None)
        return next(fitting, ends[0])

    def _ends(self, k: int, at: int) -> list[int]:
        """Return where added or unknown token ``k`` may end if it begins at byte ``at``."""
        piece, seen = self.pieces[k], self.seen
        start = seen.behind_space(at) if piece.eats_before else at
        if seen.data.startswith(piece.spelled, start):
            end = start + len(piece.spelled)
            return [seen.behind_space(end) if piece.eats_after else end]
        if not piece.is_unknown or at == len(seen.data):
            return []
        begins = seen.character(at)
        first, last = (begins, end_of_word(seen.text, begins))
        if self.unknown is not None:
            first, last = self.unknown.get(k, (begins, begins))
        if seen.byte(first) != at and not begins <= first < int(seen.ends[at]):
            return []
        return seen.ends_of(at, last)

    def _misfit(self, first: int, stop: int, at: int) -> Misfit:
        for k in range(first, stop):
            spelled = self.pieces[k].spelled
            if not self.seen.data.startswith(spelled, at):
                return Misfit(k, self.seen.character(at))
            at += len(spelled)
        return Misfit(stop, self.seen.character(at))


def end_of_word(text: str, start: int) -> int:
    r"""Return where the word at ``start`` ends in BERT's sense, for an unknown token.

    Punctuation and ideographs are words of their own; any other ends before one, or before white
    space. Control characters, ``\v`` and U+0085 among them, are dropped: they end no word.
    """
    end = start + 1
    if not _stands_alone(text[start]):
        while end < len(text) and not (_stands_alone(text[end]) or _is_space(text[end])):
            end += 1
    return end


def _is_space(character: str) -> bool:
    return character in " \t\n\r" or unicodedata.category(character)[0] == "Z"


def _stands_alone(character: str) -> bool:
    number = ord(character)
    if number < 128:
        return 32 < number < 127 and not character.isalnum()
    return unicodedata.category(character)[0] == "P" or any(
        first <= number <= last for first, last in _IDEOGRAPHS
    )
