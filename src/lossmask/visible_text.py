r"""Any text -> text that a terminal shows as it is, and how it may be broken and laid out.

In: what anybody wrote. Out: text without white space or control characters that nobody sees, which
can neither steer the terminal nor turn around what stands beside it::

    "a\n\x1b[31mb\u202ec"    ->    a⏎␛[31mb\u202ec

Arabic and Hebrew keep the order they are written in; :func:`isolated` puts the marks around them
that let a terminal which draws from right to left do so for them alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421}
_JOINER = "\u200d"
_FROM_RIGHT = frozenset({"R", "AL", "AN"})
_ISOLATE, _END_OF_ISOLATE = "\u2068", "\u2069"
_PLACEHOLDER = "\u25cc"  # the dotted circle that marks are drawn on


def visible(text: str) -> str:
    """Make white space and control characters visible; nothing can steer the terminal."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").translate(_CONTROL_PICTURES)
    return "".join(c if c.isprintable() or c == _JOINER else f"\\u{ord(c):04x}" for c in shown)


def clusters(text: str) -> Iterator[str]:
    r"""Yield what must not be torn apart: a character with its marks, an emoji of several, a flag.

    Example:
        >>> list(clusters("e\u0301x"))
        ['é', 'x']
    """
    start, flags = 0, 0
    for at, character in enumerate(text):
        flags = flags + 1 if _is_regional(character) else 0
        if at > start and not (_continues(text, at) or (flags and flags % 2 == 0)):
            yield text[start:at]
            start = at
    if text:
        yield text[start:]


def on_its_own(text: str) -> str:
    """Return text that combines with nothing before it: a mark there gets a dotted circle."""
    begins_with_mark = unicodedata.category(text[:1] or "x")[0] == "M" or text[:1] == _JOINER
    return _PLACEHOLDER + text if begins_with_mark else text


def runs_from_right(text: str) -> bool:
    """Return whether a text holds letters or digits that are written from right to left."""
    return not text.isascii() and any(
        unicodedata.bidirectional(character) in _FROM_RIGHT for character in text
    )


def isolated(text: str) -> tuple[str, str]:
    """Return what stands before and behind a text so that its direction is its own affair.

    U+2068 and U+2069, which take no room, around text from right to left; nothing around other.
    """
    return (_ISOLATE, _END_OF_ISOLATE) if runs_from_right(text) else ("", "")


def _continues(text: str, at: int) -> bool:
    character = text[at]
    return (
        unicodedata.category(character)[0] == "M"
        or character == _JOINER
        or text[at - 1] == _JOINER
        or "\U0001f3fb" <= character <= "\U0001f3ff"
    )


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
