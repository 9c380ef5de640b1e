"""Ids -> the bytes they spell, for a whole batch in one gather.

In: a tokenizer whose tokens stand for bytes (GPT-2's alphabet). Out: for ids end to end, the text
that they spell and where each begins in it::

    ids      9707   11    1879          spelled   b"Hello, world"
    lengths     5    1       6          bounds    0    5  6     12

What tokens spell is compared with the text that was tokenized, so that no offsets of the tokenizer
are needed, and none believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lossmask.spelling import byte_of_character, spellings_to_try

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOTHING = "\xff"  # no text in UTF-8 holds this byte


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyBytes:
    """What each token of a vocabulary spells.

    Attributes:
        spelled: Binary array (vocabulary,), the bytes of each id.
    """

    spelled: pa.BinaryArray

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> VocabularyBytes | None:
        """Read it off a tokenizer; None if its tokens do not stand for bytes."""
        if not tokenizer.is_fast or spellings_to_try(tokenizer)[0].alphabet != "bytes":
            return None
        vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
        added = tokenizer.added_tokens_decoder
        size = max([*vocabulary.values(), *added], default=-1) + 1
        latin = [_NOTHING] * size
        byte_of = byte_of_character()
        odd = set("".join(vocabulary)).difference(byte_of)
        latin1 = {ord(character): chr(byte) for character, byte in byte_of.items()}
        for token, number in vocabulary.items():
            is_spelled = not odd or odd.isdisjoint(token)
            latin[number] = token.translate(latin1) if is_spelled else _NOTHING
        for number, token in added.items():
            latin[number] = str(token).encode().decode("latin-1")
        ends = np.cumsum([0, *map(len, latin)], dtype=np.int64).astype(np.int32)
        data = "".join(latin).encode("latin-1")
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
        return cls(pa.BinaryArray.from_buffers(pa.binary(), size, buffers))

    def spell(self, ids: npt.NDArray[np.int32]) -> tuple[pa.Buffer | None, npt.NDArray[np.int64]]:
        """Return the bytes that ids spell, and their bounds.

        Args:
            ids: int32 (n,), each in the vocabulary.

        Returns:
            The bytes end to end (None for none), and int64 (n + 1,): where each id begins in them.
        """
        found = self.spelled.take(pa.array(ids))
        _, bounds, data = found.buffers()
        starts = np.frombuffer(bounds, np.int32, len(ids) + 1).astype(np.int64)
        return data, starts
