"""What a chat template does, found out by running it.

In: an encoder. Out: a :class:`~lossmask.diagnosis.Diagnosis`. A few dozen small conversations are
rendered by transformers' own ``apply_chat_template`` and held against each other. Nothing is known
of any template by its name, and nothing is read out of its source but the names of its variables.
A fact says what came out of what was tried; a template may treat other conversations differently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lossmask.diagnosis import TOPICS, Diagnosis, Fact
from lossmask.doctor_contents import facts_of_contents
from lossmask.doctor_history import facts_of_history, facts_of_parity
from lossmask.doctor_system import facts_of_roles, facts_of_system
from lossmask.doctor_tokens import (
    facts_of_cost,
    facts_of_injection,
    facts_of_special_tokens,
)
from lossmask.doctor_tools import facts_of_tools
from lossmask.doctor_turns import facts_of_generation_prompt, facts_of_stops
from lossmask.doctor_variables import facts_of_variables
from lossmask.encoder import Encoder
from lossmask.errors import TemplateError
from lossmask.rendering import ChatTemplate
from lossmask.trial_renderings import SAID, Trials, assistant, shows, user


def diagnose(
    encoder: Encoder, *, topics: Collection[str] = tuple(TOPICS), is_stand_in: bool = False
) -> Diagnosis:
    """Find out what the chat template of an encoder does.

    Args:
        encoder: With a Jinja template.
        topics: What to find out about, of ``diagnosis.TOPICS``.
        is_stand_in: The tokenizer is not the model's, but any: say nothing about tokens.

    Raises:
        TemplateError: The encoder has no Jinja template.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> found = diagnose(Encoder.from_pretrained(DEMO_MODEL))
        >>> found.find("every_prompt_is_prefix").verdict
        'ok'
    """
    template = encoder._setting.template
    if not isinstance(template, ChatTemplate):
        raise TemplateError(
            "there is no Jinja chat template to diagnose: this encoder renders by a renderer's own "
            "code, or rows of text only",
            reason="no_jinja_template",
        )
    trials = _trials(template, encoder)
    facts = [
        fact
        for topic in TOPICS
        if topic in topics
        for fact in _facts(topic, trials, encoder, is_stand_in)
    ]
    name = str(encoder.tokenizer.name_or_path)
    return Diagnosis(tuple(facts), name, is_stand_in, len(trials.made))


def _facts(topic: str, trials: Trials, encoder: Encoder, is_stand_in: bool) -> Iterator[Fact]:
    setting = encoder._setting
    match topic:
        case "parity":
            yield from facts_of_parity(trials, encoder)
        case "history":
            yield from facts_of_history(trials)
        case "generation_prompt":
            yield from facts_of_generation_prompt(trials)
        case "stops":
            yield from facts_of_stops(trials, setting, is_stand_in=is_stand_in)
        case "contents":
            yield from facts_of_contents(trials)
        case "tools":
            yield from facts_of_tools(trials)
        case "system":
            yield from facts_of_system(trials, setting)
        case "roles":
            yield from facts_of_roles(trials)
        case "variables":
            yield from facts_of_variables(trials)
        case "tokens" if not is_stand_in:
            yield from facts_of_special_tokens(trials, setting)
            yield from facts_of_injection(trials, setting)
        case "cost" if not is_stand_in:
            yield from facts_of_cost(trials, encoder)


def _trials(template: ChatTemplate, encoder: Encoder) -> Trials:
    """Return trials with contents as strings, or as parts where only these show an answer."""
    variables = encoder._setting.template_variables
    for in_parts in (False, True):
        trials = Trials(template, variables, in_parts=in_parts)
        if shows(trials.render([user(), assistant()]).text or "", SAID):
            return trials
    return Trials(template, variables)
