"""The contract: where the prompt of a turn ends and what the model generates after it.

For the assistant message ``i`` of a conversation ``m``::

    prompt(i)     = m[:i] rendered with the generation prompt
    full(i)       = m[:i+1] rendered without it
    completion(i) = full(i) minus prompt(i), up to and including the first stop token after the last
                    character that message i contributed

In: a message, its prompt and its full rendering. Out: one :class:`Turn`, or a :class:`ParityError`
that says why the completion cannot be told. Everything here is characters; ``turn_tokens`` goes on
with ids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import numpy as np

from lossmask.borders import PromptRenderings, find_border
from lossmask.errors import ParityError
from lossmask.example import Finding
from lossmask.leaf_places import LeafPlaces
from lossmask.rendering import Message
from lossmask.stops import Stops
from lossmask.traced_rendering import Leaf, Rendering
from lossmask.traced_text import LITERAL, Origins
from lossmask.written import THINK_PAIRS, check_written

NOTHING_TO_TRAIN = frozenset(
    {"no_prompt", "nothing_generated", "content_dropped", "arguments_torn"}
)
"""Reasons for which one turn stays out of the loss: no model could be asked for a completion.

Any other :class:`ParityError` means that there is one and it cannot be told: the row is refused.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    r"""One assistant message as inference would have it.

    ``text[:prompt_end]`` is the prompt, ``text[prompt_end:completion_end]`` the completion, the
    rest scaffolding::

        <|user|>Hi<|assistant|>Hello<|end|>\n
        prompt-----------------|completion-|

    Attributes:
        message_index: The assistant message.
        text: Prompt, completion, scaffolding.
        origins: int64 (n,), origin per character of ``text``.
        leaves: What the origins index.
        prompt_end: Characters of the prompt.
        completion_end: Characters up to the end of the completion.
        stop: The stop token that ends the completion, None if the template writes none.
        findings: What was noticed.
        places: Where the leaves stand; shared by turns whose texts begin alike, one being the
            beginning of the other.
    """

    message_index: int
    text: str
    origins: Origins
    leaves: tuple[Leaf, ...]
    prompt_end: int
    completion_end: int
    stop: str | None
    findings: tuple[Finding, ...]
    places: LeafPlaces = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.places is None or not self.places.are_of(self.origins):
            object.__setattr__(self, "places", LeafPlaces(self.origins, self.leaves))

    @property
    def rendering(self) -> Rendering:
        """The text with its origins."""
        return Rendering(self.text, self.origins, self.leaves, (), places=self.places)

    def extended_to(self, whole: Rendering) -> Turn:
        """Return the turn with what follows it in the whole rendering, where that begins alike."""
        if self.stop is None or not self.is_shown_by(whole):
            return self
        return self._in(whole)

    def _in(self, whole: Rendering) -> Turn:
        return replace(
            self,
            text=whole.text,
            origins=whole.origins,
            leaves=whole.leaves,
            places=whole.places,
        )

    def stopped_by_next_header(self, whole: Rendering, stops: Stops) -> Turn:
        """Return the turn with the stop token that the next message's header begins with.

        GLM-type templates write no end of turn: the model stops by generating the next header
        (``<|user|>``, ``<|observation|>``), which the rendering shows only if a message follows.
        """
        if self.stop is not None or not (
            self.places is whole.places or whole.text.startswith(self.text)
        ):
            return self
        found = stops.pattern.match(whole.text, len(self.text))
        if found is None or (whole.origins[found.start() : found.end()] >= 0).any():
            return self
        stopped = replace(
            self,
            completion_end=found.end(),
            stop=found.group(),
            findings=_without_no_stop(self.findings),
        )
        return stopped._in(whole)

    def is_shown_by(self, whole: Rendering) -> bool:
        """Return whether a rendering begins with prompt and completion of this turn."""
        if self.places is whole.places:
            return self.completion_end <= len(whole.text)
        return whole.text.startswith(self.text[: self.completion_end])

    def with_stop(self, stop: str, end: int, source: str) -> Turn:
        """Return the turn cut at ``end``, with a stop token that the template does not write."""
        finding = Finding(
            "stop_appended",
            f"the template ends the turn without a stop token; {stop!r} is appended, {source}",
            self.message_index,
        )
        return replace(
            self,
            text=self.text[:end] + stop,
            origins=np.concatenate([self.origins[:end], np.full(len(stop), LITERAL)]),
            completion_end=end + len(stop),
            stop=stop,
            findings=(*_without_no_stop(self.findings), finding),
        )


