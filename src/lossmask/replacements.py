"""Another text of the same length and the same kinds of characters, for leaf perturbation.

In: one string of a conversation. Out: strings in which the characters that nothing hangs on are
replaced by others of their kind: a lower-case letter by a lower-case letter, a digit by a digit, an
emoji by its neighbour. A renderer that handles text as text treats the replacement as it treated
the original; ``perturbation`` reads off where it went.

What is replaced is graded, from what no renderer has a reason to look at (``WORDS``) to what it may
well test for (``TAG``: ``<think>``, ``[INST]``).
"""

from __future__ import annotations

import functools
import json
import re
import string
import unicodedata

import numpy as np
import numpy.typing as npt

WORDS, PUNCTUATION, SPACE, SYNTAX, TAG, NEVER = range(6)
"""Grades of a character: letters, digits and emoji; ``.,;:!?`` and zeros; white space; quotes,
brackets and what makes JSON; tags; what has no other character of its kind."""

_STRIDE = 7919  # a prime: walks through all pairs of a pool before it repeats one
_PLAIN = ".,;:!?-+*/=~^@#$%_()"
_POOLS = (string.ascii_lowercase, string.ascii_uppercase, "123456789")
_EN_SPACES = (
    "\u2002\u2003\u2004\u2005"  # strip() and split() take them for spaces, JSON prints them
)
_TAG = re.compile(
    r"<[^<>\s]{1,60}>|<\|[^|<>]{1,60}\|>|\[/?[A-Za-z_]{1,40}\]|[【◁][^】▷]{1,60}[】▷]"
)
_JSON_TOKEN = re.compile(
    r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<key>\s*:)?|(?P<number>-?\d+(?:\.\d+)?)(?:[eE][+-]?\d+)?'
)
_JSON_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)")


@functools.lru_cache(maxsize=1024)
def grades(text: str) -> npt.NDArray[np.int8]:
    """Return the grade of each character, int8 array (n,)."""
    own = np.array([_grade(character) for character in text], np.int8)
    least = _least_in_json(text) if _is_json(text) else np.zeros(len(text), np.int8)
    for tag in _TAG.finditer(text):
        least[tag.start() : tag.end()] = TAG
    grade: npt.NDArray[np.int8] = np.maximum(own, least)
    grade.flags.writeable = False
    return grade


def _least_in_json(text: str) -> npt.NDArray[np.int8]:
    """Return the least grade that keeps JSON what it is: words in strings, digits in numbers."""
    least = np.full(len(text), SYNTAX, np.int8)
    for token in _JSON_TOKEN.finditer(text):
        if token["number"]:
            start, stop = token.span("number")
            least[start:stop] = [WORDS if c.isdigit() else SYNTAX for c in token["number"]]
        else:
            start, stop = token.span("text")
            least[start:stop] = PUNCTUATION if token["key"] else WORDS
    for escape in _JSON_ESCAPE.finditer(text):
        least[escape.start() : escape.end()] = SYNTAX
    return least


@functools.lru_cache(maxsize=1024)
def replaced(text: str, highest: int, *, seed: int, turn: int) -> str:
    """Replace every character whose grade is at most ``highest``.

    Args:
        text: The original, n characters.
        highest: ``WORDS`` … ``TAG``.
        seed: Another seed gives other characters.
        turn: 0 or 1. Both turns differ from the original and from each other wherever they replace,
            and the two characters together tell apart the first few hundred occurrences of each
            character of the text.
    """
    occurrences: dict[str, int] = {}
    characters = []
    for character, grade in zip(text, grades(text).tolist(), strict=True):
        if grade <= highest:
            occurrence = occurrences.get(character, 0)
            occurrences[character] = occurrence + 1
            character = _pair(character, occurrence, seed)[turn]
        characters.append(character)
    return "".join(characters)


def _pair(character: str, occurrence: int, seed: int) -> tuple[str, str]:
    """Choose two different alternatives.

    Lower-case letters get pairs of even, upper-case letters of odd number: text whose case the
    renderer changed is never mistaken for other characters of the same string.
    """
    others = _alternatives(character)
    last = len(others) - 1
    step = occurrence * _STRIDE + seed * 31 + ord(character.lower()[0])
    number = (2 * step + character.isupper()) % (len(others) * last)
    first, second = divmod(number, last)
    return others[first], others[second + (second >= first)]


def _grade(character: str) -> int:
    if not _alternatives(character):
        return NEVER
    if character.isspace():
        return SPACE
    if character == "0" or character in _PLAIN:
        return PUNCTUATION
    return SYNTAX if character in string.punctuation else WORDS


@functools.cache
def _alternatives(character: str) -> str:
    r"""Return at least two other characters of the same kind, or none.

    Outside ASCII they come from the same row of sixteen code points, so that ``\u00e9`` and its
    replacement differ in one hexadecimal digit.
    """
    if character in string.whitespace:
        pool = _EN_SPACES if character == " " else "\r\x0c\n"
    elif character.isascii():
        pools = (pool for pool in _POOLS if character in pool)
        pool = next(pools, "123456789" if character == "0" else "")
        pool = pool or (_PLAIN if character in string.punctuation else "")
    else:
        row = ord(character) & ~0xF
        kind = _kind(character)
        pool = "".join(c for c in map(chr, range(row, row + 16)) if _kind(c) == kind)
    others = pool.replace(character, "")
    return others if len(others) > 1 else ""


def _kind(character: str) -> tuple[object, ...]:
    category = unicodedata.category(character)
    expands = len(character.upper()) > 1 or len(character.lower()) > 1  # as ß does
    if expands or category[0] in "CMZ":  # controls, halves of characters, joiners, accents, spaces
        return (character,)
    return (category, unicodedata.bidirectional(character), character.isprintable())


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
