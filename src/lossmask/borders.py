"""Where the prompt of a turn ends inside its full rendering.

Mostly the full rendering begins with the prompt, and the border is the prompt's length. This file
is about the templates where it does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lossmask.errors import ParityError
from lossmask.example import Finding
from lossmask.rendering import shared_length
from lossmask.stops import Stops
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import Origins

_TAG = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{1,40}\]")
_WINDOW = 256


@dataclass(frozen=True, slots=True, eq=False)
class Border:
    """Text of an example with the position where the model takes over.

    Attributes:
        text: Prompt, completion and what follows.
        origins: int64 (n,), origin per character.
        start: Characters of the prompt.
        tail: Where the completion begins in the full rendering; differs from ``start`` where the
            text is not the full rendering but the prompt followed by a part of it.
        findings: What was noticed.
    """

    text: str
    origins: Origins
    start: int
    tail: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class PromptRenderings:
    """The prompt of a turn, rendered on demand where its text alone does not tell the border.

    Attributes:
        text: ``prompt(i)``.
        traced: Renders it with origins.
        uninvited: Renders the same messages without generation prompt.
    """

    text: str
    traced: Callable[[], Rendering]
    uninvited: Callable[[], str]


def find_border(
    index: int,
    prompt: PromptRenderings,
    full: Rendering,
    added_tokens: re.Pattern[str],
    stops: Stops,
) -> Border:
    """Find where assistant message ``index`` begins to be generated.

    Args:
        index: The assistant message.
        prompt: ``prompt(index)``.
        full: ``full(index)``, with origins.
        added_tokens: Matches texts that a common prefix must not end inside of.
        stops: The stop tokens; where the message wrote nothing, the next one ends its header.

    Raises:
        ParityError: What precedes the answer in the full rendering is not what inference sees.
    """
    if full.text.startswith(prompt.text):
        return Border(full.text, full.origins, len(prompt.text), len(prompt.text), ())
    traced = prompt.traced()
    tags = (_TAG, added_tokens)
    first = full.places.begin_of_message(index, len(full.text))
    is_shown = first < len(full.text)
    uninvited = prompt.uninvited()
    prompt_context, full_context = _ends_of_context(index, traced, full, first, uninvited, tags)
    generation_prompt = prompt.text[prompt_context:]
    header = full.text[full_context:first]
    common = _whole_tags(
        shared_length(generation_prompt, header), (generation_prompt, header), tags
    )
    if not is_shown and (stop := stops.pattern.search(header, common)):
        header = header[: stop.start()]
    respelled = _end_of_respelled(index, generation_prompt, header, common, tags)
    if respelled is not None:
        return _respelled(index, traced, full, full_context + respelled, generation_prompt, header)
    if prompt.text[:prompt_context] == full.text[:full_context]:
        if is_shown and _is_glued(prompt.text, uninvited, prompt_context, header, stops):
            return _context_differs(index, traced, full, full_context, "", header, 0)
        _check_kept(index, prompt.text, full.text, uninvited)
        return _mismatch(index, full, full_context, generation_prompt, header, common)
    return _context_differs(index, traced, full, full_context, generation_prompt, header, common)


def _is_glued(prompt: str, uninvited: str, context: int, header: str, stops: Stops) -> bool:
    """Return whether the template joins an answer to the one before it, by white space alone.

    The finished conversation leaves out the stop token between them, which inference has seen.
    """
    ended = stops.pattern.match(prompt, context) is not None
    return ended and prompt == uninvited and not header.strip()


def _check_kept(index: int, prompt: str, full: str, uninvited: str) -> None:
    """Refuse a finished turn before which the context ends otherwise than in the prompt.

    Some templates join an answer to the one before it, with words that could be a header.
    """
    if prompt.startswith(uninvited) and not full.startswith(uninvited.rstrip()):
        at = shared_length(uninvited, full)
        raise ParityError(
            f"the messages before the answer end with {uninvited[at:]!r} in the prompt, but with "
            f"{full[at : at + 20]!r} in the finished conversation",
            reason="prompt_differs",
            message_index=index,
        )


def _mismatch(
    index: int, full: Rendering, context: int, generation_prompt: str, header: str, common: int
) -> Border:
    """Take the common prefix of generation prompt and header as the prompt's end."""
    finding = Finding(
        "generation_prompt_mismatch",
        f"the generation prompt is {generation_prompt!r}, but the finished turn begins with "
        f"{header!r}: only {generation_prompt[:common]!r} is taken as the prompt",
        index,
    )
    return Border(full.text, full.origins, context + common, context + common, (finding,))


def _respelled(
    index: int, prompt: Rendering, full: Rendering, tail: int, generation_prompt: str, header: str
) -> Border:
    """Put what follows the header of the finished turn behind the prompt itself."""
    finding = Finding(
        "header_respelled",
        f"the generation prompt is {generation_prompt!r}, but the finished turn spells the same "
        f"header {header!r}; the example is the prompt as inference sees it, followed by the "
        "completion",
        index,
    )
    return _joined(prompt, full, tail, finding)


