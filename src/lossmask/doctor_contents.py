"""What a rendering shows of a conversation, and what it leaves out, cuts or refuses.

In: trials. Out: one fact for each thing that a message can hold: its star is in the text, is not,
or the template raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lossmask.diagnosis import Evidence, Fact, Rendered, Verdict
from lossmask.rendering import Message
from lossmask.trial_renderings import (
    ARGUMENT,
    ASKED,
    NAME,
    RESULT,
    SAID,
    THOUGHT,
    TOOLS,
    Trials,
    assistant,
    call,
    calling,
    result,
    shows,
    system,
    thinking,
    thinking_inline,
    user,
)


@dataclass(frozen=True, slots=True)
class _Thing:
    """Something that a message can hold."""

    slug: str
    what: str
    messages: tuple[Message, ...]
    star: str
    if_dropped: Verdict = "warning"
    tools: tuple[dict[str, Any], ...] | None = None


_THINGS = (
    _Thing("question", "What a user says", (user(), assistant()), ASKED, "error"),
    _Thing("answer", "What the assistant says", (user(), assistant()), SAID, "error"),
    _Thing("reasoning", "Reasoning in a field of its own", (user(), thinking()), THOUGHT),
    _Thing("inline_reasoning", "A think block", (user(), thinking_inline()), THOUGHT),
    _Thing("call", "A tool call", (user(), calling()), ARGUMENT, tools=TOOLS),
    _Thing(
        "text_beside_call",
        "Text beside a tool call",
        (user(), calling(content=f"Near {SAID}.")),
        SAID,
        tools=TOOLS,
    ),
    _Thing(
        "reasoning_before_call",
        "Reasoning before a tool call",
        (user(), calling(thought=True)),
        THOUGHT,
        tools=TOOLS,
    ),
    _Thing("tool_result", "A tool result", (user(), calling(), result()), RESULT, "warning", TOOLS),
    _Thing("name", "The name of a speaker", ({**user(), "name": NAME}, assistant()), NAME, "note"),
)


def facts_of_contents(trials: Trials) -> Iterator[Fact]:
    """Yield what is shown, dropped, cut, refused."""
    if trials.in_parts:
        yield Fact(
            "contents",
            "needs_parts",
            "warning",
            "An answer is shown only if its content is a list of parts, not a string; all else "
            "here is told from such lists.",
        )
    for thing in _THINGS:
        rendered = trials.render(thing.messages, tools=thing.tools)
        yield _fact(thing, rendered)
    yield from _names_and_ids(trials)
    yield from _white_space(trials)
    if not trials.in_parts:
        yield from _parts(trials)


def _fact(thing: _Thing, rendered: Rendered) -> Fact:
    if rendered.text is None:
        return Fact(
            "contents",
            f"{thing.slug}_refused",
            thing.if_dropped,
            f"{thing.what}: the template raises.",
            evidence=(Evidence(rendered),),
        )
    is_shown = shows(rendered.text, thing.star)
    return Fact(
        "contents",
        f"{thing.slug}_shown" if is_shown else f"{thing.slug}_dropped",
        "ok" if is_shown else thing.if_dropped,
        f"{thing.what} is {'shown' if is_shown else 'left out'}.",
        evidence=(Evidence(rendered),),
    )


def _names_and_ids(trials: Trials) -> Iterator[Fact]:
    """Yield whether the text depends on the name and id of a tool message."""
    plain = (user(), calling(), result())
    named = (user(), calling(), result(name="other"))
    numbered = (user(), calling(call(number=7)), result(number=7))
    for slug, what, other in (
        ("tool_name", "The name of a tool beside its result", named),
        ("call_id", "The id of a tool call", numbered),
    ):
        first, second = trials.render(plain, tools=TOOLS), trials.render(other, tools=TOOLS)
        if first.text is None or second.text is None:
            continue
        is_shown = first.text != second.text
        yield Fact(
            "contents",
            f"{slug}_shown" if is_shown else f"{slug}_dropped",
            "ok" if is_shown else "note",
            f"{what} is {'shown' if is_shown else 'left out'}.",
            evidence=(Evidence(first), Evidence(second)),
        )


def _white_space(trials: Trials) -> Iterator[Fact]:
    cut: list[str] = []
    evidence: list[Evidence] = []
    kept = False
    for role, star, messages in (
        ("user", ASKED, (_spaced(user()), assistant())),
        ("assistant", SAID, (user(), _spaced(assistant()))),
        ("system", "Sirius", (_spaced(system()), user(), assistant())),
    ):
        rendered = trials.render(messages)
        text = rendered.text or ""
        sentence = next(each["content"] for each in messages if star in str(each["content"]))
        bare = sentence.strip()
        at = text.find(bare)
        if at < 0:
            continue
        end = at + len(bare)
        before = text[:at].endswith(_SPACE_BEFORE)
        after = text[end:].startswith(_SPACE_AFTER)
        sides = [side for side, holds in (("before", before), ("after", after)) if not holds]
        kept = True
        if sides:
            cut.append(f"{role}: {' and '.join(sides)}")
            evidence.append(Evidence(rendered, max(0, at - 4), end + 4))
    if cut:
        yield Fact(
            "contents",
            "white_space_cut",
            "note",
            f"White space around a text is cut ({'; '.join(cut)}).",
            tuple(cut),
            tuple(evidence),
        )
    elif kept:
        yield Fact("contents", "white_space_kept", "ok", "White space around a text is kept.")


_SPACE_BEFORE, _SPACE_AFTER = "\n \t ", " \t \n"


def _spaced(message: Message) -> Message:
    return {**message, "content": f"{_SPACE_BEFORE}{message['content']}{_SPACE_AFTER}"}


def _parts(trials: Trials) -> Iterator[Fact]:
    """Yield what becomes of contents that are lists of parts."""
    plain = trials.render([user(), assistant()])
    is_read = False
    for role, messages in (
        ("user", (_as_parts(user()), assistant())),
        ("assistant", (user(), _as_parts(assistant()))),
    ):
        rendered = trials.render(messages)
        star = ASKED if role == "user" else SAID
        slug, what = _slug_of_parts(rendered.text, plain.text, star)
        is_read |= role == "user" and slug in ("shown", "altered")
        yield Fact(
            "contents",
            f"{role}_parts_{slug}",
            _OF_PARTS[slug],
            f"A list of text parts as the content of {role}: {what}.",
            evidence=(Evidence(rendered),),
        )
    if is_read:
        yield _image(trials)


_OF_PARTS: dict[str, Verdict] = {
    "shown": "ok",
    "altered": "note",
    "refused": "note",
    "printed": "warning",
    "dropped": "warning",
}


def _slug_of_parts(text: str | None, plain: str | None, star: str) -> tuple[str, str]:
    """Return what became of a list of parts, as a key of ``_OF_PARTS`` and in words."""
    if text is None:
        return "refused", "the template raises"
    if text == plain:
        return "shown", "written like a string"
    if not shows(text, star):
        return "dropped", "left out"
    if "'type'" in text or '"type"' in text:
        return "printed", "printed as a list, brackets and all"
    return "altered", "written unlike a string"


def _image(trials: Trials) -> Fact:
    picture = _as_parts(user())
    without = trials.render([picture, assistant()])
    picture = {**picture, "content": [{"type": "image"}, *picture["content"]]}
    rendered = trials.render([picture, assistant()])
    if rendered.text is None:
        slug, what = "refused", "the template raises"
    elif rendered.text == without.text:
        slug, what = "dropped", "left out"
    else:
        slug, what = "marked", "has a place of its own in the text"
    return Fact(
        "contents",
        f"image_{slug}",
        "note",
        f"An image among the parts: {what}.",
        evidence=(Evidence(rendered),),
    )


def _as_parts(message: Message) -> Message:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
