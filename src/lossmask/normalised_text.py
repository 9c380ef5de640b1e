"""Text -> what a tokenizer sees of it, each byte with the characters it came from.

In: text and a tokenizer's normaliser. Out: :class:`NormalisedText`. The text is cut into the
shortest pieces that the normaliser treats independently (mostly characters, ``e`` and U+0301 under
NFC together); every byte of a piece's normal form comes from the whole piece.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Positions = npt.NDArray[np.int64]

# Unicode's White_Space, which is what the tokenizers library takes for white space
_WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
SPACE = re.compile(f"[{_WHITE}]+")
_CHUNK = re.compile(f"[^{_WHITE}]+|[{_WHITE}]")
_REMEMBERED = 50_000  # chunks of at most _SHORT characters, mostly words
_SHORT = 64
_CUTS_TRIED = 64  # a longer run of characters that depend on each other is one piece


class _Atoms(NamedTuple):
    """The shortest pieces of a chunk: the characters of each, and the bytes of its normal form."""

    data: bytes
    characters: tuple[int, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class NormalisedText:
    """Text as a tokenizer sees it: m bytes.

    Attributes:
        text: The text, n characters.
        data: Its normal form in UTF-8.
        starts: int64 (m + 1,), first character that the byte came from; n behind the last byte.
        ends: int64 (m + 1,), character behind the last one it came from.
    """

    text: str
    data: bytes
    starts: Positions
    ends: Positions

    @classmethod
    def as_given(cls, text: str, seen: str) -> NormalisedText:
        """Return text that is not normalised; ``seen`` is as long, with marks as spaces."""
        data = seen.encode()
        leads = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
        starts = np.append(np.cumsum(leads, dtype=np.int64) - 1, len(text))
        return cls(text, data, starts, np.minimum(starts + 1, len(text)))

    def intervals(self, starts: Positions, ends: Positions) -> npt.NDArray[np.int32]:
        """Turn byte intervals into character intervals, empty ones into the character behind them.

        Args:
            starts: int64 (k,), ascending.
            ends: int64 (k,).

        Returns:
            int32 (k, 2).
        """
        last = np.where(ends > starts, ends - 1, starts)
        return np.stack([self.starts[starts], self.ends[last]], axis=1).astype(np.int32)

    def character(self, at: int) -> int:
        """Return the first character that byte ``at`` came from."""
        return int(self.starts[at])

    def byte(self, character: int) -> int:
        """Return the first byte that came from ``character`` or from one behind it."""
        return int(np.searchsorted(self.starts[:-1], character))

    def ends_of(self, at: int, character: int) -> list[int]:
        """Return where bytes from ``at`` on that came from before ``character`` may end.

        Behind all of them; or, if one character became several ("⅓" is "1⁄3" in NFKC), behind any
        of those of the last one.
        """
        end = self.byte(character)
        if end <= at:
            return []
        within = range(max(at, self.byte(self.character(end - 1))) + 1, end)
        return [end, *(k for k in within if self.data[k] & 0xC0 != 0x80)]

    def behind_space(self, at: int) -> int:
        """Return the first byte at or behind ``at`` that did not come from white space."""
        space = SPACE.match(self.text, self.character(at))
        return at if space is None else self.byte(space.end())


@dataclass(frozen=True, slots=True, eq=False)
class Normaliser:
    """Normalises as one tokenizer does, and remembers what became of what.

    Attributes:
        normalise: Text -> text, for any part of a text; None changes nothing.
        finish: Applied to the normal form of each piece, whatever its neighbours.
    """

    normalise: Callable[[str], str] | None
    finish: Callable[[str], str]
    _known: dict[str, _Atoms] = field(default_factory=dict)

    def read(self, text: str, cuts: Collection[str]) -> NormalisedText:
        """Normalise text, knowing where each byte of the result came from.

        Args:
            text: The text.
            cuts: Texts of added tokens: nothing is normalised across their borders.
        """
        parts: list[bytes] = []
        characters: list[int] = []
        widths: list[int] = []
        for chunk in _chunks(text, cuts):
            atoms = self._atoms(chunk)
            parts.append(atoms.data)
            characters.extend(atoms.characters)
            widths.extend(atoms.widths)
        ends = np.cumsum(np.asarray(characters, np.int64))
        starts = ends - np.asarray(characters, np.int64)
        return NormalisedText(
            text,
            b"".join(parts),
            np.append(np.repeat(starts, widths), len(text)),
            np.append(np.repeat(ends, widths), len(text)),
        )

    def _atoms(self, chunk: str) -> _Atoms:
        """Cut a chunk into the shortest pieces that are normalised independently."""
        known = self._known.get(chunk)
        if known is not None:
            return known
        alone = ((1, character) for character in chunk)
        cut = alone if self.normalise is None else _cut(chunk, self.normalise)
        lengths, normal = zip(*cut, strict=True)
        parts = [self.finish(part).encode() for part in normal]
        atoms = _Atoms(b"".join(parts), lengths, tuple(map(len, parts)))
        if len(chunk) <= _SHORT:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[chunk] = atoms
        return atoms


def _cut(chunk: str, normalise: Callable[[str], str]) -> Iterator[tuple[int, str]]:
    """Yield (length, normal form) of the shortest pieces whose normal forms make up the whole."""
    whole = normalise(chunk)
    if len(chunk) < 2:
        yield len(chunk), whole
        return
    alone = [normalise(character) for character in chunk]
    if "".join(alone) == whole:
        yield from ((1, normal) for normal in alone)
        return
    middle = len(chunk) // 2
    cuts = sorted(range(1, len(chunk)), key=lambda cut: abs(cut - middle))
    for cut in cuts[:_CUTS_TRIED]:
        if normalise(chunk[:cut]) + normalise(chunk[cut:]) == whole:
            yield from _cut(chunk[:cut], normalise)
            yield from _cut(chunk[cut:], normalise)
            return
    yield len(chunk), whole


def _chunks(text: str, cuts: Collection[str]) -> Iterator[str]:
    """Yield words and single white-space characters, cut at the borders of added tokens."""
    if not cuts:
        yield from _CHUNK.findall(text)
        return
    longest_first = sorted(cuts, key=lambda cut: (-len(cut), cut))
    for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text):
        yield from _CHUNK.findall(part)


@dataclass(frozen=True, slots=True)
class _Backend:
    """The normaliser of a fast tokenizer, without the dummy space that some put before any text."""

    normalizer: object
    prefix: str

    def __call__(self, text: str) -> str:
        normal: str = self.normalizer.normalize_str(text)  # type: ignore[attr-defined]
        return normal.removeprefix(self.prefix)


def normalisers_to_try(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Callable[[str], str] | None, ...]:
    """Return how a tokenizer may normalise: one way for a fast one, which has it as a part."""
    if not tokenizer.is_fast:
        return (None, _nfc, _nfkc, str.lower, _bert_cased, _bert_lower, _bert_uncased)
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is None:
        return (None,)
    return (_Backend(normalizer, normalizer.normalize_str("a").removesuffix("a")),)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _bert_cased(text: str) -> str:
    """Drop control characters, as BERT's basic tokenizer does, and compose."""
    kept = (c for c in text if c in "\t\n\r" or unicodedata.category(c)[0] != "C")
    return _nfc("".join(c for c in kept if c != "\ufffd"))


def _bert_lower(text: str) -> str:
    return _bert_cased(text).lower()


def _bert_uncased(text: str) -> str:
    """Lower-case and strip accents besides."""
    decomposed = unicodedata.normalize("NFD", _bert_lower(text))
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