def derive_turn(
    message: Message,
    index: int,
    *,
    prompt: PromptRenderings,
    full: Rendering,
    stops: Stops,
    added_tokens: re.Pattern[str],
) -> Turn:
    """Derive prompt and completion of assistant message ``index``.

    Args:
        message: The message.
        index: Its index.
        prompt: ``prompt(index)``.
        full: ``full(index)``, with origins.
        stops: The stop tokens.
        added_tokens: Matches texts that a common prefix must not end inside of.

    Raises:
        ParityError: The completion cannot be told with certainty.
    """
    border = find_border(index, prompt, full, added_tokens, stops)
    rendering = replace(full, text=border.text, origins=border.origins)
    start = border.start
    end, stop = _find_end(rendering, index, start, stops)
    findings = border.findings + check_written(message, index, rendering, end)
    _check_own(rendering, index, start, end)
    _check_think(border.text, index, start, end)
    if stop is None:
        findings += (_no_stop(border.text[start:end], index, stops),)
    return Turn(
        index,
        border.text,
        border.origins,
        full.leaves,
        start,
        end,
        stop,
        findings,
        rendering.places,
    )


def turn_as_rendered(
    message: Message,
    index: int,
    *,
    prompt: PromptRenderings,
    whole: Rendering,
    stops: Stops,
    added_tokens: re.Pattern[str],
) -> Turn:
    """Derive assistant message ``index`` as a later rendering shows it, not as it was generated.

    Args:
        message: The message.
        index: Its index.
        prompt: ``prompt(index)``.
        whole: A rendering of more messages than ``index + 1``.
        stops: The stop tokens.
        added_tokens: Matches texts that a common prefix must not end inside of.

    Raises:
        ParityError: It cannot be told where the turn begins or ends there.
    """
    start = find_border(index, prompt, whole, added_tokens, stops).tail
    end, stop = _find_end(whole, index, start, stops)
    findings = check_written(message, index, whole, end)
    _check_own(whole, index, start, end)
    if stop is None:
        findings += (_no_stop(whole.text[start:end], index, stops),)
    rewritten = Finding(
        "history_rewritten",
        "trained as the whole conversation shows this turn, which is not how it was generated: the "
        'policy is history="as_rendered"',
        index,
    )
    return Turn(
        index,
        whole.text,
        whole.origins,
        whole.leaves,
        start,
        end,
        stop,
        (rewritten, *findings),
        whole.places,
    )


def _find_end(rendering: Rendering, index: int, start: int, stops: Stops) -> tuple[int, str | None]:
    """Return where the completion ends and the stop token it ends with."""
    written = max(start, rendering.places.end_of_message(index, len(rendering.text)))
    _check_no_stop_before(stops, rendering, index, start, written)
    found = stops.first_run(rendering.text, written)
    return (len(rendering.text), None) if found is None else (found.end(), found.group())


def _check_no_stop_before(
    stops: Stops, rendering: Rendering, index: int, start: int, written: int
) -> None:
    """Refuse a completion in which the template itself writes a stop token before the text ends."""
    for found in stops.pattern.finditer(rendering.text, start, written):
        if (rendering.origins[found.start() : found.end()] < 0).all():
            raise ParityError(
                f"the template writes the stop token {found.group()!r} before this message's text "
                f"ends, at {rendering.text[found.start() : found.end() + 20]!r}: inference would "
                "stop there and never generate the rest",
                reason="stop_inside",
                message_index=index,
            )


def _check_own(rendering: Rendering, index: int, start: int, end: int) -> None:
    """Refuse a completion that holds text of another message, or no text at all."""
    if end == start:
        raise ParityError(
            "the completion is empty: the template writes nothing for this message, not even a "
            "stop token",
            reason="nothing_generated",
            message_index=index,
        )
    owner = rendering.message_index(start, end)
    foreign = np.flatnonzero((owner >= 0) & (owner != index))
    if foreign.size:
        at = start + int(foreign[0])
        raise ParityError(
            f"the template puts text of message {int(owner[foreign[0]])} inside this message's "
            f"completion, at {rendering.text[at : at + 30]!r}",
            reason="foreign_text",
            message_index=index,
        )


def _check_think(text: str, index: int, start: int, end: int) -> None:
    """Refuse a completion that begins inside a think block which it never closes."""
    at = start
    while at and text[at - 1].isspace():
        at -= 1
    for opening, closing in THINK_PAIRS:
        if text.endswith(opening, 0, at) and closing not in text[start:end]:
            raise ParityError(
                f"the generation prompt opens {opening!r}, and this message never closes it: the "
                "answer would be learned as reasoning",
                reason="unclosed_think",
                message_index=index,
            )


def _without_no_stop(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.kind != "no_stop_token")


def _no_stop(completion: str, index: int, stops: Stops) -> Finding:
    return Finding(
        "no_stop_token",
        f"the template ends the turn with {completion[-24:]!r}, with none of the stop tokens "
        f"{', '.join(map(repr, stops.texts)) or '(none known)'} behind it",
        index,
    )


def no_prompt(index: int, why: str) -> ParityError:
    """Return the error for a message that no prompt leads to."""
    return ParityError(
        f"there is no prompt that inference could answer with this message: {why}",
        reason="no_prompt",
        message_index=index,
    )
