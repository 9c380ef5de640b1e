r"""Formatted text + the markers in it -> the characters of the responses.

In: text in which turns are marked by strings, such as ``### Human:`` and ``### Assistant:``. Out:
character ranges with a weight. Markers are found in characters, so what a tokenizer makes of them
in their context (``?\n\n`` is one token to BLOOM) cannot hide them::

    ### Human: Hi\n\n### Assistant: Hello\n\n### Human: Bye\n\n### Assistant: Ciao
                                   ^^^^^^                                    ^^^^^
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lossmask.errors import InputError, PolicyError

Marker = str | Sequence[str]
"""One marker, or the markers of several roles."""

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A marker as it stands in a text.

    Attributes:
        start: Its first character.
        end: The character behind it.
        is_response: Whether a response begins behind it.
    """

    start: int
    end: int
    is_response: bool


def ranges(
    text: str, response_template: Marker, instruction_template: Marker | None = None
) -> list[dict[str, Any]]:
    """Return the characters of a formatted text that are responses.

    A response goes from the end of a response marker to the start of the next marker of either
    kind, or to the end of the text; turns of one kind may follow each other. Without instruction
    markers nothing tells where a response ends: then only the last response marker counts, and all
    that follows it, as in TRL's ``DataCollatorForCompletionOnlyLM``.

    Args:
        text: The formatted text.
        response_template: What stands before a response; several strings for several roles.
        instruction_template: What stands before any other turn.

    Returns:
        One ``{"start", "end", "weight"}`` for each response that is not empty: half-open,
        ascending, characters of ``text``, weight 1.0.

    Raises:
        PolicyError: A marker is empty or no string, or is a response's and an instruction's.
        InputError: No response marker, or no instruction marker though some are given, is in the
            text (``marker_absent``), or all responses are empty (``empty_response``).

    Example:
        >>> text = "Q: 1+1? A: 2 Q: 2+2? A: 4"
        >>> [text[r["start"]:r["end"]] for r in ranges(text, "A:", "Q:")]
        [' 2 ', ' 4']
        >>> [text[r["start"]:r["end"]] for r in ranges(text, "A:")]
        [' 4']
    """
    responses, instructions = checked_markers(response_template, instruction_template)
    if not isinstance(text, str):
        raise InputError(f"expected text to find markers in, got {type(text).__name__}")
    found = find_markers(text, responses, instructions)
    check_present(found, responses, instructions, beginning(text))
    pairs = responses_between(found, len(text), take_last=not instructions)
    if not pairs:
        raise empty_response(beginning(text))
    return [{"start": start, "end": end, "weight": 1.0} for start, end in pairs]


def checked_markers(
    response_template: Marker, instruction_template: Marker | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return response and instruction markers, each as a tuple.

    Raises:
        PolicyError: There is no response marker, a marker is empty or no string, or one is both.
    """
    responses = _as_tuple(response_template, "response_template")
    instructions: tuple[str, ...] = ()
    if instruction_template is not None:
        instructions = _as_tuple(instruction_template, "instruction_template")
    for marker in responses:
        if marker in instructions:
            raise PolicyError(f"{marker!r} is a response marker and an instruction marker")
    return responses, instructions


def _as_tuple(given: Marker, name: str) -> tuple[str, ...]:
    markers = (given,) if isinstance(given, str) else tuple(given)
    if not markers:
        raise PolicyError(f"{name} is empty; give a string such as '### Assistant:'")
    for marker in markers:
        if not isinstance(marker, str) or not marker:
            raise PolicyError(
                f"{name} holds {marker!r}; give strings such as '### Assistant:', none of them "
                "empty"
            )
    return markers


def find_markers(
    text: str, responses: Sequence[str], instructions: Sequence[str] = ()
) -> list[Occurrence]:
    r"""Return where the markers stand, ascending.

    Markers may overlap (``A:\n`` and ``\nQ:`` in ``A:\nQ:``). One that lies inside a longer one is
    no marker there (``### Assistant:`` in ``\n### Assistant:``).
    """
    found = [
        Occurrence(match.start(), match.start() + len(marker), is_response)
        for markers, is_response in ((responses, True), (instructions, False))
        for marker in dict.fromkeys(markers)
        for match in re.finditer(f"(?={re.escape(marker)})", text)
    ]
    kept: list[Occurrence] = []
    for each in sorted(found, key=lambda each: (each.start, -each.end)):
        if not kept or each.end > kept[-1].end:
            kept.append(each)
    return kept


def responses_between(
    found: Sequence[Occurrence], length: int, *, take_last: bool
) -> list[tuple[int, int]]:
    """Return the interval of each response that is not empty.

    Args:
        found: The markers, ascending.
        length: Of the text.
        take_last: Whether only what follows the last response marker counts, to the end.
    """
    if take_last:
        found = [each for each in found if each.is_response][-1:]
    ends = [*(each.start for each in found[1:]), length]
    return [
        (each.end, end)
        for each, end in zip(found, ends, strict=True)
        if each.is_response and each.end < end
    ]


def check_present(
    found: Sequence[Occurrence], responses: Sequence[str], instructions: Sequence[str], where: str
) -> None:
    """Refuse a text without a marker of each kind that is asked for.

    Raises:
        InputError: With the reason ``marker_absent``; names the markers and ``where``.
    """
    for markers, is_response in ((responses, True), (instructions, False)):
        if markers and not any(each.is_response is is_response for each in found):
            kind = "response" if is_response else "instruction"
            names = " or ".join(map(repr, markers))
            raise InputError(
                f"the {kind} marker {names} is not in {where}; nothing would tell what to train: "
                "correct the marker, or take such rows out (too short a max_length cuts it off)",
                reason="marker_absent",
            )


def empty_response(where: str) -> InputError:
    """Return the error for a text in which nothing follows any response marker."""
    return InputError(
        f"nothing follows the response marker in {where}: there is nothing to train; take such "
        "rows out (too short a max_length cuts the response off)",
        reason="empty_response",
    )


def beginning(text: str) -> str:
    """Name a text by how it begins."""
    more = "…" if len(text) > _SHOWN else ""
    return f"the text that begins {text[:_SHOWN] + more!r}"
