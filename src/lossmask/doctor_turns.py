"""How a turn of the model begins and ends: what the prompt supplies, and where inference stops.

In: trials, stop tokens. Out: facts::

    <|user|>Hi<|end|><|bot|><think>          the prompt; the model goes on
    <|user|>Hi<|end|><|bot|>Hello<|end|>     the finished turn: no <think>, so they part
                                 ^^^^^^^     is this a token at which inference stops?
"""

from __future__ import annotations

from collections.abc import Iterator

from lossmask.control_tokens import control_tokens_of
from lossmask.diagnosis import Evidence, Fact, Rendered
from lossmask.rendering import shared_length
from lossmask.setting import Setting
from lossmask.stops import any_of
from lossmask.trial_renderings import (
    ARGUMENT,
    ASKED,
    ASKED_AGAIN,
    SAID,
    TOOLS,
    Trials,
    assistant,
    behind,
    calling,
    result,
    thinking,
    user,
)
from lossmask.written import THINK_PAIRS


def facts_of_generation_prompt(trials: Trials) -> Iterator[Fact]:
    """Yield what the generation prompt is, and whether the finished turn begins with it."""
    topic = "generation_prompt"
    without, asked = trials.render([user()]), trials.render([user()], asked=True)
    whole = trials.render([user(), assistant()])
    if without.text is None or asked.text is None:
        return
    at = shared_length(without.text, asked.text)
    prompt = asked.text[at:]
    if at < behind(without.text, ASKED):
        yield Fact(
            topic,
            "generation_prompt_rewrites",
            "warning",
            "Asking for the generation prompt changes what the conversation looks like.",
            (prompt,),
            (Evidence(without, at), Evidence(asked, at)),
        )
    elif not prompt:
        yield Fact(topic, "no_generation_prompt", "note", "There is no generation prompt.")
    else:
        sentence = f"The generation prompt is {prompt!r}."
        yield Fact(topic, "generation_prompt", "ok", sentence, (prompt,), (Evidence(asked, at),))
    if behind(without.text, ASKED) <= at < len(without.text):
        yield Fact(
            topic,
            "ending_if_not_asked",
            "note",
            f"Where it is not asked for, a conversation ends with {without.text[at:]!r}.",
            (without.text[at:],),
            (Evidence(without, at),),
        )
    yield from _thinking_facts(prompt, Evidence(asked, at))
    if whole.text is not None and SAID in whole.text:
        yield from _beginning_facts(trials, asked, whole)
    tools_asked = _prompt_after_a_tool(trials)
    if tools_asked is not None and tools_asked.excerpt != prompt:
        yield Fact(
            topic,
            "generation_prompt_varies",
            "note",
            f"After a tool result the generation prompt is {tools_asked.excerpt!r}.",
            (tools_asked.excerpt,),
            (tools_asked,),
        )


def _prompt_after_a_tool(trials: Trials) -> Evidence | None:
    messages = [user(), calling(), result()]
    without = trials.render(messages, tools=TOOLS)
    asked = trials.render(messages, tools=TOOLS, asked=True)
    if without.text is None or asked.text is None or not asked.text.startswith(without.text):
        return None
    return Evidence(asked, len(without.text))


def _thinking_facts(prompt: str, evidence: Evidence) -> Iterator[Fact]:
    for opening, closing in THINK_PAIRS:
        at, end = prompt.rfind(opening), prompt.rfind(closing)
        if at < 0:
            continue
        if end < at:
            yield Fact(
                "generation_prompt",
                "opens_think",
                "note",
                f"The generation prompt opens a think block ({opening}): an answer without "
                "reasoning is not what the model is asked for.",
                (opening,),
                (evidence,),
            )
        else:
            yield Fact(
                "generation_prompt",
                "closes_think",
                "note",
                "The generation prompt holds a finished think block: the model is asked for an "
                "answer without reasoning.",
                (prompt[at : end + len(closing)],),
                (evidence,),
            )


def _beginning_facts(trials: Trials, asked: Rendered, whole: Rendered) -> Iterator[Fact]:
    """Yield whether a finished turn begins with its prompt, and what else is before an answer."""
    prompt, text = asked.text or "", whole.text or ""
    answer = text.rindex(assistant()["content"].split()[0])
    if not text.startswith(prompt):
        at = shared_length(prompt, text)
        with_reasoning = trials.render([user(), thinking()]).text
        but = (
            " With reasoning in the data it does."
            if with_reasoning is not None and with_reasoning.startswith(prompt)
            else ""
        )
        yield Fact(
            "generation_prompt",
            "generation_prompt_mismatch",
            "warning",
            "A finished turn does not begin with its prompt: the prompt goes on with "
            f"{prompt[at:][:40]!r}, the finished turn with {text[at:][:40]!r}.{but}",
            (prompt[at:],),
            (Evidence(asked, at), Evidence(whole, at)),
        )
        return
    between = text[len(prompt) : answer]
    if between.strip():
        yield Fact(
            "generation_prompt",
            "text_before_answer",
            "note",
            f"Between prompt and answer a finished turn shows {between!r}, which the model has to "
            "generate.",
            (between,),
            (Evidence(whole, len(prompt), answer),),
        )
    else:
        yield Fact(
            "generation_prompt",
            "generation_prompt_matches",
            "ok",
            "A finished turn begins with its prompt, and the answer comes next.",
            evidence=(Evidence(whole, 0, answer),),
        )


def facts_of_stops(trials: Trials, setting: Setting, *, is_stand_in: bool) -> Iterator[Fact]:
    """Yield which token ends a turn, whether inference stops there, and how padding is done."""
    if is_stand_in:
        yield from _after_an_answer(trials)
        return
    yield from _stops(trials, setting)
    yield from _padding(setting)


