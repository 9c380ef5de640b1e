r"""Text -> pieces that a tokenizer treats each by itself, so that none is tokenized twice.

In: a fast tokenizer. Out: where a text can be cut so that the ids of the pieces, end to end, are
those of the text. That is before an added token which is found before anything else is done to the
text and takes no white space before it: what is between two of them is then normalised, split and
tokenized alone. A piece is such a token with what follows it, so that no piece stands at the
beginning of a text which did not before::

    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n
    |                   |           |                          |

The prompts of a conversation begin alike. Of each only the pieces behind are new.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.rendering import shared_length
from lossmask.stops import any_of

Encode = Callable[[Sequence[str]], tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]

_PROBED = 48  # added tokens that are tried out


@dataclass(frozen=True, slots=True)
class TextUnits:
    """Where one tokenizer's texts can be cut.

    Attributes:
        found: Matches the added tokens that are found before anything else.
        cutting: Those of them before which a text can be cut.
        longest: Characters of the longest that ``found`` matches.
    """

    found: re.Pattern[str]
    cutting: frozenset[str]
    longest: int

    @classmethod
    def of(cls, tokenizer: Any, encode: Encode) -> TextUnits:
        """Find out before which added tokens a text can be cut, and try it.

        Args:
            tokenizer: Any tokenizer; texts are not cut for a slow one.
            encode: Gives its ids.
        """
        units = _by_its_parts(tokenizer)
        if not units.cutting:
            return units
        tokens = sorted(units.cutting)
        tried = tokens[:: max(1, len(tokens) // _PROBED)]
        texts = [
            *(f"a {token} b{token}\n{token}{token} \t{token}c" for token in tried),
            "  ".join(tried),
        ]
        pieces = [pieces_of(text, units.starts(text)) for text in texts]
        whole, _ = encode(texts)
        apart, _ = encode([piece for each in pieces for piece in each])
        return units if np.array_equal(whole, apart) else _UNCUT

    def starts(self, text: str, first: int = 0) -> list[int]:
        """Return where the pieces of a text begin, from one of them on, ascending."""
        cutting = self.cutting
        matches = self.found.finditer(text, first)
        starts = [match.start() for match in matches if match.group() in cutting]
        return starts if starts[:1] == [first] else [first, *starts]


_UNCUT = TextUnits(any_of(()), frozenset(), 0)


def _by_its_parts(tokenizer: Any) -> TextUnits:
    if not tokenizer.is_fast or getattr(tokenizer, "split_special_tokens", False):
        return _UNCUT
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    if tokenizer.backend_tokenizer.encode_special_tokens or any(t.single_word for t in added):
        return _UNCUT
    first = [token for token in added if not token.normalized and token.content]
    return TextUnits(
        any_of(tuple(token.content for token in first)),
        frozenset(
            token.content for token in first if not (token.lstrip or token.content[0].isspace())
        ),
        max((len(token.content) for token in first), default=0),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A text that begins with the pieces of another one.

    Attributes:
        text: The text.
        shared: How many pieces.
        at: Where they end.
        rest: The pieces behind them.
    """

    text: str
    shared: int
    at: int
    rest: tuple[str, ...]


def cut_alike(text: str, whole: str, starts: Sequence[int], units: TextUnits) -> Cut:
    """Cut a text as another one is cut, as far as they begin alike.

    Args:
        text: The text.
        whole: The other one.
        starts: Where the pieces of that begin.
        units: Where texts can be cut.
    """
    alike = shared_length(text, whole)
    shared = max(bisect_right(starts, alike - units.longest) - 1, 0)  # up to there surely as there
    own = units.starts(text, starts[shared])
    ends = [*own[1:], len(text)]
    k = 0
    while k < len(own) and shared < len(starts) and ends[k] <= alike:
        if ends[k] != (starts[shared + 1] if shared + 1 < len(starts) else len(whole)):
            break
        shared, k = shared + 1, k + 1
    at = own[k] if k < len(own) else len(text)
    rest = tuple(text[start:end] for start, end in zip(own[k:], ends[k:], strict=True))
    return Cut(text, shared, at, rest)


def pieces_of(text: str, starts: Sequence[int]) -> list[str]:
    """Return the pieces of a text that begin there."""
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
