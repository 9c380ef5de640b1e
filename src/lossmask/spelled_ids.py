"""Ids without their text -> an example that can be drawn.

In: ids and weights, as a prepared folder or another tool has them. Out: an example whose text is
what the tokenizer decodes, if that has these ids, else what each token spells. Ids and weights stay
as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lossmask.errors import TokenizerError
from lossmask.example import Example
from lossmask.token_text import TokenTexts
from lossmask.tokenizing import TextTokenizer

__all__ = ["example_of_ids"]


def example_of_ids(
    ids: Sequence[int] | npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
    tokenizer: TextTokenizer,
    message_index: npt.NDArray[np.int32] | None = None,
) -> Example:
    """Return an example of ids, with the text they stand for.

    Args:
        ids: (n,) token ids.
        weights: (n,) float32.
        tokenizer: Decodes them.
        message_index: (n,) int32, -1 = the template; None: not known, -1 throughout.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> from lossmask.encoder import load_tokenizer
        >>> tokenizer = TextTokenizer(load_tokenizer(DEMO_MODEL))
        >>> [tokens] = tokenizer.encode(["Hi 😀"])
        >>> example_of_ids(tokens.ids, np.ones(len(tokens), np.float32), tokenizer).text
        'Hi 😀'
    """
    array = np.asarray(ids, np.int32)
    text, offsets = _by_encoding(array, tokenizer) or TokenTexts(tokenizer.tokenizer).spell(array)
    owners = np.full(len(array), -1, np.int32) if message_index is None else message_index
    return Example(text, array, offsets, weights, owners, ())


_Text = tuple[str, npt.NDArray[np.int32]]


def _by_encoding(ids: npt.NDArray[np.int32], tokenizer: TextTokenizer) -> _Text | None:
    """Return text and offsets if the decoded text encodes to the same ids."""
    text = tokenizer.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
    try:
        [tokens] = tokenizer.encode([text])
    except TokenizerError:
        return None
    return (text, tokens.offsets) if np.array_equal(tokens.ids, ids) else None
