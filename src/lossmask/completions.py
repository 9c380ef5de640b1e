"""The contract: where the prompt of a turn ends and what the model generates after it.

For the assistant message ``i`` of a conversation ``m``::

    prompt(i)     = m[:i] rendered with the generation prompt
    full(i)       = m[:i+1] rendered without it
    completion(i) = full(i) minus prompt(i), up to and including the first stop token after the last
                    character that message i contributed

In: a conversation and its template. Out: one :class:`Turn`, or a :class:`ParityError` that says
why the completion cannot be told. Everything here is characters; ``turn_tokens`` goes on with ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lossmask.conversation import Conversation
from lossmask.errors import ParityError
from lossmask.example import Finding
from lossmask.rendering import Leaf, Message, Rendering, shared_length
from lossmask.traced_text import Origins

NOTHING_TO_TRAIN = frozenset({"no_prompt", "nothing_generated", "content_dropped"})
"""Reasons for which one turn stays out of the loss: no model could be asked for a completion.

Any other :class:`ParityError` means that there is one and it cannot be told: the row is refused.
"""

_TAG = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{1,40}\]")
_THINK_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    r"""One assistant message as inference would have it.

    ``text[:prompt_end]`` is the prompt, ``text[prompt_end:completion_end]`` the completion, the
    rest scaffolding::

        <|user|>Hi<|assistant|>Hello<|end|>\\n
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
    """

    message_index: int
    text: str
    origins: Origins
    leaves: tuple[Leaf, ...]
    prompt_end: int
    completion_end: int
    stop: str | None
    findings: tuple[Finding, ...]

    @property
    def rendering(self) -> Rendering:
        """The text with its origins."""
        return Rendering(self.text, self.origins, self.leaves, ())

    def extended_to(self, whole: Rendering) -> Turn:
        """Return the turn with what follows it in the whole rendering, where that begins alike."""
        shared = self.text[: self.completion_end]
        if self.stop is None or not whole.text.startswith(shared):
            return self
        return replace(self, text=whole.text, origins=whole.origins, leaves=whole.leaves)


RenderPrompt = Callable[[], Rendering]


def derive_turn(
    conversation: Conversation,
    index: int,
    *,
    prompt_text: str,
    full: Rendering,
    render_prompt: RenderPrompt,
    stops: Sequence[str],
    eos: str | None,
    added_tokens: Sequence[str],
) -> Turn:
    """Derive prompt and completion of assistant message ``index``.

    Args:
        conversation: The whole conversation.
        index: The assistant message.
        prompt_text: ``prompt(index)``.
        full: ``full(index)``, with origins.
        render_prompt: Renders ``prompt(index)`` with origins; called only where it is needed.
        stops: Texts of the stop tokens.
        eos: The one of them that ends a sequence.
        added_tokens: Texts that a common prefix must not end inside of.

    Raises:
        ParityError: The completion cannot be told with certainty.
    """
    if full.text.startswith(prompt_text):
        text, origins, start = full.text, full.origins, len(prompt_text)
        findings: tuple[Finding, ...] = ()
    else:
        text, origins, start, findings = _reconcile(index, render_prompt(), full, added_tokens)
    rendering = replace(full, text=text, origins=origins)
    end, stop = _find_end(rendering, index, start, stops, eos)
    _check_written(conversation.messages[index], index, rendering, start, end)
    _check_own(rendering, index, start, end)
    _check_think(text, index, start, end)
    if stop is None:
        findings += (_no_stop(text[start:end], index, stops),)
    return Turn(index, text, origins, full.leaves, start, end, stop, findings)


def _reconcile(
    index: int, prompt: Rendering, full: Rendering, added_tokens: Sequence[str]
) -> tuple[str, Origins, int, tuple[Finding, ...]]:
    """Find the border where the full rendering does not begin with the prompt.

    Both renderings are cut where the messages before ``index`` end. What follows in the prompt is
    the generation prompt; what follows in the full rendering, up to the first character of the
    answer, is the ``header``. If only these two differ, their common prefix is the prompt's. If
    the context differs, the example is the prompt followed by what comes after the generation
    prompt in the full rendering, which must have it whole.
    """
    own = np.flatnonzero(full.message_index() == index)
    first = int(own[0]) if own.size else len(full.text)
    prompt_context, full_context = _ends_of_context(index, prompt, full, first)
    generation_prompt = prompt.text[prompt_context:]
    header = full.text[full_context:first]
    common = _common_prefix(generation_prompt, header, added_tokens)
    if prompt.text[:prompt_context] == full.text[:full_context]:
        finding = Finding(
            "generation_prompt_mismatch",
            f"the generation prompt is {generation_prompt!r}, but the finished turn begins with "
            f"{header!r}: only {generation_prompt[:common]!r} is taken as the prompt",
            index,
        )
        return full.text, full.origins, full_context + common, (finding,)
    if common < len(generation_prompt):
        raise ParityError(
            f"the finished conversation changes what precedes the answer, and begins it with "
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
    tail = full_context + common
    return (
        prompt.text + full.text[tail:],
        np.concatenate([prompt.origins, full.origins[tail:]]),
        len(prompt.text),
        (finding,),
    )


def _ends_of_context(index: int, prompt: Rendering, full: Rendering, first: int) -> tuple[int, int]:
    """Return where the messages before ``index`` end in the prompt and in the full rendering.

    Told by the turn marks; where the template has no loop over messages, by the last character
    that an earlier message wrote. Either way that character must be the same one in both.
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
    if ends and starts and ends[-1] >= prompt_written and starts[-1] >= full_written:
        return ends[-1], starts[-1]
    return prompt_written, full_written


