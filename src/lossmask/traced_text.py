"""Strings that remember where each of their characters came from.

In: the strings of a conversation, wrapped by :func:`TracedText`. Out: whatever a program made of
them, with one *origin* per character. A Jinja template is such a program; ``template_environment``
feeds it traced strings and reads the origins off the rendering.

An origin is one int64: ``leaf << 32 | offset`` for the character at ``offset`` of string ``leaf``,
``LITERAL`` (-1) for text that the program itself wrote, ``MIXED`` (-2) for characters that an
operation made of several sources at once and that can therefore not be told apart, ``OF_TOOLS``
(-3) for the text of tool schemas. Where an operation changes one source beyond recognition, the
result keeps the leaf and takes the offset ``COARSE``.

Origins are kept as *runs* ``(length, origin)``, since templates move whole strings: the characters
of a run stand for consecutive characters of one leaf, or all have the same origin that is no such
character::

    <user>Hi!<end>      ((6, LITERAL), (3, 7 << 32 | 0), (5, LITERAL))

A *mark* is a zero-width note at a position, such as "here message 3 begins". Marks survive the same
operations as characters do.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

Origins = npt.NDArray[np.int64]

Run = tuple[int, int]
"""Length, and the origin of the first character."""

LITERAL = -1
MIXED = -2
OF_TOOLS = -3
COARSE = (1 << 32) - 1
_LEAF_SHIFT = 32


@dataclass(frozen=True, slots=True)
class Mark:
    """A zero-width note: a message or a ``{% generation %}`` block starts or ends here."""

    kind: Literal["start", "end", "generation_start", "generation_end"]
    message_index: int


class TracedText(str):
    """A ``str`` with one origin per character and zero-width marks.

    Args:
        text: The characters.
        origins: int64 array (n,), one origin per character; None means all ``LITERAL``.
        marks: ``(position, mark)`` pairs, positions ascending in 0..n.

    Example:
        >>> word = leaf_text("hello", leaf=7)
        >>> shout = "<" + word[1:3].upper() + ">"
        >>> shout, [int(origin & 0xFFFFFFFF) for origin in origins_of(shout) if origin >= 0]
        ('<EL>', [1, 2])
    """

    __slots__ = ("_marks", "_runs")  # underscores hide them from sandboxed templates
    _runs: tuple[Run, ...]
    _marks: tuple[tuple[int, Mark], ...]

    def __new__(
        cls,
        text: str,
        origins: Origins | None = None,
        marks: tuple[tuple[int, Mark], ...] = (),
    ) -> TracedText:
        runs = runs_of(origins) if origins is not None else _constant(len(text), LITERAL)
        return cls._with_runs(text, runs, marks)

    @classmethod
    def _with_runs(
        cls, text: str, runs: tuple[Run, ...], marks: tuple[tuple[int, Mark], ...] = ()
    ) -> TracedText:
        traced = str.__new__(cls, text)
        traced._runs = runs
        traced._marks = marks
        return traced

    @property
    def _origins(self) -> Origins:
        return origins_of_runs(self._runs)

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[str]:
        for position in range(len(self)):
            yield self._cut(position, position + 1)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        text = str.__getitem__(self, key)
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                if 0 < len(self) == start:  # a mark at the end stays with the text before it
                    return type(self)("")
                return self._cut(start, max(start, stop))
            return type(self)(text, self._origins[key])
        at = operator.index(key) % len(self)
        return self._with_runs(text, _cut_runs(self._runs, at, at + 1))

    def __add__(self, other: str) -> str:
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> str:
        return TracedText(str.__mul__(self, count), np.tile(self._origins, max(0, int(count))))

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        return coarse(str.__mod__(self, values), (self, values))

    def __rmod__(self, template: str) -> str:
        return coarse(str.__mod__(template, self), (self,))

    def __format__(self, spec: str) -> str:
        return self if not spec else coarse(str.__format__(self, spec), (self,))

    def _cut(self, start: int, stop: int) -> TracedText:
        """Return ``self[start:stop]`` with its marks; one at ``stop`` goes to what follows."""
        last = len(self)
        marks = tuple(
            (position - start, mark)
            for position, mark in self._marks
            if start <= position < stop or position == stop == last
        )
        text = str.__getitem__(self, slice(start, stop))
        return self._with_runs(text, _cut_runs(self._runs, start, stop), marks)

    def _trimmed(self, start: int, stop: int) -> TracedText:
        """Return ``self[start:stop]``, marks of the trimmed ends moved to the borders."""
        if start == 0 and stop == len(self):
            return self
        width = stop - start
        marks = tuple((min(max(at - start, 0), width), mark) for at, mark in self._marks)
        text = str.__getitem__(self, slice(start, stop))
        return self._with_runs(text, _cut_runs(self._runs, start, stop), marks)

    def strip(self, chars: str | None = None, /) -> str:
        start = len(self) - len(str.lstrip(self, chars))
        return self._trimmed(start, max(start, len(str.rstrip(self, chars))))

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._trimmed(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._trimmed(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return self._trimmed(len(prefix) if self.startswith(prefix) else 0, len(self))

    def removesuffix(self, suffix: str, /) -> str:
        cut = len(suffix) if suffix and self.endswith(suffix) else 0
        return self._trimmed(0, len(self) - cut)

    def _pieces(self, plain: Iterable[str], *, backwards: bool = False) -> list[str]:
        """Locate consecutive, non-overlapping ``plain`` substrings and return them traced."""
        found: list[str] = []
        if backwards:
            end = len(self)
            for piece in reversed(list(plain)):
                start = str.rindex(self, piece, 0, end)
                found.append(self._cut(start, start + len(piece)))
                end = start
            return found[::-1]
        at = 0
        for piece in plain:
            at = str.index(self, piece, at)
            found.append(self._cut(at, at + len(piece)))
            at += len(piece)
        return found

    def _split_at(self, separator: str, spans: Iterable[int]) -> list[str]:
        pieces, start = [], 0
        for at in spans:
            pieces.append(self._cut(start, at))
            start = at + len(separator)
        return [*pieces, self._cut(start, len(self))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        if sep is None:
            return self._pieces(str.split(self, None, maxsplit))
        lengths = [len(piece) for piece in str.split(self, sep, maxsplit)]
        return self._split_at(sep, _separator_positions(lengths, len(sep)))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        if sep is None:
            return self._pieces(str.rsplit(self, None, maxsplit), backwards=True)
        lengths = [len(piece) for piece in str.rsplit(self, sep, maxsplit)]
        return self._split_at(sep, _separator_positions(lengths, len(sep)))

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines: list[str] = []
        start = 0
        for whole, bare in zip(str.splitlines(self, True), str.splitlines(self), strict=True):
            line = self._cut(start, start + len(whole))
            lines.append(line if keepends else line._trimmed(0, len(bare)))
            start += len(whole)
        return lines

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, _ = str.partition(self, sep)
        middle = len(before) + len(found)
        return (self[: len(before)], self[len(before) : middle], self[middle:])

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, _ = str.rpartition(self, sep)
        middle = len(before) + len(found)
        return (self[: len(before)], self[len(before) : middle], self[middle:])

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if not old:
            inserted = str.replace(self, old, new, count)
            return coarse(inserted, (self, new))
        parts: list[str] = []
        at = 0
        for piece in self.split(old, count):
            if parts:  # the marks of the text replaced, then what replaces it
                parts += [self._cut(at, at + len(old))._trimmed(0, 0), new]
                at += len(old)
            parts.append(piece)
            at += len(piece)
        return concat(parts)

    def join(self, items: Iterable[str], /) -> str:
        return join(self, items)

    def upper(self) -> str:
        return _per_character(self, str.upper)

    def lower(self) -> str:
        return _per_character(self, str.lower)

    def casefold(self) -> str:
        return _per_character(self, str.casefold)

    def swapcase(self) -> str:
        return _per_character(self, str.swapcase)

    def title(self) -> str:
        return _per_character(self, str.title)

    def capitalize(self) -> str:
        return _per_character(self, str.capitalize)

    def translate(self, table: Any, /) -> str:
        pieces = [str.translate(character, table) for character in str.__iter__(self)]
        return _spread(self, pieces)

    def center(self, width: SupportsIndex, fillchar: str = " ", /) -> str:
        return self._padded(str.center(self, width, fillchar))

    def ljust(self, width: SupportsIndex, fillchar: str = " ", /) -> str:
        return self._padded(str.ljust(self, width, fillchar))

    def rjust(self, width: SupportsIndex, fillchar: str = " ", /) -> str:
        return self._padded(str.rjust(self, width, fillchar))

    def _padded(self, padded: str) -> str:
        extra = len(padded) - len(self)
        left = next(n for n in range(extra + 1) if padded[n : n + len(self)] == self)
        return concat((padded[:left], self, padded[left + len(self) :]))

    def zfill(self, width: SupportsIndex, /) -> str:
        return coarse(str.zfill(self, width), (self,))

    def expandtabs(self, tabsize: SupportsIndex = 8) -> str:
        return coarse(str.expandtabs(self, tabsize), (self,))


_NEW: Callable[[type[TracedText], str], TracedText] = str.__new__


def leaf_text(text: str, leaf: int) -> TracedText:
    """Wrap one string of the input: character k gets the origin ``(leaf, k)``."""
    traced = _NEW(TracedText, text)
    traced._runs = ((len(text), leaf << _LEAF_SHIFT),) if text else ()
    traced._marks = ()
    return traced


def origins_of(text: str) -> Origins:
    """Return one origin per character, int64 array (n,); all ``LITERAL`` for a plain string."""
    return text._origins if isinstance(text, TracedText) else np.full(len(text), LITERAL, np.int64)


def runs_of_text(text: str) -> tuple[Run, ...]:
    """Return the runs of a string; one that is ``LITERAL`` for a plain string."""
    return text._runs if isinstance(text, TracedText) else _constant(len(text), LITERAL)


def origins_of_runs(runs: Iterable[Run]) -> Origins:
    """Return one origin per character of some runs, int64 array (n,)."""
    pairs = np.array(runs, np.int64).reshape(-1, 2)
    lengths, first = pairs[:, 0], pairs[:, 1]
    starts = np.cumsum(lengths) - lengths
    steps = (first >= 0) & (first & COARSE != COARSE)
    within = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    origins: Origins = np.repeat(first, lengths) + within * np.repeat(steps, lengths)
    return origins


def runs_of(origins: Origins) -> tuple[Run, ...]:
    """Return the runs of an array of origins.

    Example:
        >>> runs_of(np.array([-1, -1, 5, 6, 9]))
        ((2, -1), (2, 5), (1, 9))
    """
    if not len(origins):
        return ()
    steps = (origins >= 0) & (origins & COARSE != COARSE)
    begins = np.flatnonzero(origins[1:] != origins[:-1] + steps[:-1]) + 1
    starts = np.concatenate([[0], begins])
    lengths = np.diff(np.append(starts, len(origins)))
    return tuple(zip(lengths.tolist(), origins[starts].tolist(), strict=True))


def _constant(length: int, origin: int) -> tuple[Run, ...]:
    return ((length, origin),) if length else ()


def _is_place(origin: int) -> bool:
    """Return whether an origin names a character, so that the next one follows it."""
    return origin >= 0 and origin & COARSE != COARSE


def _cut_runs(runs: tuple[Run, ...], start: int, stop: int) -> tuple[Run, ...]:
    """Return the runs of ``text[start:stop]``."""
    kept: list[Run] = []
    at = 0
    for length, origin in runs:
        first, last = max(start - at, 0), min(stop - at, length)
        if first < last:
            kept.append((last - first, origin + first if _is_place(origin) else origin))
        at += length
        if at >= stop:
            break
    return tuple(kept)


def marks_of(text: str) -> tuple[tuple[int, Mark], ...]:
    """Return the ``(position, mark)`` pairs of a string, positions ascending."""
    return text._marks if isinstance(text, TracedText) else ()


def leaf_of(origins: Origins) -> npt.NDArray[np.int64]:
    """Return the leaf of each origin, shape as given; negative where there is none."""
    return np.where(origins >= 0, origins >> _LEAF_SHIFT, origins)


def mark_text(mark: Mark) -> TracedText:
    """Return an empty string that carries one mark."""
    return TracedText("", None, ((0, mark),))


def concat(parts: Iterable[str]) -> str:
    """Concatenate plain and traced strings, as ``"".join`` would.

    Returns:
        A plain ``str`` when no part is traced, else a :class:`TracedText`.
    """
    pieces = parts if isinstance(parts, (list, tuple)) else list(parts)
    text = "".join(pieces)
    runs: list[Run] = []
    marks: list[tuple[int, Mark]] = []
    is_traced = False
    at = literal = 0  # characters of the literal run that is not in `runs` yet
    for piece in pieces:
        length = len(piece)
        if not isinstance(piece, TracedText):
            literal += length
        else:
            is_traced = True
            for position, mark in piece._marks:
                marks.append((at + position, mark))
            for run in piece._runs:
                if run[1] == LITERAL:
                    literal += run[0]
                    continue
                if literal:
                    runs.append((literal, LITERAL))
                    literal = 0
                runs.append(run)
        at += length
    if not is_traced:
        return text
    if literal:
        runs.append((literal, LITERAL))
    return TracedText._with_runs(text, tuple(runs), tuple(marks))


def join(separator: str, items: Iterable[str]) -> str:
    """Join traced or plain strings, as ``separator.join(items)`` would."""
    parts: list[str] = []
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(
                f"sequence item {index}: expected str instance, {type(item).__name__} found"
            )
        if index:
            parts.append(separator)
        parts.append(item)
    return concat(parts)


def coarse(text: str, sources: Iterable[object]) -> str:
    """Give ``text`` the common origin of ``sources``: their leaf, ``MIXED`` if they have several.

    Args:
        text: What an untrackable operation returned.
        sources: What it was given; traced strings in nested lists, tuples and mappings count.

    Returns:
        ``text`` unchanged if no source is traced.
    """
    leaves = {int(leaf) for source in sources for leaf in _leaves_in(source)}
    if not leaves:
        return text
    is_mixed = len(leaves) > 1 or min(leaves) < 0
    origin = MIXED if is_mixed else (leaves.pop() << _LEAF_SHIFT) | COARSE
    return TracedText._with_runs(text, _constant(len(text), origin))


class TracedInt(int):
    """An ``int`` read from a traced string; written out, it has the origin of the whole string."""

    _source: str

    def __str__(self) -> str:
        return coarse(int.__repr__(self), (self,))


class TracedFloat(float):
    """A ``float`` read from a traced string, as :class:`TracedInt`."""

    _source: str

    def __str__(self) -> str:
        return coarse(float.__repr__(self), (self,))


def number_from(source: str, number: int | float) -> int | float:
    """Give a number the origin of the string it was read from."""
    if not isinstance(source, TracedText):
        return number
    traced = TracedFloat(number) if isinstance(number, float) else TracedInt(number)
    traced._source = source
    return traced


def _leaves_in(source: object) -> Iterator[int]:
    if isinstance(source, (TracedInt, TracedFloat)):
        source = source._source
    if isinstance(source, TracedText):
        origins = {origin for _, origin in source._runs if origin != LITERAL}
        yield from sorted({o >> _LEAF_SHIFT if o >= 0 else o for o in origins})
    elif isinstance(source, Mapping):
        for key, value in source.items():
            yield from _leaves_in(key)
            yield from _leaves_in(value)
    elif isinstance(source, (list, tuple)):
        for value in source:
            yield from _leaves_in(value)


def _separator_positions(lengths: list[int], width: int) -> Iterator[int]:
    at = 0
    for length in lengths[:-1]:
        at += length
        yield at
        at += width


def _per_character(text: TracedText, change: Callable[[str], str]) -> str:
    """Apply a change that maps characters one by one, or fall back to the coarse origin."""
    changed = change(str.__getitem__(text, slice(None)))
    if len(changed) == len(text):
        return text._with_runs(changed, text._runs, text._marks)
    pieces = [change(character) for character in str.__iter__(text)]
    return _spread(text, pieces) if "".join(pieces) == changed else coarse(changed, (text,))


def _spread(text: TracedText, pieces: list[str]) -> TracedText:
    """Return the text in which character k became ``pieces[k]``, origins and marks kept."""
    widths = [len(piece) for piece in pieces]
    borders = [0, *np.cumsum(widths, dtype=np.int64).tolist()]
    marks = tuple((borders[at], mark) for at, mark in text._marks)
    return type(text)("".join(pieces), np.repeat(text._origins, widths), marks)


def substitute(text: str, change: Callable[[str], str], expected: str) -> str:
    """Replace each character by ``change(character)``, keeping origins; used for escaping.

    Args:
        text: Traced or plain text.
        change: What becomes of one character.
        expected: What the whole must equal; where it does not, the origin is coarse.
    """
    if not isinstance(text, TracedText):
        return expected
    pieces = [change(character) for character in str.__iter__(text)]
    if "".join(pieces) != expected:
        return coarse(expected, (text,))
    return TracedText(expected, np.repeat(text._origins, [len(piece) for piece in pieces]))
