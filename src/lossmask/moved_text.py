"""Two renderings that differ in one string -> which characters moved, and their places in it.

In: code points of one string of a conversation and of the whole rendering, before and after the
string was replaced. Out: the offset in the string of every character that moved, verified against
all the replacements, or an error where something moved that is not the string's text. ``infer``
adds the characters between them that no replacement could move.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lossmask.replacements import SPACE, TAG, grades
from lossmask.traced_text import COARSE, LITERAL, Origins

Codes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_SPELLINGS: tuple[Callable[[str], str], ...] = (  # how renderers write one character
    lambda character: character,
    lambda character: json.dumps(character, ensure_ascii=False)[1:-1],
    lambda character: json.dumps(character)[1:-1],
    lambda character: repr(character)[1:-1],
    html.escape,
)
UNKNOWN = -1
_CODE_BITS = 21  # of a Unicode code point


class StructureChangedError(Exception):
    """The renderer wrote something else, rather than the same text elsewhere."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Code points of a leaf (m,) and of the whole text (n,), as they are or perturbed."""

    leaf: Codes
    text: Codes


@dataclass(frozen=True, slots=True)
class Seen:
    """What moved with one leaf of m characters: arrays (n,) and ``replaced`` (m,)."""

    moved: Flags
    offsets: Codes
    """Offset in the leaf, COARSE where it cannot be told, or -1 where nothing moved."""
    replaced: Flags


def located(base: Pair, first: Pair, second: Pair) -> Seen:
    """Tell which character of the leaf stands behind each character that moved.

    Raises:
        StructureChangedError: Something moved that is not the leaf's text.
    """
    moved_first = base.text != first.text
    moved = base.text != second.text
    if np.any(moved_first & (~moved | (first.text == second.text))):
        raise StructureChangedError("with another text there other text changes too")
    is_replaced = base.leaf != second.leaf
    in_text = coded(base.text, first.text, second.text)
    in_leaf = coded(base.leaf, first.leaf, second.leaf)
    nowhere = np.full(len(moved), UNKNOWN, np.int64)
    offsets = matched(nowhere, moved, in_text, is_replaced, in_leaf)
    coarse = moved & (offsets == COARSE)
    if np.any(coarse & ~moved_first):
        raise StructureChangedError("with another text there other text changes too")
    if np.any(
        ~np.isin(in_text[coarse], in_leaf)
        & np.isin(
            coded(first.text, second.text)[coarse],
            coded(first.leaf, second.leaf)[is_replaced],
        )
    ):
        raise StructureChangedError("the renderer writes other characters in place of its own")
    return Seen(moved, offsets, is_replaced)


def matched(
    known: Codes, moved: Flags, in_text: Codes, is_replaced: Flags, in_leaf: Codes
) -> Codes:
    """Find the offset of each moved character by what it changed into, else by its neighbours.

    Args:
        known: Offsets known before (n,).
        moved: The characters to find (n,).
        in_text: One number per character of the text for it and what it changed into (n,).
        is_replaced: The characters of the leaf that come into question (m,).
        in_leaf: As ``in_text``, for the leaf (m,).
    """
    offsets: Codes = known.copy()
    candidates = np.flatnonzero(is_replaced)
    candidates = candidates[np.argsort(in_leaf[candidates], kind="stable")]
    left = np.searchsorted(in_leaf[candidates], in_text[moved], "left")
    count = np.searchsorted(in_leaf[candidates], in_text[moved], "right") - left
    only = np.append(candidates, UNKNOWN)[left]
    offsets[moved] = np.where(count == 1, only, COARSE)
    if np.any(count > 1):
        ambiguous = np.flatnonzero(moved)[count > 1]
        before, after = (guess[ambiguous] for guess in _counted_on(offsets))
        before, after = (
            np.where(_spells(guess, in_leaf, in_text[ambiguous]), guess, UNKNOWN)
            for guess in (before, after)
        )
        agreed = np.where(before == UNKNOWN, after, before)
        certain: Flags = (agreed != UNKNOWN) & ((after == UNKNOWN) | (after == agreed))
        offsets[ambiguous[certain]] = agreed[certain]
    return offsets


def _spells(offsets: Codes, in_leaf: Codes, expected: Codes) -> Flags:
    inside = (offsets >= 0) & (offsets < len(in_leaf))
    found: Flags = inside & (in_leaf[np.where(inside, offsets, 0)] == expected)
    return found


def _counted_on(offsets: Codes) -> tuple[Codes, Codes]:
    """Count on from the nearest known offset to the left and to the right; negative without one."""
    place = np.arange(len(offsets))
    is_known = (offsets >= 0) & (offsets != COARSE)
    left = np.maximum.accumulate(np.where(is_known, place, -1))
    right = np.minimum.accumulate(np.where(is_known, place, len(place))[::-1])[::-1]
    padded = np.append(offsets, UNKNOWN)
    before = np.where(left >= 0, padded[left] + place - left, UNKNOWN)
    after = np.where(right < len(place), padded[right] + place - right, UNKNOWN)
    return before, after


def runs_at_tags(grade: npt.NDArray[np.int8], replaced: Flags) -> tuple[Flags, Codes]:
    r"""Tell which unreplaced characters lie in a run that holds a tag or ends the leaf.

    What a template strips, or writes itself where a message did too, lies there:
    ``\n</think>\n\n``.

    Args:
        grade: As ``grades`` of the leaf, (m,).
        replaced: The characters that are replaced, (m,).

    Returns:
        The flags (m,), and the number of replaced characters before each one (m,).
    """
    run = np.cumsum(replaced, dtype=np.int64)
    holds_tag = np.zeros(run[-1] + 1, bool)
    holds_tag[run[grade == TAG]] = True
    holds_tag[[0, -1]] = True
    return holds_tag[run] & ~replaced, run


