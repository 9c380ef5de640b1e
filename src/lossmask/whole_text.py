"""Messages of any role inside the text of an example, beyond what inference would generate.

In: a rendering with its tokens. Out: where a message, or a ``{% generation %}`` block, lies in it.
The policy asks for these by ``train_on`` with other roles than the assistant or ``"all"``, and by
``spans="tags"``; nothing here is at parity, nor claims to be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lossmask.completions import Turn
from lossmask.errors import ParityError, TemplateError
from lossmask.example import Finding
from lossmask.protocols import AnyTokenizer
from lossmask.stops import Stops
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import Mark
from lossmask.turn_tokens import TokenizedTurn
from lossmask.weighting import first_visible

NOBODY = -1
_SPACE = re.compile(r"\s*")


def whole_text(whole: Rendering, tokenizer: AnyTokenizer) -> TokenizedTurn:
    """Return a rendering as a turn of nobody's, all of it prompt."""
    n = len(whole.text)
    turn = Turn(NOBODY, whole.text, whole.origins, whole.leaves, n, n, None, ())
    [tokens] = tokenizer.encode([whole.text], [whole.origins])
    return TokenizedTurn(turn, tokens, n, len(tokens), len(tokens), ())


def message_in(
    base: TokenizedTurn, index: int, stops: Stops, *, is_answer: bool = False
) -> TokenizedTurn | None:
    """Return what message ``index`` wrote in a text, with a stop token right behind it.

    Args:
        base: The text.
        index: The message.
        stops: The stop tokens.
        is_answer: An assistant's: the template may write more than white space before its stop.

    Returns:
        None if the text shows nothing of it.

    Raises:
        ParityError: Text of another message lies in between.
    """
    text, rendering = base.turn.text, base.turn.rendering
    end = rendering.places.end_of_message(index, len(text))
    if not end:
        return None
    start = rendering.places.begin_of_message(index, len(text))
    owner = rendering.message_index(start, end)
    foreign = np.flatnonzero((owner >= 0) & (owner != index))
    if foreign.size:
        raise ParityError(
            f"the template puts text of message {int(owner[foreign[0]])} inside this one: it "
            "cannot be trained as one piece",
            reason="foreign_text",
            message_index=index,
        )
    space = _SPACE.match(text, end)
    behind = space.end() if space else end
    stop = (stops.pattern.search if is_answer else stops.pattern.match)(text, behind)
    if stop is None or (rendering.origins[end : stop.end()] >= 0).any():
        return _laid(base, index, start, end, None)
    run = stops.first_run(text, stop.start()) or stop
    return _laid(base, index, start, run.end(), run.group())


def tagged_in(base: TokenizedTurn, whole: Rendering, stops: Stops) -> Iterator[TokenizedTurn]:
    """Yield what lies between ``{% generation %}`` and ``{% endgeneration %}``.

    Raises:
        TemplateError: The template has no such tags.
        ParityError: It cannot be told whose a block is.
    """
    starts = [(at, mark) for at, mark in whole.marks if mark.kind == "generation_start"]
    ends = [at for at, mark in whole.marks if mark.kind == "generation_end"]
    if not starts:
        raise TemplateError(
            "the template has no {% generation %} tags for this conversation, and the policy is "
            'spans="tags": use spans="contract"',
            reason="no_tags",
        )
    if len(starts) != len(ends) or any(s > e for (s, _), e in zip(starts, ends, strict=True)):
        raise TemplateError(
            "the template moves text with {% generation %} tags so that their blocks cannot be "
            'told: use spans="contract"',
            reason="no_tags",
        )
    owner = whole.message_index()
    for (start, mark), end in zip(starts, ends, strict=True):
        owners = np.unique(owner[start:end][owner[start:end] >= 0]).tolist()
        if len(owners) > 1:
            raise ParityError(
                f"a {{% generation %}} block holds text of the messages {owners}",
                reason="foreign_text",
                message_index=owners[-1],
            )
        if end > start:
            index = owners[0] if owners else _written_for(mark, owner[:start])
            found = [*stops.pattern.finditer(whole.text, start, end)]
            stop = found[-1] if found and not whole.text[found[-1].end() : end].strip() else None
            if stop is not None and (owner[stop.start() : end] >= 0).any():  # the message's own
                stop = None
            yield _laid(base, index, start, end, stop and stop.group())


def _written_for(mark: Mark, owner: npt.NDArray[np.int32]) -> int:
    """Return whose block of the template's own text it is: of its turn in the loop, or before."""
    if mark.message_index >= 0:
        return mark.message_index
    before = owner[owner >= 0]
    if not before.size:
        raise ParityError(
            "a {% generation %} block that no message wrote anything in stands before all of them",
            reason="foreign_text",
        )
    return int(before[-1])


def differing_tags(tagged: Sequence[TokenizedTurn], turns: Sequence[Turn]) -> tuple[Finding, ...]:
    """Return a finding for each message whose tags are not what inference generates."""
    generated = {
        turn.message_index: (turn.text[: turn.prompt_end], _completion(turn)) for turn in turns
    }
    findings = []
    for each in tagged:
        index, turn = each.turn.message_index, each.turn
        before, completion = generated.get(index, ("", ""))
        if (turn.text[: turn.prompt_end], _completion(turn)) != (before, completion):
            findings.append(
                Finding(
                    "tags_differ",
                    f"the template's tags hold {_completion(turn)[:60]!r}, inference generates "
                    f"{completion[:60]!r}" + ("" if index in generated else " (nothing at all)"),
                    index,
                )
            )
    tagged_messages = {each.turn.message_index for each in tagged}
    findings += [
        Finding(
            "tags_differ",
            f"the template's tags hold nothing, inference generates {_completion(turn)[:60]!r}",
            turn.message_index,
        )
        for turn in turns
        if turn.message_index not in tagged_messages
    ]
    return tuple(findings)


def _completion(turn: Turn) -> str:
    return turn.text[turn.prompt_end : turn.completion_end]


@lru_cache(maxsize=1)  # one text, many messages
def _first_visible(base: TokenizedTurn) -> npt.NDArray[np.intp]:
    return first_visible(base.turn.text, base.tokens.offsets)


def _laid(base: TokenizedTurn, index: int, start: int, end: int, stop: str | None) -> TokenizedTurn:
    """Return characters of a text as a turn with its tokens."""
    first = _first_visible(base)
    inside = np.flatnonzero((first >= start) & (first < end))
    if not inside.size:
        raise ParityError(
            f"{base.turn.text[start:end][:40]!r} comes out as no token of its own",
            reason="nothing_generated",
            message_index=index,
        )
    turn = replace(
        base.turn, message_index=index, prompt_end=start, completion_end=end, stop=stop, findings=()
    )
    token_start, token_end = int(inside[0]), int(inside[-1]) + 1
    return TokenizedTurn(turn, base.tokens, start, token_start, token_end, ())
