"""What the doctor says of a template, in the columns of a table.

In: a diagnosis. Out: one short string for each of ``COLUMNS``; what is as one would wish is left
empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lossmask.diagnosis import Diagnosis, Fact
from lossmask.terminal import visible

TemplateFacts = tuple[str, tuple[str, ...]]
"""Name of a template, and its columns."""

COLUMNS = ("history", "left out", "tools", "system", "prompt", "stop", "roles", "reads", "fast")
LEGEND = """The columns from *history* on are what `lossmask doctor` found by rendering small
conversations; an empty one is as one would wish. A `!` means that the template raises.

* **history**: what of an earlier turn is shown no more, or differently, once others follow.
* **left out**: of a conversation. Names and ids of calls are not listed: most templates drop them.
* **tools**: whether tools are shown, how a call is written, what becomes of two at once.
* **system**: what becomes of a system prompt; `default`: the template writes one of its own.
* **prompt**: what is remarkable about the generation prompt.
* **stop**: the token that ends an answer; `?`: a control token at which this tokenizer does not
  stop.
* **roles**: how many of the tried orders of roles raise (`!`), or lose a message (`-`).
* **reads**: further variables, and the clock.
* **fast**: whether rows of plain messages are provably encoded many at a time.
"""

_SIGNS = {"dropped": "", "refused": "!", "printed": " printed"}
_UNLISTED = frozenset({"name", "tool_name", "call_id"})
_CALLS = {
    "call_is_json": "JSON",
    "arguments_are_json": "JSON arguments",
    "call_is_no_json": "no JSON",
    "call_without_name": "no name",
}
_ARGUMENTS = {
    "arguments_as_text_refused": "text!",
    "arguments_quoted_twice": "text quoted twice",
    "arguments_as_text_torn": "text torn",
    "arguments_differ": "text differs",
}
_PARALLEL = {"parallel_calls_refused": "parallel!", "parallel_calls_dropped": "parallel dropped"}
_SYSTEM = {
    "system_refused": "!",
    "system_dropped": "left out",
    "system_in_first_question": "in first question",
    "system_behind_question": "behind question",
    "default_system": "default",
    "default_system_kept": "default kept",
    "middle_system_refused": "middle!",
    "middle_system_dropped": "middle left out",
    "middle_system_moved": "middle moved",
}
_PROMPT = {
    "no_generation_prompt": "none",
    "generation_prompt_rewrites": "rewrites",
    "ending_if_not_asked": "replaces an ending",
    "opens_think": "opens think",
    "closes_think": "closes think",
    "generation_prompt_mismatch": "mismatch",
    "text_before_answer": "text before answer",
    "generation_prompt_varies": "varies",
}


def columns_of(found: Diagnosis) -> tuple[str, ...]:
    """Return the columns of a template."""
    facts = {fact.kind: fact for fact in found.facts}
    return (
        _listed(
            kind.removesuffix("_later").replace("_", " ")
            for kind in facts
            if kind.endswith("_later")
        ),
        _listed(_left_out(found.of("contents"))),
        _listed(_tools(facts)),
        _listed(_named(facts, _SYSTEM)),
        _listed(_named(facts, _PROMPT)),
        _stop(facts),
        _roles(facts),
        _listed(_reads(facts)),
        "yes" if "fast" in facts else "",
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def _named(facts: dict[str, Fact], names: dict[str, str]) -> list[str]:
    return [name for kind, name in names.items() if kind in facts]


def _left_out(facts: Sequence[Fact]) -> list[str]:
    found: list[str] = []
    for fact in facts:
        what, _, how = fact.kind.rpartition("_")
        if how in _SIGNS and what not in _UNLISTED:
            found.append(what.replace("_", " ") + _SIGNS[how])
    for sign in _SIGNS.values():
        of_both = [f"user parts{sign}", f"assistant parts{sign}"]
        if set(of_both) <= set(found):
            found = [each for each in found if each not in of_both] + [f"parts{sign}"]
    if any(fact.kind == "white_space_cut" for fact in facts):
        found.append("white space")
    return found


def _tools(facts: dict[str, Fact]) -> list[str]:
    if "tools_refused" in facts:
        return ["!"]
    shown = "tools_shown" in facts
    calls = [name for names in (_CALLS, _ARGUMENTS, _PARALLEL) for name in _named(facts, names)]
    return [*([] if shown else ["not shown"]), *calls]


def _stop(facts: dict[str, Fact]) -> str:
    for kind, sign in (
        ("stop_is_eos", ""),
        ("stop_is_known", ""),
        ("stop_unknown", " ?"),
        ("last_turn_not_stopped", " of history alone"),
    ):
        if kind in facts:
            return _code(facts[kind].values[0]) + sign
    return "none" if "no_stop" in facts else ""


def _roles(facts: dict[str, Fact]) -> str:
    signs = (("roles_refused", "!"), ("roles_dropped", "-"))
    return _listed(f"{len(facts[kind].values)}{s}" for kind, s in signs if kind in facts)


def _reads(facts: dict[str, Fact]) -> Iterable[str]:
    if "variables_read" in facts:
        yield from map(_code, facts["variables_read"].values)
    if "depends_on_time" in facts:
        yield "the clock"


def _code(text: str) -> str:
    """Return a text as code in a cell of a table."""
    return "`" + visible(text).replace("|", "\\|") + "`"
