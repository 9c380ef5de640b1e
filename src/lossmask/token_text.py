r"""Token ids -> the text they spell, where the text they were made from is not at hand.

In: a tokenizer and ids, of a prepared folder or of a model's predictions. Out: text, and which
characters each token stands for. Bytes that are no UTF-8 by themselves become U+FFFD::

    ids      9707    11    61138  118            bytes    Hello  ,  \xf0\x9f\x98  \x80
    offsets  (0,5) (5,6)   (6,7) (6,7)           text     Hello,😀
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from lossmask.spelling import NOTHING_SPELLS, Spelling, spellings_to_try

__all__ = ["TokenTexts"]

_PROBE = "Ab c"
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"
_LONE_BYTES = {0xDC00 + byte: _UNREADABLE for byte in range(256)}  # as surrogateescape decodes them


class TokenTexts:
    """What the tokens of one tokenizer spell.

    Args:
        tokenizer: Any tokenizer object.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> from lossmask.encoder import load_tokenizer
        >>> tokenizer = load_tokenizer(DEMO_MODEL)
        >>> texts = TokenTexts(tokenizer)
        >>> text, offsets = texts.spell(tokenizer("Hi é")["input_ids"])
        >>> text
        'Hi é'
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._added = {number: str(token) for number, token in _added(tokenizer).items()}
        self._spelling = _spelling_of(tokenizer)
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token spells; ``<id>`` where the tokenizer does not know it."""
        if token not in self._known:
            self._known[token] = self._look_up(token)
        return self._known[token]

    def _look_up(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        name = None
        if token < len(self._tokenizer):  # a model may have more rows than its tokenizer has tokens
            name = self._tokenizer.convert_ids_to_tokens(token)
        if not name:
            return f"<{token}>".encode()
        spelled = self._spelling.bytes_of(name)
        return name.encode() if spelled == NOTHING_SPELLS else spelled

    def text_of(self, token: int) -> str:
        r"""Return what one token spells; bytes that are part of a character as ``\x9f``."""
        return self.bytes_of(token).decode("utf-8", "backslashreplace")

    def spell(self, ids: npt.ArrayLike) -> tuple[str, npt.NDArray[np.int32]]:
        """Return what tokens spell together.

        Args:
            ids: (n,) token ids.

        Returns:
            The text, and int32 (n, 2): the half-open interval of its characters that each token
            has bytes of.
        """
        pieces = [self.bytes_of(int(token)) for token in np.asarray(ids)]
        ends = np.cumsum([0, *map(len, pieces)])
        text = b"".join(pieces).decode("utf-8", "surrogateescape")
        if text.isascii():
            borders = np.arange(len(text) + 1)
        else:
            sizes = [len(each.encode("utf-8", "surrogateescape")) for each in text]
            borders = np.cumsum([0, *sizes])
        starts = np.searchsorted(borders, ends[:-1], side="right") - 1
        behind = np.searchsorted(borders, ends[1:], side="left")
        offsets = np.stack([starts, np.maximum(starts, behind)], axis=1).astype(np.int32)
        return text.translate(_LONE_BYTES), offsets


def _added(tokenizer: PreTrainedTokenizerBase) -> Mapping[int, Any]:
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    return added


def _spelling_of(tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """Return the first spelling under which a probe comes out right."""
    spellings = spellings_to_try(tokenizer)
    names = tokenizer.convert_ids_to_tokens(
        tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    )
    for spelling in spellings:
        if b"".join(map(spelling.bytes_of, names)).strip() == _PROBE.encode():
            return spelling
    return spellings[0]  # what is drawn may lack a space; ids are what counts
