"""The tokens at which inference ends a turn."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stops:
    """Stop tokens as ids and as text.

    Attributes:
        ids: The ids.
        texts: The texts they stand for.
        eos: The text of the one that ends a sequence, None if the tokenizer has none.
    """

    ids: frozenset[int]
    texts: tuple[str, ...]
    eos: str | None

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches any stop text, the longest first; matches nothing if there are none."""
        return any_of(self.texts)

    def first_run(self, text: str, start: int) -> re.Match[str] | None:
        """Return the first stop at or after ``start``, or the last of those adjacent to it.

        Adjacent terminators (``<|END_RESPONSE|><|END_OF_TURN_TOKEN|>``) end a turn together, up to
        eos.
        """
        found = self.pattern.search(text, start)
        while found and found.group() != self.eos:
            adjacent = self.pattern.match(text, found.end())
            if adjacent is None:
                break
            found = adjacent
        return found


@functools.lru_cache(maxsize=256)
def any_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    """Compile a pattern for any of the texts, the longest first; matches nothing for none."""
    by_length = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, by_length)) or "(?!)")
