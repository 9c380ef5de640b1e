"""A token of the vocabulary -> the bytes it spells.

In: the string by which a vocabulary names a token (``Ġhello``, ``▁hello``, ``##lo``, ``lo</w>``,
``<0xE9>``). Out: the bytes that it stands for, a space for the mark of a space.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "▁"
NOTHING_SPELLS = b"\xff"  # no text in UTF-8 holds this byte

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@cache
def byte_of_character() -> dict[str, int]:
    """Return the byte that each character of GPT-2's alphabet stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # slow to import

    return {character: byte for byte, character in bytes_to_unicode().items()}


@dataclass(frozen=True, slots=True)
class Spelling:
    """How the vocabulary of one tokenizer spells.

    Attributes:
        alphabet: ``characters``: as they are; ``bytes``: a character for each byte, GPT-2's
            alphabet; ``latin1``: the character whose number is the byte.
        mark: What stands for a space, empty if nothing does.
        continues: Prefix of a token that continues a word.
        ends: Suffix of a token that ends a word.
    """

    alphabet: Literal["characters", "bytes", "latin1"]
    mark: str = ""
    continues: str = ""
    ends: str = ""

    def bytes_of(self, token: str) -> bytes:
        """Return what a token spells, or a byte that no text holds if it spells nothing known.

        Example:
            >>> Spelling("characters", continues="##").bytes_of("##lo")
            b'lo'
            >>> Spelling("bytes").bytes_of("Ġhi")
            b' hi'
        """
        if self.continues and token != self.continues:
            token = token.removeprefix(self.continues)
        if self.ends:
            token = token.removesuffix(self.ends)
        if self.alphabet == "characters":
            byte = _BYTE_TOKEN.fullmatch(token) if self.mark else None
            return bytes([int(byte[1], 16)]) if byte else self.unmarked(token).encode()
        codes = byte_of_character() if self.alphabet == "bytes" else {c: ord(c) for c in token}
        known = [codes.get(character, 256) for character in token]
        return bytes(known) if max(known, default=0) < 256 else NOTHING_SPELLS

    def unmarked(self, text: str) -> str:
        """Return text with each mark, and each character that looks like one, as a space."""
        return text.replace(self.mark, " ") if self.mark else text


def spellings_to_try(tokenizer: PreTrainedTokenizerBase) -> tuple[Spelling, ...]:
    """Return how a tokenizer may spell: one way for a fast one, which shows it by its parts."""
    if not tokenizer.is_fast:
        return (
            Spelling("characters"),
            Spelling("latin1"),
            Spelling("characters", mark=MARK),
            Spelling("characters", continues="##"),
            Spelling("characters", ends="</w>"),
            Spelling("characters", ends="@@"),
        )
    backend = tokenizer.backend_tokenizer
    parts = repr((backend.decoder, backend.pre_tokenizer))
    alphabet: Literal["characters", "bytes"] = "bytes" if "ByteLevel" in parts else "characters"
    marks = alphabet == "characters" and (MARK in parts or MARK in repr(backend.normalizer))
    return (
        Spelling(
            alphabet,
            mark=MARK if marks else "",
            continues=getattr(backend.model, "continuing_subword_prefix", None) or "",
            ends=getattr(backend.model, "end_of_word_suffix", None) or "",
        ),
    )