def _joined(prompt: Rendering, full: Rendering, tail: int, finding: Finding) -> Border:
    return Border(
        prompt.text + full.text[tail:],
        np.concatenate([prompt.origins, full.origins[tail:]]),
        len(prompt.text),
        tail,
        (finding,),
    )


def _context_differs(
    index: int,
    prompt: Rendering,
    full: Rendering,
    context: int,
    generation_prompt: str,
    header: str,
    common: int,
) -> Border:
    """Put what follows the generation prompt in the full rendering behind the prompt itself."""
    if common < len(generation_prompt):
        raise ParityError(
            "the finished conversation changes what precedes the answer, and begins it with "
            f"{header!r} instead of the generation prompt {generation_prompt!r}",
            reason="prompt_differs",
            message_index=index,
        )
    finding = Finding(
        "context_differs",
        "the template shows earlier messages differently once the answer is there; the example "
        "is the prompt as inference sees it, followed by the completion",
        index,
    )
    return _joined(prompt, full, context + common, finding)


def _ends_of_context(
    index: int,
    prompt: Rendering,
    full: Rendering,
    first: int,
    uninvited: str,
    tags: tuple[re.Pattern[str], ...],
) -> tuple[int, int]:
    """Return where the messages before ``index`` end in the prompt and in the full rendering.

    Told by the turn marks, but never behind the point where the prompt departs from the same
    messages without generation prompt (which some templates write inside the loop); where the
    template has no loop over messages, by the last character that an earlier message wrote. Either
    way that character must be the same one in both.
    """
    ends = [at for at, mark in prompt.marks if mark.kind == "end"]
    starts = [
        at
        for at, mark in full.marks
        if mark.kind == "start" and mark.message_index == index and at <= first
    ]
    prompt_written = _end_of_written(prompt, len(prompt.text))
    full_written = _end_of_written(full, first)
    if not _same_character(prompt, prompt_written, full, full_written):
        raise ParityError(
            "the answer follows other text in the finished conversation than in the prompt",
            reason="prompt_differs",
            message_index=index,
        )
    if not ends or not starts or ends[-1] < prompt_written or starts[-1] < full_written:
        return prompt_written, full_written
    if uninvited == prompt.text:  # the template has no generation prompt: all of it is context
        return len(prompt.text), starts[-1]
    departs = _whole_tags(shared_length(prompt.text, uninvited), (prompt.text, uninvited), tags)
    return min(ends[-1], max(prompt_written, departs)), starts[-1]


def _end_of_written(rendering: Rendering, limit: int) -> int:
    """Return the position behind the last character before ``limit`` that a message wrote."""
    written = np.flatnonzero(rendering.origins[:limit] >= 0)
    return int(written[-1]) + 1 if written.size else 0


def _same_character(a: Rendering, a_end: int, b: Rendering, b_end: int) -> bool:
    if not a_end or not b_end:
        return a_end == b_end
    return bool(a.origins[a_end - 1] == b.origins[b_end - 1])


def _whole_tags(at: int, texts: tuple[str, str], tags: tuple[re.Pattern[str], ...]) -> int:
    """Move a position back so that it lies inside no control token of either text."""
    cut = at
    for text in texts:
        for pattern in tags:
            for found in pattern.finditer(text, max(0, at - _WINDOW), at + _WINDOW):
                if found.start() < cut < found.end():
                    cut = found.start()
    return cut


def _end_of_respelled(
    index: int, generation_prompt: str, header: str, common: int, tags: tuple[re.Pattern[str], ...]
) -> int | None:
    """Return where a header that is merely spelled differently ends, None if it is not.

    It is if both sides write the same control token behind their common prefix (a stray newline
    before the header, say): then that prefix would train text that the engine supplies. The header
    ends behind the last such token and the common prefix of what follows; where the generation
    prompt goes on, so does white space that the finished turn has there instead.
    """
    left, right = generation_prompt[common:], header[common:]
    found = [tag for pattern in tags for tag in pattern.finditer(left) if tag.group() in right]
    if not found:
        return None
    last = max(found, key=lambda tag: tag.end())
    if right.count(last.group()) > 1:
        raise ParityError(
            f"the generation prompt {generation_prompt!r} and the header of the finished turn "
            f"{header!r} both write {last.group()!r}, but not alike",
            reason="prompt_differs",
            message_index=index,
        )
    start = right.index(last.group()) + len(last.group())
    supplied, written = left[last.end() :], right[start:]
    shared = _whole_tags(shared_length(supplied, written), (supplied, written), tags)
    if shared < len(supplied):
        shared += len(written[shared:]) - len(written[shared:].lstrip())
    return common + start + shared
