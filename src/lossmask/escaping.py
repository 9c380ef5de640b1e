r"""Text -> ids in which no character of a message is part of a control token.

In: text, who wrote each character, and the ids that the tokenizer gives. Out: other ids, where a
message holds a control token as text.

No tokenization is done anew here. A copy of the tokenizer knows each control token under a secret
name, one private-use character. In the text, the control tokens that the template wrote get their
secret names; everything else, ``<|im_end|>`` in a message included, is nothing but text to the
copy, whose ids are those of the tokenizer otherwise::

    <|im_start|>user\nWhat is <|im_end|>?<|im_end|>\n      the rendering
    ☐           user\nWhat is <|im_end|>?☐         \n      what the copy is given
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from lossmask.control_tokens import ControlTokens, Occurrence, control_tokens_of
from lossmask.errors import ParityError, TokenizerError
from lossmask.protocols import AnyTokenizer
from lossmask.stops import Stops
from lossmask.tokenizing import Ids, Offsets, TextTokenizer, Tokens
from lossmask.traced_text import COARSE, OF_TOOLS, Origins

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SECRET_BLOCKS = (0x10E000, 0xFE000, 0x100000, 0xF0000)  # private use; the least used first
_BLOCK_SIZE = 0x1FFE


@functools.lru_cache(maxsize=4)
def escaping(tokenizer: AnyTokenizer, stops: Stops) -> AnyTokenizer:
    """Return a tokenizer that takes control tokens in messages as the characters they are."""
    if not isinstance(tokenizer, TextTokenizer):
        return tokenizer  # ids that a renderer gave: it never reads text as a control token
    escape = Escape(tokenizer.tokenizer, control_tokens_of(tokenizer, stops))
    return TextTokenizer(tokenizer.tokenizer, escape)


class Escape:
    """Encodes a text again where a message wrote a control token.

    Args:
        tokenizer: The tokenizer.
        control: Its control tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: ControlTokens) -> None:
        self._tokenizer = tokenizer
        self._control = control
        self._copies: dict[int, _Copy] = {}

    def __call__(self, text: str, origins: Origins, tokens: Tokens) -> tuple[Ids, Offsets] | None:
        """Encode a text of n characters with the control tokens of messages as plain text.

        Args:
            text: The text.
            origins: int64 (n,), who wrote each character.
            tokens: The text as the tokenizer encodes it.

        Returns:
            Ids and offsets, or None where no message wrote a control token: the tokens are right.

        Raises:
            ParityError: It cannot be told who wrote a control token.
            TokenizerError: The tokenizer cannot be copied exactly.
        """
        if not self.is_needed(text, origins, tokens):
            return None
        written = (origins >= 0) | (origins == OF_TOOLS)
        found = self._control.occurrences(text, tokens)
        foreign = [each for each in found if written[each.start : each.end].any()]
        _refuse_coarse(text, origins, foreign)
        copy = self._copy_for(text)
        if not np.array_equal(copy.encode(text, found)[0], tokens.ids):
            raise _cannot_escape("a copy of the tokenizer gives other ids for this text")
        own = self._written_by_template(text, written, copy.neutral)
        if not set(found) - set(foreign) <= set(own):
            raise _cannot_escape("the control tokens depend on the text of the messages")
        ids, offsets = copy.encode(text, own)
        if self._control_ids(ids.tolist()) != self._control_ids(each.token_id for each in own):
            raise _cannot_escape("the tokenizer makes control tokens of plain text by itself")
        return ids, offsets

    def is_needed(self, text: str, origins: Origins, tokens: Tokens, first: int = 0) -> bool:
        """Return whether a message wrote any of the control tokens from one token on."""
        for start, end, _ in self._control.occurrences(text, tokens, first):
            own = origins[start:end]
            if ((own >= 0) | (own == OF_TOOLS)).any():
                return True
        return False

    def _control_ids(self, ids: Iterable[int]) -> list[int]:
        unknown = self._control.unknown_id
        return [each for each in ids if each in self._control.texts and each != unknown]

    def _written_by_template(
        self, text: str, written: npt.NDArray[np.bool_], neutral: str
    ) -> list[Occurrence]:
        """Return what the tokenizer finds once each run of a message is one neutral character.

        What it finds in the text itself would not do: a control token that begins in a message may
        hide one that the template wrote.
        """
        borders = np.flatnonzero(np.diff(written, prepend=False, append=False))
        runs = [(start, end, neutral) for start, end in borders.reshape(-1, 2).tolist()]
        blanked, positions = _replaced(text, runs)
        encoded = self._tokenizer(
            blanked, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        tokens = Tokens(
            np.asarray(encoded["input_ids"], np.int32),
            np.asarray(encoded["offset_mapping"], np.int32).reshape(-1, 2),
        )
        return [
            Occurrence(int(positions[start]), int(positions[end]), token_id)
            for start, end, token_id in self._control.occurrences(blanked, tokens)
        ]

    @functools.cached_property
    def _in_tokens(self) -> set[int]:
        """Private-use characters that tokens are made of: no secret name may be one of them."""
        return {
            ord(character)
            for token in self._tokenizer.get_vocab()
            for character in token
            if unicodedata.category(character) == "Co"
        }

    def _copy_for(self, text: str) -> _Copy:
        """Return a copy whose secret names are not in the text."""
        if not self._tokenizer.is_fast:
            raise _cannot_escape("only fast tokenizers (tokenizer.json) can be copied exactly")
        taken = self._in_tokens | set(map(ord, set(text)))
        for block in _SECRET_BLOCKS:
            if not any(block <= code < block + _BLOCK_SIZE for code in taken):
                if block not in self._copies:
                    self._copies[block] = _Copy(self._tokenizer, self._control, block)
                return self._copies[block]
        raise _cannot_escape("the text holds characters of every block of private-use characters")


class _Copy:
    """A fast tokenizer whose control tokens have secret names, one character each.

    Args:
        tokenizer: What to copy.
        control: Its control tokens.
        block: The first of the characters to use.

    Raises:
        TokenizerError: It cannot be copied so that every token keeps its id.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, control: ControlTokens, block: int
    ) -> None:
        self.neutral = chr(block)
        self._names = {
            token_id: chr(block + number) for number, token_id in enumerate(control.texts, start=1)
        }
        secret = {control.texts[token_id]: name for token_id, name in self._names.items()}
        try:
            description = json.loads(tokenizer.backend_tokenizer.to_str())
            self._backend = Tokenizer.from_str(json.dumps(_renamed(description, secret)))
        except Exception as error:  # tokenizers raises nothing narrower
            raise _cannot_escape(f"the tokenizer cannot be copied: {error}") from error
        expected = {secret.get(text, text): i for text, i in tokenizer.get_vocab().items()}
        if len(secret) >= _BLOCK_SIZE or self._backend.get_vocab() != expected:
            raise _cannot_escape("the tokens of a copy of the tokenizer have other ids")
        self._backend.no_padding()
        self._backend.no_truncation()

    def encode(self, text: str, control: Sequence[Occurrence]) -> tuple[Ids, Offsets]:
        """Encode text in which only the given occurrences are control tokens."""
        renamed, positions = _replaced(
            text, [(start, end, self._names[token_id]) for start, end, token_id in control]
        )
        encoding = self._backend.encode(renamed, add_special_tokens=False)
        offsets = np.asarray(encoding.offsets, np.int32).reshape(-1, 2)
        return np.asarray(encoding.ids, np.int32), positions[offsets]


def _renamed(description: dict[str, Any], secret: Mapping[str, str]) -> dict[str, Any]:
    """Rename tokens in a ``tokenizer.json``, in its list of added tokens and in its model.

    Left in the model, the name would still become the token in some (``</s>`` in a Unigram).
    """
    model = description["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {secret.get(text, text): i for text, i in vocabulary.items()}
    else:
        model["vocab"] = [[secret.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") is not None:
        model["unk_token"] = secret.get(model["unk_token"], model["unk_token"])
    for token in description["added_tokens"]:
        token["content"] = secret.get(token["content"], token["content"])
    return description


def _replaced(text: str, spans: Sequence[tuple[int, int, str]]) -> tuple[str, Offsets]:
    """Replace each span, ascending, by its one character.

    Returns:
        The text of m characters, and int32 (m + 1,): where each of them, and its end, was before.
    """
    pieces: list[str] = []
    positions: list[npt.NDArray[np.int32]] = []
    at = 0
    for start, end, character in spans:
        pieces += [text[at:start], character]
        positions.append(np.arange(at, start + 1, dtype=np.int32))
        at = end
    pieces.append(text[at:])
    positions.append(np.arange(at, len(text) + 1, dtype=np.int32))
    return "".join(pieces), np.concatenate(positions)


def _refuse_coarse(text: str, origins: Origins, foreign: Sequence[Occurrence]) -> None:
    """Refuse where a message may or may not have written a control token."""
    for start, end, _ in foreign:
        own = origins[start:end]
        if ((own >= 0) & ((own & COARSE) == COARSE)).any():
            raise ParityError(
                f"the template changes the text of a message beyond recognition, so whether it "
                f"or the message wrote the control token {text[start:end]!r} cannot be told",
                reason="cannot_trace",
            )


def _cannot_escape(why: str) -> TokenizerError:
    return TokenizerError(
        f"control tokens in messages cannot be encoded as plain text: {why}; use "
        'control_tokens="error" or "allow"',
        reason="cannot_escape",
    )
