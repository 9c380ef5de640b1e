"""What becomes of system prompts, and which orders of roles a template takes.

In: trials. Out: facts. A default system prompt is what a template writes before the first question
of a conversation without one, and not before the next question.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lossmask.control_tokens import control_tokens_of
from lossmask.diagnosis import Evidence, Fact, Rendered, Verdict
from lossmask.rendering import Message, shared_length
from lossmask.setting import Setting
from lossmask.stops import any_of
from lossmask.trial_renderings import (
    ASKED,
    ASKED_AGAIN,
    RESULT,
    SAID,
    SAID_AGAIN,
    SYSTEM,
    Trials,
    assistant,
    result,
    shows,
    system,
    user,
)

_WHERE = user()["content"].split()[0]
_BE = system()["content"].split()[0]


def facts_of_system(trials: Trials, setting: Setting) -> Iterator[Fact]:
    """Yield what becomes of a system prompt: none, at the beginning, in the middle."""
    given = trials.render([system(), user(), assistant()])
    header = _header_of_a_question(trials)
    yield _shown(given, header)
    yield from _default(trials, given, header, setting)
    middle = [user(), assistant(), system(), user(ASKED_AGAIN), assistant(SAID_AGAIN)]
    yield _in_the_middle(trials.render(middle))


def _header_of_a_question(trials: Trials) -> str:
    """Return what stands before every question: what two of one conversation end alike with."""
    text = trials.render([user(), assistant(), user(ASKED_AGAIN)]).text or ""
    first, second = text.find(f"{_WHERE} is {ASKED}"), text.find(f"{_WHERE} is {ASKED_AGAIN}")
    said = text.find(SAID)
    if not 0 <= first < said < second:
        return ""
    before, between = text[:first], text[said + len(SAID) + 1 : second]
    length = shared_length(before[::-1], between[::-1])
    return before[len(before) - length :]


def _shown(given: Rendered, header: str) -> Fact:
    evidence = (Evidence(given),)
    if given.text is None:
        return Fact(
            "system",
            "system_refused",
            "warning",
            "With a system prompt the template raises.",
            evidence=evidence,
        )
    if not shows(given.text, SYSTEM):
        return Fact(
            "system", "system_dropped", "warning", "A system prompt is left out.", (), evidence
        )
    at, question = given.text.find(SYSTEM), given.text.find(ASKED)
    if at > question >= 0:
        return Fact(
            "system",
            "system_behind_question",
            "note",
            "A system prompt is written behind the first question.",
            evidence=evidence,
        )
    between = given.text[at + len(SYSTEM) : question]
    if header.strip() and header.strip() not in between:
        return Fact(
            "system",
            "system_in_first_question",
            "note",
            "A system prompt becomes part of the first question.",
            evidence=(Evidence(given, 0, question + len(ASKED) + 1),),
        )
    return Fact("system", "system_shown", "ok", "A system prompt is shown.", (), evidence)


def _default(trials: Trials, given: Rendered, header: str, setting: Setting) -> Iterator[Fact]:
    """Yield what a template writes before a conversation that nobody put there."""
    rendered = trials.render([user(), assistant()])
    text = rendered.text or ""
    at = text.find(f"{_WHERE} is {ASKED}")
    if at < 0:
        return
    preamble = text[:at].removesuffix(header)
    control = any_of(tuple(control_tokens_of(setting.tokenizer, setting.stops).texts.values()))
    words = [word for word in control.sub(" ", preamble).split() if any(map(str.isalnum, word))]
    if len(words) < 2:  # one word is a header: <|im_start|>system
        yield Fact(
            "system",
            "no_default_system",
            "ok",
            "Without a system prompt the template writes no text of its own.",
            evidence=(Evidence(rendered, 0, at),),
        )
        return
    stays = max(preamble.splitlines(), key=len) in (given.text or "")
    kept = "a system prompt comes besides" if stays else "a system prompt replaces it"
    yield Fact(
        "system",
        "default_system_kept" if stays else "default_system",
        "note",
        f"Without a system prompt the template writes text of its own; {kept}.",
        (preamble,),
        (Evidence(rendered, 0, at),),
    )


def _in_the_middle(rendered: Rendered) -> Fact:
    evidence = (Evidence(rendered),)
    if rendered.text is None:
        kind, what = "middle_system_refused", "the template raises"
    elif not shows(rendered.text, SYSTEM):
        kind, what = "middle_system_dropped", "it is left out"
    elif rendered.text.find(SYSTEM) < rendered.text.find(ASKED):
        kind, what = "middle_system_moved", "it is moved to the beginning"
    else:
        kind, what = "middle_system_shown", "it is shown in its place"
    verdicts: dict[str, Verdict] = {"shown": "ok", "refused": "note"}
    return Fact(
        "system",
        kind,
        verdicts.get(kind.rpartition("_")[2], "warning"),
        f"A system prompt in the middle of a conversation: {what}.",
        (),
        evidence,
    )


def _other(role: str) -> Message:
    return {"role": role, "content": f"Be brief: {SYSTEM}."}


_TOO = "Antares"  # the star of a second system prompt
ORDERS: dict[str, tuple[Message, ...]] = {
    "two users in a row": (user(), user(ASKED_AGAIN), assistant()),
    "two assistants in a row": (user(), assistant(), assistant(SAID_AGAIN)),
    "assistant first": (assistant(), user(ASKED_AGAIN), assistant(SAID_AGAIN)),
    "user last": (user(), assistant(), user(ASKED_AGAIN)),
    "system only": (system(),),
    "system twice": (system(), {"role": "system", "content": f"{_TOO}."}, user(), assistant()),
    "tool result without a call": (user(), result(), assistant()),
    "role developer": (_other("developer"), user(), assistant()),
    "an unknown role": (user(), {"role": "critic", "content": f"Be brief: {SYSTEM}."}, assistant()),
}
"""Orders of roles that are tried."""


def facts_of_roles(trials: Trials) -> Iterator[Fact]:
    """Yield at which orders of roles the template raises, and where it leaves messages out."""
    refused: dict[str, Rendered] = {}
    dropped: dict[str, Rendered] = {}
    for name, messages in ORDERS.items():
        rendered = trials.render(messages)
        if rendered.text is None:
            refused[name] = rendered
        elif _unseen(messages, rendered.text):
            dropped[name] = rendered
    if refused:
        yield _roles("roles_refused", "note", "The template raises at: ", refused)
    if dropped:
        yield _roles(
            "roles_dropped", "warning", "A message is left out, without an error, at: ", dropped
        )
    if not refused and not dropped:
        yield Fact(
            "roles",
            "roles_taken",
            "ok",
            f"All {len(ORDERS)} orders of roles tried are rendered whole.",
            tuple(ORDERS),
        )


def _unseen(messages: tuple[Message, ...], text: str) -> bool:
    held: Any = repr(messages)
    stars = (SYSTEM, _TOO, ASKED, SAID, ASKED_AGAIN, SAID_AGAIN, RESULT)
    return any(star in held and not shows(text, star) for star in stars)


def _roles(kind: str, verdict: Verdict, begin: str, cases: dict[str, Rendered]) -> Fact:
    return Fact(
        "roles",
        kind,
        verdict,
        f"{begin}{', '.join(cases)}.",
        tuple(cases),
        tuple(map(Evidence, cases.values())),
    )