def _end_of_written(rendering: Rendering, limit: int) -> int:
    """Return the position behind the last character before ``limit`` that a message wrote."""
    written = np.flatnonzero(rendering.origins[:limit] >= 0)
    return int(written[-1]) + 1 if written.size else 0


def _same_character(a: Rendering, a_end: int, b: Rendering, b_end: int) -> bool:
    if not a_end or not b_end:
        return a_end == b_end
    return bool(a.origins[a_end - 1] == b.origins[b_end - 1])


def _common_prefix(a: str, b: str, added_tokens: Sequence[str]) -> int:
    """Return the length of the common prefix, cut back so as not to end inside a control token."""
    common = shared_length(a, b)
    tokens = "|".join(re.escape(token) for token in added_tokens if token)
    shapes = [_TAG] if not tokens else [_TAG, re.compile(tokens)]
    for text in (a, b):
        for found in (match for shape in shapes for match in shape.finditer(text)):
            if found.start() < common < found.end():
                common = found.start()
    return common


def _find_end(
    rendering: Rendering, index: int, start: int, stops: Sequence[str], eos: str | None
) -> tuple[int, str | None]:
    """Return where the completion ends and the stop token it ends with."""
    own = np.flatnonzero(rendering.message_index()[start:] == index)
    written = start + int(own[-1]) + 1 if own.size else start
    by_length = sorted(filter(None, stops), key=len, reverse=True)
    if not by_length:
        return len(rendering.text), None
    pattern = re.compile("|".join(map(re.escape, by_length)))
    _check_no_stop_before(pattern, rendering, index, start, written)
    found = pattern.search(rendering.text, written)
    if found is None:
        return len(rendering.text), None
    while found.group() != eos and (adjacent := pattern.match(rendering.text, found.end())):
        found = adjacent
    return found.end(), found.group()


def _check_no_stop_before(
    stops: re.Pattern[str], rendering: Rendering, index: int, start: int, written: int
) -> None:
    """Refuse a completion in which the template itself writes a stop token before the text ends."""
    for found in stops.finditer(rendering.text, start, written):
        if (rendering.origins[found.start() : found.end()] < 0).all():
            raise ParityError(
                f"the template writes the stop token {found.group()!r} before this message's text "
                f"ends, at {rendering.text[found.start() : found.end() + 20]!r}: inference would "
                "stop there and never generate the rest",
                reason="stop_inside",
                message_index=index,
            )


def _check_written(
    message: Message, index: int, rendering: Rendering, start: int, end: int
) -> None:
    """Refuse a turn of which the template left out visible text or a tool call."""
    shown = {
        leaf.path
        for leaf in rendering.leaves_shown(start, end)
        if leaf.message_index == index and not leaf.is_key
    }
    missing = [path for path in _visible_paths(message) if path not in shown]
    if missing:
        raise ParityError(
            f"the template did not render {', '.join(map(repr, missing))} of this message: "
            "training on what is left would teach an answer that nobody gave",
            reason="content_dropped",
            message_index=index,
        )


def _visible_paths(message: Message) -> list[str]:
    content = message.get("content")
    paths = ["content"] if isinstance(content, str) and content.strip() else []
    if isinstance(content, list):
        for number, part in enumerate(content):
            if isinstance(part, dict) and str(part.get("text") or "").strip():
                paths.append(f"content/{number}/text")
            elif isinstance(part, str) and part.strip():
                paths.append(f"content/{number}")
    for number, call in enumerate(message.get("tool_calls") or []):
        if isinstance(call, dict):
            inner = "function/name" if isinstance(call.get("function"), dict) else "name"
            paths.append(f"tool_calls/{number}/{inner}")
    return paths


def _check_own(rendering: Rendering, index: int, start: int, end: int) -> None:
    """Refuse a completion that holds text of another message, or no text at all."""
    if end == start:
        raise ParityError(
            "the completion is empty: the template writes nothing for this message, not even a "
            "stop token",
            reason="nothing_generated",
            message_index=index,
        )
    owner = rendering.message_index()[start:end]
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
    for opening, closing in _THINK_PAIRS:
        opened = text.rfind(opening, 0, start)
        is_open = opened > text.rfind(closing, 0, start)
        is_last = not text[opened + len(opening) : start].strip()
        if is_open and is_last and closing not in text[start:end]:
            raise ParityError(
                f"the generation prompt opens {opening!r}, and this message never closes it: the "
                "answer would be learned as reasoning",
                reason="unclosed_think",
                message_index=index,
            )


def _no_stop(completion: str, index: int, stops: Sequence[str]) -> Finding:
    return Finding(
        "no_stop_token",
        f"the turn ends with {completion[-24:]!r}, which holds none of the stop tokens "
        f"{', '.join(map(repr, stops)) or '(none known)'}: name the right one with --stop",
        index,
    )


def no_prompt(index: int, why: str) -> ParityError:
    """Return the error for a message that no prompt leads to."""
    return ParityError(
        f"there is no prompt that inference could answer with this message: {why}",
        reason="no_prompt",
        message_index=index,
    )
