"""Does every prompt begin the finished conversation, and what is shown differently later.

In: trials. Out: facts, told from renderings of the beginnings of a few conversations::

    messages[:2]   <|user|>Hi<|end|><|bot|><think>Hm</think>Hello<|end|>
    messages[:3]   <|user|>Hi<|end|><|bot|>Hello<|end|><|user|>And?<|end|>
                                           ^ the reasoning is gone once the conversation goes on
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lossmask.diagnosis import Evidence, Fact, Rendered
from lossmask.encoder import Encoder
from lossmask.errors import ParityError
from lossmask.proof import Proof, prove_once
from lossmask.rendering import ChatTemplate, Message, shared_length
from lossmask.trial_renderings import (
    ARGUMENT,
    ASKED_AGAIN,
    DESCRIPTION,
    RESULT,
    SAID,
    SAID_AGAIN,
    THOUGHT,
    TOOLS,
    Trials,
    assistant,
    behind,
    calling,
    result,
    shows,
    system,
    thinking,
    thinking_inline,
    user,
)

CONVERSATIONS: dict[str, tuple[Message, ...]] = {
    "plain": (user(), assistant(), user(ASKED_AGAIN), assistant(SAID_AGAIN)),
    "with a system prompt": (system(), user(), assistant()),
    "with reasoning": (user(), thinking(), user(ASKED_AGAIN), thinking(SAID_AGAIN)),
    "with reasoning inline": (
        user(),
        thinking_inline(),
        user(ASKED_AGAIN),
        thinking_inline(SAID_AGAIN),
    ),
    "with a tool call": (user(), calling(), result(), assistant()),
    "with reasoning before a tool call": (
        user(),
        calling(thought=True),
        result(),
        assistant(),
        user(ASKED_AGAIN),
        assistant(SAID_AGAIN),
    ),
}
"""Conversations that beginnings are taken of."""
_OF_TURNS = (SAID, SAID_AGAIN, ARGUMENT, THOUGHT)

_LOST = (
    (SAID, "answer_dropped_later", "an earlier answer"),
    (ARGUMENT, "call_dropped_later", "an earlier tool call"),
    (THOUGHT, "reasoning_dropped_later", "the reasoning of an earlier turn"),
    (RESULT, "result_dropped_later", "an earlier tool result"),
)


def tools_of(messages: Sequence[Message]) -> tuple[dict[str, object], ...] | None:
    """Return tools for a conversation that calls one."""
    return TOOLS if any("tool_calls" in message for message in messages) else None


def facts_of_parity(trials: Trials, encoder: Encoder) -> Iterator[Fact]:
    """Yield what holds between prompts and conversations, and between the two derivations."""
    yield _prefix_fact(trials)
    yield _proof_fact(trials.template, encoder)
    yield from _encoding_facts(encoder)


def _prefix_fact(trials: Trials) -> Fact:
    tried, wrong = 0, list[tuple[Rendered, Rendered]]()
    for messages in CONVERSATIONS.values():
        tools = tools_of(messages)
        whole = trials.render(messages, tools=tools)
        for index, message in enumerate(messages):
            prompt = trials.render(messages[:index], tools=tools, asked=True)
            if message["role"] != "assistant" or whole.text is None or prompt.text is None:
                continue
            tried += 1
            if not whole.text.startswith(prompt.text):
                wrong.append((prompt, whole))
    if not tried:
        return Fact(
            "parity",
            "nothing_renders",
            "error",
            "None of the conversations tried can be rendered with and without its answers.",
            evidence=(Evidence(trials.render(CONVERSATIONS["plain"])),),
        )
    if not wrong:
        return Fact(
            "parity",
            "every_prompt_is_prefix",
            "ok",
            f"All {tried} prompts tried are the beginning of their finished conversation.",
            (f"{tried} of {tried}",),
        )
    return Fact(
        "parity",
        "prompt_is_no_prefix",
        "warning",
        f"Of {tried} prompts tried {len(wrong)} "
        + ("is not the beginning of its" if len(wrong) == 1 else "are not the beginning of their")
        + " finished conversation: labels cut out of the finished text would be off.",
        (f"{tried - len(wrong)} of {tried}",),
        _where_they_part(*min(wrong, key=_size)),
    )


def _size(pair: tuple[Rendered, Rendered]) -> int:
    return len(pair[1].messages)


def _where_they_part(first: Rendered, second: Rendered) -> tuple[Evidence, Evidence]:
    """Return two renderings from the character on in which they differ."""
    at = shared_length(first.text or "", second.text or "")
    return Evidence(first, at), Evidence(second, at)


def _proof_fact(template: ChatTemplate, encoder: Encoder) -> Fact:
    try:
        proof: Proof = prove_once(template, encoder._setting.template_variables)
    except ParityError as error:
        return Fact(
            "parity",
            "derivations_disagree",
            "error",
            f"Tracing and perturbation do not tell the same of who wrote what: {error}",
        )
    counts = str(proof.rendered), str(proof.skipped)
    if not proof.rendered:
        return Fact(
            "parity",
            "nothing_proven",
            "warning",
            "None of the conversations that tracing is proven on can be rendered and traced.",
            counts,
        )
    return Fact(
        "parity",
        "derivations_agree",
        "ok",
        f"Tracing and perturbation agree on who wrote each of {proof.characters:,} characters in "
        f"{proof.rendered} renderings; {proof.skipped} cannot be rendered or traced.",
        counts,
    )


def _encoding_facts(encoder: Encoder) -> Iterator[Fact]:
    """Yield what lossmask itself makes of the conversations, under the encoder's policy."""
    examples: dict[str, int] = {}
    refused: dict[str, tuple[str, str]] = {}
    for name, messages in CONVERSATIONS.items():
        row = {"messages": list(messages), "tools": list(tools_of(messages) or ()) or None}
        outcome = encoder.encode_row(row)
        if outcome.rejection is None:
            examples[name] = len(outcome.examples)
        else:
            refused[name] = outcome.rejection.reason, outcome.rejection.detail
    several = {name: count for name, count in examples.items() if count > 1}
    if examples:
        yield Fact(
            "parity",
            "several_examples" if several else "one_example",
            "note" if several else "ok",
            "To train each turn as it was generated, one conversation becomes several examples: "
            + _listed({name: f"{count}" for name, count in several.items()})
            + "."
            if several
            else f"Each of the {len(examples)} conversations that are encoded is one example.",
            tuple(f"{name}: {count}" for name, count in (several or examples).items()),
        )
    if refused:
        yield Fact(
            "parity",
            "refused",
            "warning" if examples else "error",
            "lossmask refuses the conversation "
            + _listed({name: reason for name, (reason, _) in refused.items()})
            + ".",
            tuple(f"{name}: {reason}" for name, (reason, _) in refused.items()),
        )