def _after_an_answer(trials: Trials) -> Iterator[Fact]:
    whole = trials.render([user(), assistant()])
    at = behind(whole.text or "", SAID)
    if whole.text is None or at < 0:
        return
    follows = whole.text[at:]
    yield Fact(
        "stops",
        "after_answer",
        "ok" if follows.strip() else "warning",
        f"After an answer the template writes {follows!r}."
        if follows.strip()
        else "After the last answer the template writes nothing: no token ends the turn.",
        (follows,),
        (Evidence(whole, at),),
    )


def _stops(trials: Trials, setting: Setting) -> Iterator[Fact]:
    whole = trials.render([user(), assistant()])
    at = -1 if whole.text is None else behind(whole.text, SAID)
    if whole.text is None or at < 0:
        return
    follows, evidence = whole.text[at:], Evidence(whole, at)
    found = setting.stops.first_run(follows, 0)
    later = _behind_an_earlier_answer(trials)
    later_found = None if later is None else setting.stops.first_run(later.excerpt, 0)
    if found is not None:
        token = found.group()
        of = "the tokenizer's eos" if token == setting.stops.eos else "a known stop token"
        rest = follows[found.end() :]
        behind_it = f"; {rest!r} behind it is not generated" if rest else ""
        yield Fact(
            "stops",
            "stop_is_eos" if token == setting.stops.eos else "stop_is_known",
            "ok",
            f"An answer ends with {token!r}, {of}{behind_it}.",
            (token,),
            (evidence,),
        )
        if later is not None and (later_found is None or later_found.group() != token):
            yield _differs(later, None if later_found is None else later_found.group())
    elif later_found is not None and later is not None:
        token = later_found.group()
        yield Fact(
            "stops",
            "last_turn_not_stopped",
            "warning",
            f"The last answer of a conversation is not ended, earlier ones are, by {token!r}.",
            (token,),
            (evidence, later),
        )
    else:
        yield _without_stop(follows, evidence, setting)
    yield from _stop_of_a_call(trials, setting, None if found is None else found.group())


def _behind_an_earlier_answer(trials: Trials) -> Evidence | None:
    """Return what stands between an answer and the question that follows it."""
    goes_on = trials.render([user(), assistant(), user(ASKED_AGAIN)])
    text = goes_on.text or ""
    at, end = behind(text, SAID), text.rfind(ASKED_AGAIN)
    return None if at < 0 or end < at else Evidence(goes_on, at, end)


def _differs(later: Evidence, token: str | None) -> Fact:
    how = "not ended by a stop token" if token is None else f"ended by {token!r}"
    return Fact(
        "stops",
        "history_stopped_otherwise",
        "note",
        f"Once the conversation goes on, an answer is {how}.",
        (token or "",),
        (later,),
    )


def _without_stop(follows: str, evidence: Evidence, setting: Setting) -> Fact:
    """Return what to say of an answer behind which no known stop token stands."""
    control = any_of(tuple(control_tokens_of(setting.tokenizer, setting.stops).texts.values()))
    known = ", ".join(map(repr, setting.stops.texts)) or "none"
    token = control.search(follows)
    if token is not None:
        return Fact(
            "stops",
            "stop_unknown",
            "warning",
            f"An answer is followed by {token.group()!r}, at which inference is not known to stop "
            f"(known: {known}); if it does, name it with --stop.",
            (token.group(),),
            (evidence,),
        )
    what = f"{follows.strip()!r}, no control token" if follows.strip() else "nothing"
    return Fact(
        "stops",
        "no_stop",
        "warning",
        f"An answer is followed by {what}: a model trained on it does not learn to stop.",
        (follows,),
        (evidence,),
    )


def _stop_of_a_call(trials: Trials, setting: Setting, of_answer: str | None) -> Iterator[Fact]:
    called = trials.render([user(), calling()], tools=TOOLS)
    at = behind(called.text or "", ARGUMENT)
    if called.text is None or at < 0:
        return
    found = setting.stops.first_run(called.text, at)
    token = None if found is None else found.group()
    if token != of_answer:
        how = "no known stop token" if token is None else repr(token)
        yield Fact(
            "stops",
            "call_stopped_otherwise" if token is not None else "call_not_stopped",
            "note" if token is not None else "warning",
            f"A turn that calls a tool ends with {how}.",
            (token or "",),
            (Evidence(called, at),),
        )


def _padding(setting: Setting) -> Iterator[Fact]:
    """Yield how eos and pad token relate, as the tokenizer says."""
    tokenizer = setting.tokenizer.tokenizer
    pad, eos = tokenizer.pad_token, tokenizer.eos_token
    if eos is None:
        yield Fact("stops", "no_eos", "warning", "The tokenizer has no eos token.")
    if pad is None:
        yield Fact(
            "stops",
            "no_pad",
            "note",
            "The tokenizer has no pad token; many trainers put eos in its place.",
        )
    elif pad == eos:
        yield Fact(
            "stops",
            "pad_is_eos",
            "note",
            f"The pad token is eos, {eos!r}: a collator that masks padding by id, as many do, "
            "takes the end of every turn out of the loss. lossmask pads by position.",
            (str(eos),),
        )
    elif setting.tokenizer.tokenizer.pad_token_id in setting.stops.ids:
        yield Fact(
            "stops",
            "pad_is_stop",
            "note",
            f"The pad token {pad!r} is a stop token: a collator that masks padding by id takes it "
            "out of the loss. lossmask pads by position.",
            (str(pad),),
        )
