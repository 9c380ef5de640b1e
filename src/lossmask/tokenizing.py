"""Text -> token ids with verified character offsets.

In: text as rendered. Out: :class:`Tokens`. The ids are those of the tokenizer the user trains with,
``add_special_tokens=False``. Its offsets are not believed: ``offsets`` finds the characters of each
token by what the tokens spell, or the text is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from lossmask.errors import BackendDiffers, ParityError, TokenizerError
from lossmask.fast_backend import FastBackend, fast_backend, reference_ids
from lossmask.leaf_places import begin_alike
from lossmask.offsets import OffsetFinder
from lossmask.placing import Misfit
from lossmask.text_units import Cut, TextUnits, cut_alike, pieces_of
from lossmask.traced_text import LITERAL, Origins

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int32]

_LONGEST_ANCHOR = 24
_OTHER_LETTERS = "qzj"  # few pieces of a vocabulary begin with these


class Tokens:
    """n tokens of a text, which may begin with those of another one.

    Args:
        ids: int32 (k,), all of them or those behind the shared ones.
        offsets: int32 (k, 2), half-open character intervals, starts ascending; the tokens of one
            multi-byte character each have the whole character. ``offsets`` says who owns the
            characters that no token spells.
        base: Tokens of another text.
        shared: The first so many tokens are those of the other text, at the same characters; they
            are put together with the rest when asked for, for there may be many turns.
    """

    __slots__ = ("_ids", "_joined", "_offsets", "base", "shared")

    def __init__(
        self, ids: Ids, offsets: Offsets, base: Tokens | None = None, shared: int = 0
    ) -> None:
        self._ids = ids
        self._offsets = offsets
        self._joined: tuple[Ids, Offsets] | None = (ids, offsets) if base is None else None
        self.base = base
        self.shared = shared

    @property
    def ids(self) -> Ids:
        """int32 (n,)."""
        return self._whole()[0]

    @property
    def offsets(self) -> Offsets:
        """int32 (n, 2)."""
        return self._whole()[1]

    def __len__(self) -> int:
        return self.shared + len(self._ids)

    def begin_with(self, others: Tokens) -> bool:
        """Return whether the first ids are those of other tokens."""
        n, first = len(others), 0
        if others.base is not None and others.base in (self, self.base):
            first = others.shared if others.base is self else min(others.shared, self.shared)
        return n <= len(self) and np.array_equal(
            self._from(first)[: n - first], others._from(first)
        )

    def _from(self, first: int) -> Ids:
        if first < self.shared:
            return self.ids[first:]
        return self._ids[first - self.shared :]

    def _whole(self) -> tuple[Ids, Offsets]:
        if self._joined is None:
            assert self.base is not None
            ids, offsets = self.base.ids[: self.shared], self.base.offsets[: self.shared]
            if len(self._ids):
                ids = np.concatenate([ids, self._ids])
                offsets = np.concatenate([offsets, self._offsets])
            self._joined = ids, offsets
        return self._joined


class Escape(Protocol):
    """Encodes a text otherwise than the tokenizer does."""

    def __call__(self, text: str, origins: Origins, tokens: Tokens) -> tuple[Ids, Offsets] | None:
        """Return other ids and offsets for a text, or None."""
        ...

    def is_needed(self, text: str, origins: Origins, tokens: Tokens, first: int = 0) -> bool:
        """Return whether there are others, if the tokens before ``first`` ask for none."""
        ...


class TextTokenizer:
    """A transformers tokenizer with verified offsets.

    Args:
        tokenizer: Any tokenizer object; the ids are exactly the ones it gives.
        escape: Where given, it may encode a text otherwise, see ``escaping``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, escape: Escape | None = None) -> None:
        self.tokenizer = tokenizer
        self._escape = escape
        self._offsets = OffsetFinder(tokenizer)
        self._units: TextUnits | None = None
        self._backend: FastBackend | None = None
        self.why_not_fast = "nothing has asked for it"
        self.backend_error: BackendDiffers | None = None

    def use_fast_backend(self, *, prove: bool = True) -> None:
        """Let ids be computed by the fast backend, if there is one that is proven exact.

        Where not, ``why_not_fast`` says why.

        Args:
            prove: Whether to prove it if it has not been before.
        """
        if self._backend is not None:
            return
        found = fast_backend(self.tokenizer, prove=prove)
        self._backend = None if isinstance(found, str) else found
        self.why_not_fast = found if isinstance(found, str) else ""

    def encode_flat(self, texts: Sequence[str]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Return ids alone: int32 (n,) of all texts end to end, int64 (k + 1,) where each begins.

        If the fast backend turns out not to be exact, the tokenizer itself gives these ids and all
        later ones, and ``backend_error`` says so.
        """
        if self._backend is not None:
            try:
                return self._backend.encode(texts)
            except BackendDiffers as error:
                self._backend, self.backend_error = None, error
                self.why_not_fast = error.detail
        each = reference_ids(self.tokenizer, texts) if texts else []
        bounds = np.cumsum([0, *map(len, each)], dtype=np.int64)
        return np.concatenate([np.zeros(0, np.int32), *each]), bounds

    def control_tokens(self) -> tuple[str, ...]:
        """Return the texts that become one token marked special, longest first."""
        return self._control_tokens

    def added_tokens(self) -> tuple[str, ...]:
        """Return the texts of all added tokens, longest first."""
        return self._added_tokens

    @functools.cached_property
    def _control_tokens(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special}
        return _longest_first(special.union(map(str, self.tokenizer.all_special_tokens)))

    @functools.cached_property
    def _added_tokens(self) -> tuple[str, ...]:
        return _longest_first(set(map(str, self.tokenizer.added_tokens_decoder.values())))

    def encode(
        self, texts: Sequence[str], origins: Sequence[Origins] | None = None
    ) -> list[Tokens]:
        """Tokenize each text on its own, without special tokens.

        Args:
            texts: The texts.
            origins: Who wrote each character of each text; only escaping needs it.

        Raises:
            TokenizerError: The tokens of a text do not spell it.
        """
        if not texts:
            return []
        plain = self._encode_plain(texts)
        if self._escape is None:
            return plain
        return self._escaped(texts, origins or (), plain)

    def _encode_plain(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize texts; what they begin with like the last one is not looked at again."""
        if self._units is None:
            self._units = TextUnits.of(self.tokenizer, self.encode_flat)
        whole = texts[-1]
        starts = self._units.starts(whole)
        cuts = [cut_alike(text, whole, starts, self._units) for text in texts[:-1]]
        pieces = dict.fromkeys(pieces_of(whole, starts))
        pieces.update(dict.fromkeys(piece for cut in cuts for piece in cut.rest))
        flat, bounds = self.encode_flat([*pieces])
        ids = {
            piece: flat[start:end]
            for piece, start, end in zip(pieces, bounds[:-1], bounds[1:], strict=True)
        }
        joined = _Joined(whole, starts, ids)
        offsets = self._offsets.find(whole, joined.ids, is_apart=True)
        is_apart = not isinstance(offsets, Misfit)
        if isinstance(offsets, Misfit):
            offsets = self._offsets.find(whole, joined.ids)
        if isinstance(offsets, Misfit):
            for cut in cuts:  # the first text that cannot be told is the one to name
                self._verified(cut.text, joined.ids_of(cut))
            raise self._misfit(whole, joined.ids, offsets)
        base = Tokens(joined.ids, offsets)
        known: dict[str, Tokens | None] = {}
        return [
            *(self._begun(cut, base, joined, known if is_apart else None) for cut in cuts),
            base,
        ]

    def _begun(
        self, cut: Cut, base: Tokens, joined: _Joined, known: dict[str, Tokens | None] | None
    ) -> Tokens:
        """Return the tokens of a text that begins with pieces of another one.

        Args:
            cut: The text.
            base: Tokens of the other one.
            joined: Its pieces.
            known: What the rest of a text becomes, by the rest; None: that depends on the text.
        """
        if known is None:
            return self._verified(cut.text, joined.ids_of(cut))
        rest = cut.text[cut.at :]
        if rest not in known:
            ids = joined.ids_behind(cut)
            found = self._offsets.find(rest, ids, is_apart=True)
            known[rest] = None if isinstance(found, Misfit) else Tokens(ids, found)
        own = known[rest]
        if own is None:
            return self._verified(cut.text, joined.ids_of(cut))
        offsets = own.offsets + np.int32(cut.at)
        return Tokens(own.ids, offsets, base, joined.counts[cut.shared])

    def _escaped(
        self, texts: Sequence[str], origins: Sequence[Origins], plain: Sequence[Tokens]
    ) -> list[Tokens]:
        assert self._escape is not None
        last = plain[-1]
        is_needed = self._escape.is_needed(texts[-1], origins[-1], last)
        encoded = []
        for text, own, tokens in zip(texts, origins, plain, strict=True):
            is_alike = not is_needed and tokens.base is last and begin_alike(own, origins[-1])
            first = tokens.shared if is_alike else 0
            escaped = None
            if self._escape.is_needed(text, own, tokens, first):
                escaped = self._escape(text, own, tokens)
            encoded.append(tokens if escaped is None else self._verified(text, *escaped))
        return encoded

    def continuation(self, prompt: str, text: str, origins: Origins | None = None) -> Tokens:
        """Tokenize text that follows a prompt, as an engine's own tokens would follow it.

        SentencePiece puts a dummy space before text that begins a string, WordPiece begins a word
        there. Both are avoided by tokenizing the text behind a newline, or behind the last
        characters of the prompt, or another letter if it ends with one, and cutting that off; what
        is left must spell ``text`` exactly.

        Args:
            prompt: What precedes the text.
            text: The text.
            origins: Who wrote each character of the text; only escaping needs it.

        Raises:
            ParityError: No tokenization found that spells exactly the text.
        """
        for anchor, anchor_ids, ids in self._anchored(prompt, text, origins):
            n = len(anchor_ids)
            if not np.array_equal(ids[:n], anchor_ids):
                continue
            offsets = self._offsets.find(anchor + text, ids, begins_text=bool(anchor))
            if not isinstance(offsets, Misfit) and _splits(offsets, n, len(anchor)):
                return Tokens(ids[n:], offsets[n:] - np.int32(len(anchor)))
        raise ParityError(
            f"the prompt ends inside a token, and no tokens spell exactly {text[:40]!r} after it; "
            'boundary="include" or "exclude" keeps the tokens of the whole text',
            reason="boundary_inside_token",
        )

    def _anchored(
        self, prompt: str, text: str, origins: Origins | None
    ) -> Iterator[tuple[str, Ids, Ids]]:
        """Yield what to put before a text, its ids, and those of both together."""
        anchors = ["", "\n"]
        if not self._offsets.keeps_space:  # only the prompt itself tells whether a word goes on
            anchors = [prompt[-k:] for k in range(1, min(len(prompt), _LONGEST_ANCHOR) + 1)]
            anchors += _OTHER_LETTERS if prompt[-1:].isalpha() else ""
        texts = [part for anchor in anchors for part in (anchor, anchor + text)]
        if self._escape is None:
            encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        else:
            own = np.asarray(origins, np.int64)
            before = [np.full(len(anchor), LITERAL) for anchor in anchors]
            written = [part for each in before for part in (each, np.concatenate([each, own]))]
            encoded = [tokens.ids for tokens in self.encode(texts, written)]
        ids = [np.asarray(each, np.int32) for each in encoded]
        yield from zip(anchors, ids[::2], ids[1::2], strict=True)

    def _verified(self, text: str, ids: Ids, reported: Offsets | None = None) -> Tokens:
        offsets = self._offsets.find(text, ids, reported=reported)
        if isinstance(offsets, Misfit):
            raise self._misfit(text, ids, offsets)
        return Tokens(ids, offsets)

    def _misfit(self, text: str, ids: Ids, misfit: Misfit) -> TokenizerError:
        at = misfit.character
        token = "no token is left"
        if misfit.token < len(ids):
            token_id = int(ids[misfit.token])
            name = self.tokenizer.convert_ids_to_tokens(token_id)
            token = f"token {misfit.token} is {name!r} (id {token_id})"
        return TokenizerError(
            f"cannot tell which characters the tokens of this {type(self.tokenizer).__name__} "
            f"stand for: at character {at}, {text[at : at + 20]!r}, {token}, which does not spell "
            "what is there, even as the tokenizer normalises text",
            reason="unusable_offsets",
        )


class _Joined:
    """The ids of a text, put together of those of its pieces."""

    def __init__(self, text: str, starts: Sequence[int], of_piece: Mapping[str, Ids]) -> None:
        each = [of_piece[piece] for piece in pieces_of(text, starts)]
        self._of_piece = of_piece
        self.ids = np.concatenate(each) if len(each) > 1 else each[0]
        self.counts = [0, *accumulate(map(len, each))]

    def ids_of(self, cut: Cut) -> Ids:
        """Return the ids of a text that begins with pieces of this one."""
        return np.concatenate([self.ids[: self.counts[cut.shared]], self.ids_behind(cut)])

    def ids_behind(self, cut: Cut) -> Ids:
        """Return the ids of the rest of such a text."""
        return np.concatenate([self.ids[:0], *map(self._of_piece.__getitem__, cut.rest)])


def _splits(offsets: Offsets, n: int, border: int) -> bool:
    """Return whether a border in characters lies behind the first n tokens and splits none."""
    before, behind = offsets[:n], offsets[n:]
    return bool(len(behind) and (before[:, 1] <= border).all() and behind[0, 0] >= border)


def _longest_first(texts: set[str]) -> tuple[str, ...]:
    return tuple(sorted(texts, key=lambda text: (-len(text), text)))