def infer(origins: Origins, text: str, number: int, leaf_text: str, replaced: Flags) -> None:
    """Attribute unmoved characters to leaf ``number``, in ``origins`` (n,) itself.

    Args:
        origins: Origins of the characters that moved; ``LITERAL`` everywhere else.
        text: The rendering, n characters.
        number: The leaf.
        leaf_text: Its m characters.
        replaced: Those that would have moved, (m,).
    """
    grade = grades(leaf_text)
    at_tag, _ = runs_at_tags(grade, replaced)
    doubtful = at_tag & ((grade == SPACE) | (grade == TAG))
    inference = _Inference(origins, text, number, leaf_text, replaced, doubtful)
    inference.fill_equal_gaps()
    inference.fill_escaped_gaps()
    inference.extend_ends()


@dataclass(frozen=True, slots=True)
class _Inference:
    """Attributes unmoved characters to one leaf, in ``origins`` itself."""

    origins: Origins
    text: str
    number: int
    leaf_text: str
    replaced: Flags
    doubtful: Flags
    """Tags, and the white space around them and at the ends, that did not move (m,)."""

    def fill_escaped_gaps(self) -> None:
        """Fill gaps of another width that spell, escaped, what lies between their ends."""
        at, offset = self._exact()
        for gap in np.flatnonzero((np.diff(at) > 1) & (np.diff(offset) > 1)).tolist():
            self._fill_escaped_gap(at[gap : gap + 2].tolist(), offset[gap : gap + 2].tolist())

    def extend_ends(self) -> None:
        """Go on from the outermost characters as long as the text spells the leaf."""
        at, offset = self._exact()
        if not at.size:
            return
        apart = np.diff(at) > 1
        for end in np.flatnonzero(np.append(apart, True)).tolist():
            self._extend(int(at[end]), int(offset[end]), 1)
        for start in np.flatnonzero(np.append(True, apart)).tolist():
            self._extend(int(at[start]), int(offset[start]), -1)

    def _exact(self) -> tuple[Codes, Codes]:
        """Return the positions of the leaf's characters and their offsets."""
        offsets = self._offsets()
        at = np.flatnonzero(offsets != UNKNOWN)
        return at, offsets[at]

    def _offsets(self) -> Codes:
        offset = self.origins & COARSE
        own = (self.origins != LITERAL) & (self.origins >> 32 == self.number) & (offset != COARSE)
        return np.where(own, offset, UNKNOWN)

    def fill_equal_gaps(self) -> None:
        """Fill what stands at the right distance from both neighbours and spells the same."""
        before, after = _counted_on(self._offsets())
        leaf = np.where(self.replaced | self.doubtful, UNKNOWN, codes(self.leaf_text))
        fits = (self.origins == LITERAL) & (before == after)
        fits &= _spells(before, leaf, codes(self.text))
        self.origins[fits] = (self.number << 32) | before[fits]

    def _fill_escaped_gap(self, at: list[int], offset: list[int]) -> None:
        inside = self.origins[at[0] + 1 : at[1]]
        was_moved = inside != LITERAL
        if np.any(self.replaced[offset[0] + 1 : offset[1]]) and not was_moved.any():
            return
        if np.any(was_moved & (inside >> 32 != self.number)):
            return
        if self.doubtful[offset[0] + 1 : offset[1]].any():
            return
        shown = self.text[at[0] + 1 : at[1]]
        between = self.leaf_text[offset[0] + 1 : offset[1]]
        for spelling in _SPELLINGS:
            pieces = [spelling(character) for character in between]
            if "".join(pieces) == shown:
                filled = np.arange(offset[0] + 1, offset[1]).repeat([len(p) for p in pieces])
                inside[:] = (self.number << 32) | filled
                return

    def _extend(self, at: int, offset: int, step: int) -> None:
        """Go on from an outermost character as long as the text spells the leaf unreplaced."""
        stop = len(self.leaf_text) if step > 0 else -1
        walks = [
            self._walk(at + step, range(offset + step, stop, step), step, spelling)
            for spelling in _SPELLINGS
        ]
        for start, end, behind in max(walks, key=len):
            self.origins[start:end] = (self.number << 32) | behind

    def _walk(
        self, at: int, offsets: range, step: int, spelling: Callable[[str], str]
    ) -> list[tuple[int, int, int]]:
        """Return ``(start, end, offset)`` for each next character that stands there, spelled so."""
        found = []
        for offset in offsets:
            piece = spelling(self.leaf_text[offset])
            start = at if step > 0 else at + 1 - len(piece)
            end = start + len(piece)
            if start < 0 or self.text[start:end] != piece or self.doubtful[offset]:
                break
            there = self.origins[start:end]
            moved = there != LITERAL
            own = (there >> 32 == self.number) & (there & COARSE == COARSE)
            if np.any(moved & ~own) or bool(moved.any()) != bool(self.replaced[offset]):
                break
            found.append((start, end, offset))
            at = end if step > 0 else start - 1
        while found and self.leaf_text[found[-1][2]].isspace():
            found.pop()
        return found


def codes(text: str) -> Codes:
    """Return the code points of a text, int64 array (n,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)


def coded(*columns: Codes) -> Codes:
    """Pack two or three code points into one number each."""
    packed = columns[0]
    for column in columns[1:]:
        packed = (packed << _CODE_BITS) | column
    return packed