def _listed(items: dict[str, str]) -> str:
    return ", ".join(f"{name} ({value})" for name, value in items.items())


@dataclass(frozen=True, slots=True)
class _Rewriting:
    """A turn as it was shown when it was the last, and as it is shown once others follow."""

    kind: str
    what: str
    then: Rendered
    later: Rendered


def facts_of_history(trials: Trials) -> Iterator[Fact]:
    """Yield what is shown of a turn only as long as it is the last, with the smallest example."""
    found: dict[str, list[_Rewriting]] = {}
    compared = 0
    for messages in CONVERSATIONS.values():
        for then, later in _beginnings(trials, messages):
            compared += 1
            for rewriting in _rewritten(then, later):
                found.setdefault(rewriting.kind, []).append(rewriting)
    for kind, cases in found.items():
        smallest = min(cases, key=lambda case: len(case.later.messages))
        yield Fact(
            "history",
            kind,
            "note" if kind == "ending_differs_later" else "warning",
            f"Once the conversation goes on, {smallest.what}.",
            (_followed_by(smallest),),
            _where_they_part(smallest.then, smallest.later),
        )
    if compared and not found:
        yield Fact(
            "history",
            "history_kept",
            "ok",
            f"No turn is shown differently once others follow: {compared} beginnings compared.",
            (str(compared),),
        )


def _followed_by(rewriting: _Rewriting) -> str:
    following = rewriting.later.messages[len(rewriting.then.messages) :]
    return "followed by " + ", ".join(str(message["role"]) for message in following)


def _beginnings(trials: Trials, messages: Sequence[Message]) -> Iterator[tuple[Rendered, Rendered]]:
    """Yield each beginning that ends with an assistant's turn, and each longer one."""
    tools = tools_of(messages)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        then = trials.render(messages[: index + 1], tools=tools)
        for count in range(index + 2, len(messages) + 1):
            later = trials.render(messages[:count], tools=tools)
            if then.text is not None and later.text is not None:
                yield then, later


def _rewritten(then: Rendered, later: Rendered) -> Iterator[_Rewriting]:
    was, became = then.text or "", later.text or ""
    if became.startswith(was):
        return
    lost = False
    # a star that a later message holds as well is looked for in what precedes that message
    following = len(later.messages) - len(then.messages)
    repeated = repr(later.messages[-following:])
    for star, kind, what in _LOST:
        times = was.count(star) - (became.count(star) - repeated.count(star))
        if shows(was, star) and times > 0 and repeated.count(star) <= became.count(star):
            lost = True
            yield _Rewriting(kind, f"{what} is left out", then, later)
    if lost:
        return
    at = shared_length(was, became)
    if DESCRIPTION in was and was.find(DESCRIPTION) != became.find(DESCRIPTION):
        moved = DESCRIPTION in became
        kind = "tools_moved_later" if moved else "tools_dropped_later"
        what = f"the tools are {'written elsewhere' if moved else 'left out'}"
        yield _Rewriting(kind, what, then, later)
    elif at >= max(behind(was, star) for star in _OF_TURNS):
        what = "what followed the last answer is written differently"
        yield _Rewriting("ending_differs_later", what, then, later)
    else:
        what = "an earlier turn is spelled differently"
        yield _Rewriting("turn_respelled_later", what, then, later)
