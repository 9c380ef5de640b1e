"""Text -> token ids with verified character offsets.

In: text as rendered. Out: :class:`Tokens`. The ids are those of the tokenizer the user trains with,
``add_special_tokens=False``. Its offsets are not believed: ``offsets`` finds the characters of each
token by what the tokens spell, or the text is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from lossmask.errors import ParityError, TokenizerError
from lossmask.fast_backend import BackendDiffers, FastBackend, fast_backend, reference_ids
from lossmask.offsets import OffsetFinder
from lossmask.placing import Misfit
from lossmask.traced_text import LITERAL, Origins

Ids = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int32]

_LONGEST_ANCHOR = 24
_OTHER_LETTERS = "qzj"  # few pieces of a vocabulary begin with these


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """n tokens of a text.

    Attributes:
        ids: int32 (n,).
        offsets: int32 (n, 2), half-open character intervals, starts ascending; the tokens of one
            multi-byte character each have the whole character. ``offsets`` says who owns the
            characters that no token spells.
    """

    ids: Ids
    offsets: Offsets

    def __len__(self) -> int:
        return len(self.ids)


Escape = Callable[[str, Origins, Tokens], "tuple[Ids, Offsets] | None"]
"""Text, who wrote it, its tokens -> other ids and offsets for it, or None."""


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
        self._backend: FastBackend | None = None
        self.why_not_fast = "nothing has asked for it"
        self.backend_error: BackendDiffers | None = None

    def use_fast_backend(self) -> None:
        """Let ids be computed by the fast backend, if there is one that is proven exact.

        Where not, ``why_not_fast`` says why.
        """
        found = fast_backend(self.tokenizer)
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
        ids, bounds = self.encode_flat(texts)
        plain = [
            self._verified(text, ids[start:end])
            for text, start, end in zip(texts, bounds[:-1], bounds[1:], strict=True)
        ]
        if self._escape is None:
            return plain
        return [self._escaped(*each) for each in zip(texts, origins or (), plain, strict=True)]

    def _escaped(self, text: str, origins: Origins, plain: Tokens) -> Tokens:
        escaped = self._escape(text, origins, plain) if self._escape else None
        return plain if escaped is None else self._verified(text, *escaped)

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


def _splits(offsets: Offsets, n: int, border: int) -> bool:
    """Return whether a border in characters lies behind the first n tokens and splits none."""
    before, behind = offsets[:n], offsets[n:]
    return bool(len(behind) and (before[:, 1] <= border).all() and behind[0, 0] >= border)


def _longest_first(texts: set[str]) -> tuple[str, ...]:
    return tuple(sorted(texts, key=lambda text: (-len(text), text)))
