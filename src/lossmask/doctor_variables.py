"""Which further variables a template reads, what they change, and whether it asks for the time.

In: trials. Out: facts. Names are what Jinja itself says is read and set nowhere; what a variable
changes is found by giving it values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature

from jinja2 import meta, nodes
from transformers import PreTrainedTokenizerBase

from lossmask.diagnosis import Evidence, Fact, Rendered
from lossmask.rendering import shared_length
from lossmask.template_environment import TracingEnvironment
from lossmask.trial_renderings import (
    ASKED_AGAIN,
    SAID_AGAIN,
    TOOLS,
    Trials,
    assistant,
    system,
    thinking,
    user,
)

_GIVEN = frozenset(signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
_VALUES = (False, True, "low")
_MOST = 12  # variables that are tried


def facts_of_variables(trials: Trials) -> Iterator[Fact]:
    """Yield the variables that are read, and what each changes."""
    read, is_set = variables_of(trials)
    names: list[str] = []
    effects: list[str] = []
    evidence: list[Evidence] = []
    for name in read:
        effect = _effect(trials, name) if len(names) < _MOST else None
        if effect is None and name in is_set:
            continue  # a variable of its own that Jinja cannot tell is set before it is read
        names.append(name)
        effects.append(name if effect is None else f"{name} ({effect[0]})")
        evidence += [] if effect is None else [effect[1]]
    if not names:
        yield Fact("variables", "no_variables", "ok", "No further variable is read.")
    else:
        yield Fact(
            "variables",
            "variables_read",
            "note",
            f"Further variables are read: {', '.join(effects)}.",
            tuple(names),
            tuple(evidence),
        )
    yield _clock(trials)


def variables_of(trials: Trials) -> tuple[list[str], set[str]]:
    """Return the variables that a template reads besides what it is given, and those it sets."""
    environment = TracingEnvironment()
    given = {
        "messages",
        *_GIVEN,
        *environment.globals,
        *trials.template.tokenizer.special_tokens_map,
    }
    special = {f"{name}_token" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")}
    read, is_set = set[str](), set[str]()
    for tools in (None, TOOLS):
        parsed = environment.parse(trials.template.source(tools))
        read |= meta.find_undeclared_variables(parsed)
        is_set |= {node.name for node in parsed.find_all(nodes.Name) if node.ctx == "store"}
    return sorted(read - given - special), is_set


def _tried(trials: Trials, variables: Mapping[str, object]) -> Iterator[tuple[str, Rendered]]:
    several = [user(), thinking(), user(ASKED_AGAIN), thinking(SAID_AGAIN)]
    yield "the prompt", trials.render([user()], asked=True, variables=variables)
    yield "the conversation", trials.render([user(), assistant()], variables=variables)
    yield "reasoning", trials.render(several, variables=variables)
    with_tools = trials.render([system(), user()], tools=TOOLS, asked=True, variables=variables)
    yield "a prompt with tools", with_tools


def _effect(trials: Trials, name: str) -> tuple[str, Evidence] | None:
    """Return what giving a variable a value changes first, None if none of the values does."""
    before = dict(_tried(trials, {}))
    for value in _VALUES:
        if trials.variables.get(name, ...) == value:
            continue
        for what, after in _tried(trials, {name: value}):
            if after.text != before[what].text and after.text is not None:
                at = shared_length(after.text, before[what].text or "")
                return f"{value!r} changes {what}", Evidence(after, at)
    return None


def _clock(trials: Trials) -> Fact:
    """Return whether the time is asked for: in place of the clock stands what cannot be called."""
    asked = []
    for messages, tools in (
        ([user(), assistant()], None),
        ([system(), user(), assistant()], None),
        ([system(), user(), assistant()], TOOLS),
    ):
        with_clock = trials.render(messages, tools=tools)
        without = trials.render(messages, tools=tools, variables={"strftime_now": "no clock"})
        if with_clock.text is not None and with_clock.text != without.text:
            asked.append(with_clock)
    if asked:
        return Fact(
            "variables",
            "depends_on_time",
            "warning",
            "The template asks for the time: the same conversation is rendered differently on "
            "another day. Fix the date by a variable, where it reads one.",
            evidence=(Evidence(asked[0]),),
        )
    return Fact(
        "variables", "no_clock", "ok", "The time is not asked for in the conversations tried."
    )
