"""Text -> token ids with verified character offsets.

In: text as rendered. Out: :class:`Tokens`. The ids are those of the tokenizer the user trains with,
``add_special_tokens=False``. Its offsets are not believed: they are rebuilt from the bytes of the
tokens, and only where those do not spell the text (dummy spaces, swallowed white space) are the
reported ones taken, after a check that they ascend and leave no character out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lossmask.errors import ParityError, TokenizerError

Ids = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int32]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_MARK = "▁"
_SPACE = re.compile(  # UTF-8 of Unicode's White_Space, what Rust's char::is_whitespace strips
    rb"(?:[\t-\r ]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f"
    rb"|\xe3\x80\x80)*"
)


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """n tokens of a text.

    Attributes:
        ids: int32 (n,).
        offsets: int32 (n, 2), half-open character intervals, starts ascending; the tokens of one
            multi-byte character each have the whole character.
    """

    ids: Ids
    offsets: Offsets

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """A transformers tokenizer with verified offsets.

    Args:
        tokenizer: Any tokenizer object; the ids are exactly the ones it gives.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._added = {
            token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items()
        }
        added = tokenizer.added_tokens_decoder
        self._eats_before = {token_id for token_id, token in added.items() if token.lstrip}
        self._eats_after = {token_id for token_id, token in added.items() if token.rstrip}
        self._is_byte_level = _is_byte_level(tokenizer)
        self._byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        self._bytes: dict[int, bytes | None] = {}

    def control_tokens(self) -> tuple[str, ...]:
        """Return the texts that become one token marked special, longest first."""
        special = {str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        special.update(map(str, self.tokenizer.all_special_tokens))
        return tuple(sorted(special, key=lambda text: (-len(text), text)))

    def added_tokens(self) -> tuple[str, ...]:
        """Return the texts of all added tokens, longest first."""
        return tuple(sorted(self._added.values(), key=lambda text: (-len(text), text)))

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize each text on its own, without special tokens.

        Raises:
            TokenizerError: Offsets are missing or leave characters out, and cannot be rebuilt.
        """
        fast = self.tokenizer.is_fast
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=fast,
            verbose=False,
        )
        reported = encoded["offset_mapping"] if fast else [None] * len(texts)
        return [
            self._verified(text, np.asarray(ids, np.int32), offsets)
            for text, ids, offsets in zip(texts, encoded["input_ids"], reported, strict=True)
        ]

    def continuation(self, text: str) -> Tokens:
        """Tokenize text that follows other text, as an engine's own tokens would follow a prompt.

        SentencePiece puts a dummy space before text that begins a string. It is avoided by
        tokenizing behind a newline and cutting that off; the result must spell ``text`` exactly.

        Raises:
            ParityError: No tokenization found that spells exactly the text.
        """
        anchor, anchored, alone = (
            np.asarray(ids, np.int32)
            for ids in self.tokenizer(
                ["\n", "\n" + text, text], add_special_tokens=False, verbose=False
            )["input_ids"]
        )
        candidates = [alone]
        if np.array_equal(anchored[: len(anchor)], anchor):
            candidates.append(anchored[len(anchor) :])
        for ids in candidates:
            offsets = self._offsets_from_bytes(text, ids)
            if offsets is not None:
                return Tokens(ids, offsets)
        raise ParityError(
            f"the prompt ends inside a token, and no tokens spell exactly {text[:40]!r} after it",
            reason="boundary_inside_token",
        )

    def _verified(self, text: str, ids: Ids, reported: Sequence[tuple[int, int]] | None) -> Tokens:
        offsets = self._offsets_from_bytes(text, ids)
        if offsets is None and reported is not None:
            candidate = np.asarray(reported, np.int32).reshape(-1, 2)
            offsets = candidate if _covers(candidate, len(text)) else None
        if offsets is None:
            raise TokenizerError(
                f"{type(self.tokenizer).__name__} gives no usable character offsets for "
                f"{text[:40]!r}…: they leave characters out, and the bytes of the tokens do not "
                "spell the text (a tokenizer that normalises text?)",
                reason="unusable_offsets",
            )
        return Tokens(ids, offsets)

    def _offsets_from_bytes(self, text: str, ids: Ids) -> Offsets | None:
        """Rebuild offsets from token bytes, or return None if those do not spell the text."""
        pieces: list[bytes] = []
        for token_id in ids.tolist():
            piece = self._token_bytes(token_id)
            if piece is None:
                return None
            pieces.append(piece)
        try:
            data = text.encode()
        except UnicodeEncodeError:  # a lone surrogate: no tokenizer can spell it
            return None
        pieces = self._with_eaten_space(data, ids, pieces)
        spelled, lengths = b"".join(pieces), [len(piece) for piece in pieces]
        if spelled == data:
            return _offsets_of_bytes(text, lengths)
        return self._offsets_under_nfc(text, spelled, lengths)

    def _with_eaten_space(self, data: bytes, ids: Ids, pieces: list[bytes]) -> list[bytes]:
        """Give added tokens with ``lstrip`` or ``rstrip`` the white space they swallowed."""
        eaters = self._eats_before | self._eats_after
        if not eaters or eaters.isdisjoint(ids.tolist()):
            return pieces
        whole, at = [], 0
        for token_id, piece in zip(ids.tolist(), pieces, strict=True):
            start = _SPACE.match(data, at).end() if token_id in self._eats_before else at  # type: ignore[union-attr]
            end = start + len(piece)
            if token_id in self._eats_after:
                end = _SPACE.match(data, end).end()  # type: ignore[union-attr]
            whole.append(data[at:start] + piece + data[start + len(piece) : end])
            at = end
        return whole

    def _offsets_under_nfc(self, text: str, spelled: bytes, lengths: list[int]) -> Offsets | None:
        """Map offsets in NFC text back to the text given, segment by segment."""
        segments = _nfc_segments(text)
        composed = "".join(unicodedata.normalize("NFC", segment) for segment in segments)
        if composed == text or spelled != composed.encode():
            return None
        origin: list[tuple[int, int]] = []
        at = 0
        for segment in segments:
            span = (at, at + len(segment))
            origin.extend([span] * len(unicodedata.normalize("NFC", segment)))
            at += len(segment)
        spans = np.asarray(origin, np.int32)
        inside = _offsets_of_bytes(composed, lengths)
        starts = spans[inside[:, 0], 0]
        return np.stack([starts, spans[inside[:, 1] - 1, 1]], axis=1)

    def _token_bytes(self, token_id: int) -> bytes | None:
        if token_id not in self._bytes:
            self._bytes[token_id] = self._spell(token_id)
        return self._bytes[token_id]

    def _spell(self, token_id: int) -> bytes | None:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if not token:
            return None
        if self._is_byte_level:
            known = [self._byte_of.get(character) for character in token]
            return None if None in known else bytes(byte for byte in known if byte is not None)
        if byte := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(byte[1], 16)])
        return str(token).replace(_WORD_MARK, " ").encode()


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    if not tokenizer.is_fast:
        return False
    decoder = tokenizer.backend_tokenizer.decoder
    return "ByteLevel" in repr(decoder)


def _offsets_of_bytes(text: str, lengths: Sequence[int]) -> Offsets:
    """Turn byte lengths of consecutive tokens into character intervals."""
    data = np.frombuffer(text.encode(), np.uint8)
    character_of = np.cumsum((data & 0xC0) != 0x80, dtype=np.int32) - np.int32(1)
    token_widths = np.asarray(lengths, np.int64)
    ends = np.cumsum(token_widths)
    starts = ends - token_widths
    padded = np.append(character_of, np.int32(len(text)))
    last = np.where(ends > starts, padded[np.maximum(ends - 1, 0)] + 1, padded[starts])
    return np.stack([padded[starts], last], axis=1).astype(np.int32)


def _nfc_segments(text: str) -> list[str]:
    """Cut text where NFC cannot compose across."""
    segments: list[str] = []
    for character in text:
        if segments and (
            unicodedata.combining(character)
            or unicodedata.normalize("NFC", segments[-1] + character)
            != unicodedata.normalize("NFC", segments[-1]) + character
        ):
            segments[-1] += character
        else:
            segments.append(character)
    return segments


def _covers(offsets: Offsets, length: int) -> bool:
    """Return whether intervals ascend, stay inside, and together leave no character out."""
    if not len(offsets):
        return length == 0
    starts, ends = offsets[:, 0], offsets[:, 1]
    reached = np.maximum.accumulate(ends)
    return bool(
        starts[0] == 0
        and reached[-1] == length
        and (starts <= ends).all()
        and (np.diff(starts) >= 0).all()
        and (starts[1:] <= reached[:-1]).all()
    )
