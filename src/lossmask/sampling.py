"""Which texts of a run are looked at twice: the same ones, however the run is divided."""

from __future__ import annotations

from zlib import crc32

_CHARACTERS = 16  # of a text that are looked at, besides its length


def is_sampled(text: str, one_in: int) -> bool:
    """Return whether a text is one of those that are chosen, about one in ``one_in``.

    Example:
        >>> sum(is_sampled(f"text number {n}", 100) for n in range(100_000)) in range(500, 2000)
        True
    """
    step = max(1, len(text) // _CHARACTERS)
    looked_at = text[::step].encode("utf-8", "surrogatepass")
    return crc32(looked_at, len(text)) % one_in == 0
