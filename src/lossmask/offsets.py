"""Tokens -> the characters of the text that each of them stands for.

In: a text and the ids that a tokenizer gives for it. Out: a character interval per token, or where
the two come apart. No offsets that a tokenizer reports are believed: the tokens, in order, have to
spell the text as the tokenizer's normaliser leaves it, without a byte too many or too few::

    text         Hello  wörld              two spaces
    normalised   hello  world              NormalisedText
    spelled      hello  wor  ##ld          Spelling
    intervals    (0, 5) (7, 10) (10, 12)   place

Where a tokenizer keeps white space, only two things may differ: a dummy space where text begins,
and the white space that added tokens with ``lstrip`` or ``rstrip`` swallow. Where it drops white
space, what is visible has to agree. Who owns the characters that no token spells:

* A character that is normalised away, or white space that the tokenizer drops, belongs to no token.
* White space that an added token swallows belongs to that token, if the tokenizer keeps any.
* A token that spells nothing (the dummy "▁" of SentencePiece) has the interval of the character
  behind it, an empty one at the end of the text.
* Where characters are normalised together (``e`` and U+0301), or one becomes several, each token of
  the result has all of them. So has each token of one character that is several tokens.
* An unknown token has the characters that the tokenizer reports for it, if those around it fit;
  from a slow tokenizer, which reports none, a word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lossmask.normalised_text import SPACE, NormalisedText, Normaliser, normalisers_to_try
from lossmask.placing import Misfit, Offsets, Piece, place
from lossmask.spelling import NOTHING_SPELLS, Spelling, spellings_to_try

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = npt.NDArray[np.int32]

_PROBES = (
    "Ab  c\u00e9 e\u0301Q\n\tunbelievably  x\x07y 1, \u4f60\u00df tail  end",
    "ab  c\n\td",
    "a  a",
)


class OffsetFinder:
    """Finds the characters of tokens, for one tokenizer.

    Args:
        tokenizer: Any tokenizer object. What its tokens spell and how it normalises is read off
            its parts; for a slow tokenizer, which shows none, it is tried out on a probe.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._unknown: int | None = tokenizer.unk_token_id
        self._reading = self._choose_reading()

    def find(
        self,
        text: str,
        ids: Ids,
        *,
        begins_text: bool = True,
        reported: Offsets | None = None,
        is_apart: bool = False,
    ) -> Offsets | Misfit:
        """Return the character interval of each token.

        Args:
            text: The text.
            ids: int32 (n,), its tokens.
            begins_text: Whether a dummy space may stand before the first character.
            reported: int32 (n, 2), what to take for unknown tokens; without it the tokenizer is
                asked.
            is_apart: Find no others than those that the tokens between two added tokens have
                wherever they stand: in the text as it is given, with nothing swallowed or unknown.

        Returns:
            int32 (n, 2), half-open, starts ascending; or where tokens and text come apart.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half a character: no tokenizer can spell it
            return Misfit(0, error.start)
        tokens = ids.tolist()
        if is_apart:
            return self._reading.place_apart(text, tokens, begins_text)
        return self._find(text, tokens, self._reading, begins_text, reported)

    @property
    def keeps_space(self) -> bool:
        """Whether white space comes out in the tokens, character by character."""
        return self._reading.keeps_space

    def _choose_reading(self) -> _Reading:
        """Return the first reading under which a probe comes out right."""
        readings = [
            _Reading(self._tokenizer, spelling, normalise, keeps_space)
            for keeps_space in (True, False)
            for normalise in normalisers_to_try(self._tokenizer)
            for spelling in spellings_to_try(self._tokenizer)
        ]
        for probe in _PROBES:
            tokens = self._tokenizer(probe, add_special_tokens=False)["input_ids"]
            for reading in readings:
                if not isinstance(self._find(probe, tokens, reading, True), Misfit):
                    return reading
        return readings[0]  # every text is checked: one that this does not fit is refused

    def _find(
        self,
        text: str,
        tokens: list[int],
        reading: _Reading,
        begins_text: bool,
        reported: Offsets | None = None,
    ) -> Offsets | Misfit:
        """Find offsets under one reading; what a tokenizer reports is looked at last."""
        found = reading.place(text, tokens, begins_text, {})
        if not isinstance(found, Misfit) or self._unknown not in tokens:
            return found
        if not self._tokenizer.is_fast:
            return reading.place(text, tokens, begins_text, None)
        if reported is None:
            encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            if encoded["input_ids"] != tokens:
                return found
            reported = np.asarray(encoded["offset_mapping"], np.int32)
        spans = {k: reported[k] for k, token in enumerate(tokens) if token == self._unknown}
        unknown = {k: (int(start), int(end)) for k, (start, end) in spans.items()}
        return reading.place(text, tokens, begins_text, unknown)


class _Pieces(dict[int, Piece]):
    """Id -> what it has to spell; found out when first asked for."""

    def __init__(self, find: Callable[[int], Piece]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, token: int) -> Piece:
        piece = self[token] = self._find(token)
        return piece


class _Reading:
    """How one tokenizer relates to text: what tokens spell, what it sees, what it drops."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        spelling: Spelling,
        normalise: Callable[[str], str] | None,
        keeps_space: bool,
    ) -> None:
        self._spelling = spelling
        self.keeps_space = keeps_space
        self._changes_text = normalise is not None or not keeps_space
        self._tokenizer = tokenizer
        self._normaliser = Normaliser(normalise, self._finish)
        self._added = tokenizer.added_tokens_decoder
        self._given = _Pieces(partial(self._piece, as_given=True))
        self._normal = _Pieces(partial(self._piece, as_given=False))

    def place(
        self,
        text: str,
        tokens: list[int],
        begins_text: bool,
        unknown: Mapping[int, tuple[int, int]] | None,
    ) -> Offsets | Misfit:
        """Place tokens in the text as it is given, then as the normaliser leaves it."""
        found: Offsets | Misfit = Misfit(0, 0)
        if self.keeps_space:
            found = self._place_given(text, tokens, begins_text, unknown)
        if isinstance(found, Misfit) and self._changes_text:
            seen = self._normalised(text, tokens)
            pieces = [self._normal[token] for token in tokens]
            may_be_dummy = begins_text and self.keeps_space
            found = place(pieces, seen, begins_text=may_be_dummy, unknown=unknown)
        return found

    def place_apart(self, text: str, tokens: list[int], begins_text: bool) -> Offsets | Misfit:
        """Place tokens in the text as it is given, each stretch by itself."""
        if not self.keeps_space or any(self._given[token].is_odd for token in set(tokens)):
            return Misfit(0, 0)
        return self._place_given(text, tokens, begins_text, {})

    def _place_given(
        self,
        text: str,
        tokens: list[int],
        begins_text: bool,
        unknown: Mapping[int, tuple[int, int]] | None,
    ) -> Offsets | Misfit:
        seen = NormalisedText.as_given(text, self._spelling.unmarked(text))
        pieces = [self._given[token] for token in tokens]
        return place(pieces, seen, begins_text=begins_text, unknown=unknown)

    def _normalised(self, text: str, tokens: Collection[int]) -> NormalisedText:
        cuts = {str(self._added[token]) for token in tokens if token in self._added}
        return self._normaliser.read(text, cuts)

    def _piece(self, token: int, as_given: bool) -> Piece:
        is_unknown = token == self._tokenizer.unk_token_id
        if token not in self._added:
            name = self._tokenizer.convert_ids_to_tokens(token)
            spelled = self._spelling.bytes_of(name) if name else NOTHING_SPELLS
            if not self.keeps_space:
                text = spelled.decode("utf-8", "surrogateescape")
                spelled = SPACE.sub("", text).encode("utf-8", "surrogateescape")
            return Piece(spelled, is_unknown=is_unknown)
        added = self._added[token]
        text = str(added)
        return Piece(
            self._spelling.unmarked(text).encode()
            if as_given
            else self._normalised(text, [token]).data,
            is_added=True,
            eats_before=added.lstrip,
            eats_after=added.rstrip,
            is_unknown=is_unknown,
        )

    def _finish(self, normal: str) -> str:
        unmarked = self._spelling.unmarked(normal)
        return unmarked if self.keeps_space else SPACE.sub("", unmarked)
