"""How tools and their calls are written.

In: trials. Out: facts: where the schemas stand, whether a call is JSON, whether arguments may be an
object or JSON as text, and what becomes of two calls at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lossmask.diagnosis import Evidence, Fact
from lossmask.trial_renderings import (
    ARGUMENT,
    ARGUMENT_TOO,
    ASKED,
    ASKED_AGAIN,
    DESCRIPTION,
    SAID,
    SYSTEM,
    TOOL,
    TOOLS,
    Trials,
    assistant,
    call,
    calling,
    result,
    shows,
    system,
    user,
)


def facts_of_tools(trials: Trials) -> Iterator[Fact]:
    """Yield how tools, calls and arguments are written."""
    yield from _schemas(trials)
    called = trials.render([user(), calling()], tools=TOOLS)
    if called.text is None or not shows(called.text, ARGUMENT):
        return  # contents says so
    prompt = trials.render([user()], tools=TOOLS, asked=True).text
    begins = prompt is not None and called.text.startswith(prompt)
    at = len(prompt or "") if begins else called.text.rfind(ASKED) + len(ASKED) + 1
    yield from _form_of_a_call(Evidence(called, at))
    yield from _arguments(trials)
    yield from _parallel(trials)


def _schemas(trials: Trials) -> Iterator[Fact]:
    messages = [system(), user(), assistant(), user(ASKED_AGAIN)]
    given = trials.render(messages, tools=TOOLS)
    if given.text is None:
        messages = messages[1:]
        given = trials.render(messages, tools=TOOLS)
    if given.text is None:
        yield Fact(
            "tools",
            "tools_refused",
            "warning",
            "With tools the template raises.",
            evidence=(Evidence(given),),
        )
        return
    at = given.text.find(DESCRIPTION)
    if at < 0:
        name = given.text.find(TOOL)
        kind = "tools_dropped" if name < 0 else "tools_shortened"
        what = "left out" if name < 0 else "shown by name, without their descriptions"
        yield Fact("tools", kind, "warning", f"Tools are {what}.", evidence=(Evidence(given),))
        return
    where = _place(given.text, at)
    yield Fact(
        "tools",
        "tools_shown",
        "ok",
        f"Tools are shown {where}.",
        (where,),
        (Evidence(given, max(0, at - 60), at + 60),),
    )


def _place(text: str, at: int) -> str:
    """Say where in a text of system prompt, question, answer and question a place lies."""
    for star, place in (
        (SYSTEM, "before the system prompt"),
        (ASKED, "before the first question"),
        (SAID, "after the first question"),
        (ASKED_AGAIN, "before the last question"),
    ):
        if 0 <= at < text.find(star):
            return place
    return "after the last question"


def _form_of_a_call(evidence: Evidence) -> Iterator[Fact]:
    text = evidence.excerpt
    objects = list(_objects(text))
    if TOOL not in text:
        yield Fact(
            "tools",
            "call_without_name",
            "warning",
            "A call is shown without the name of its tool.",
            evidence=(evidence,),
        )
    elif any(_is_call(each) for each in objects):
        yield Fact("tools", "call_is_json", "ok", "A call is one JSON object.", (), (evidence,))
    elif any(_has(each, ARGUMENT) for each in objects):
        yield Fact(
            "tools",
            "arguments_are_json",
            "ok",
            "Of a call the arguments are JSON, its name stands outside.",
            (),
            (evidence,),
        )
    else:
        yield Fact(
            "tools", "call_is_no_json", "note", "A call is not written as JSON.", (), (evidence,)
        )


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in a text."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


def _is_call(value: dict[str, Any]) -> bool:
    return _has(value, TOOL) and _has(value, ARGUMENT)


def _has(value: Any, text: str) -> bool:
    return text in json.dumps(value)


def _arguments(trials: Trials) -> Iterator[Fact]:
    """Yield what becomes of arguments that are JSON as text, as the OpenAI API gives them."""
    as_object = trials.render([user(), calling()], tools=TOOLS)
    as_text = trials.render([user(), calling(call(as_text=True))], tools=TOOLS)
    both = Evidence(as_object), Evidence(as_text)
    if as_text.text is None:
        yield Fact(
            "tools",
            "arguments_as_text_refused",
            "note",
            "Arguments have to be an object: for JSON as text the template raises.",
            evidence=(Evidence(as_text),),
        )
    elif as_text.text == as_object.text:
        yield Fact(
            "tools",
            "arguments_alike",
            "ok",
            "Arguments are written alike, given as an object or as JSON text.",
            evidence=both,
        )
    elif '\\"star\\"' in as_text.text and '\\"star\\"' not in (as_object.text or ""):
        yield Fact(
            "tools",
            "arguments_quoted_twice",
            "warning",
            "Arguments given as JSON text are quoted once more: give objects.",
            evidence=both,
        )
    elif not shows(as_text.text, ARGUMENT):
        yield Fact(
            "tools",
            "arguments_as_text_torn",
            "warning",
            "Arguments given as JSON text do not come out whole: give objects.",
            evidence=both,
        )
    else:
        yield Fact(
            "tools",
            "arguments_differ",
            "warning",
            "Arguments are written differently, given as an object or as JSON text.",
            evidence=both,
        )


def _parallel(trials: Trials) -> Iterator[Fact]:
    calls = calling(call(), call(ARGUMENT_TOO, number=2))
    messages = [user(), calls, result(), result(text="Nothing.", number=2)]
    rendered = trials.render(messages, tools=TOOLS)
    if rendered.text is None:
        kind, what = "parallel_calls_refused", "the template raises"
    elif shows(rendered.text, ARGUMENT) and shows(rendered.text, ARGUMENT_TOO):
        kind, what = "parallel_calls_shown", "both are shown"
    else:
        kind, what = "parallel_calls_dropped", "not both are shown"
    yield Fact(
        "tools",
        kind,
        "ok" if kind.endswith("shown") else "warning",
        f"Two calls in one turn: {what}.",
        evidence=(Evidence(rendered),),
    )
