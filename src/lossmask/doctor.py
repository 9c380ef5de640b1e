"""What a chat template does, found out by running it.

In: an encoder. Out: a :class:`~lossmask.diagnosis.Diagnosis`. A few dozen small conversations are
rendered by transformers' own ``apply_chat_template`` and held against each other. Nothing is known
of any template by its name, and nothing is read out of its source but the names of its variables.
A fact says what came out of what was tried; a template may treat other conversations differently.
"""

from __future__ import annotations

from lossmask.diagnosis import Diagnosis, Fact, by_topic
from lossmask.doctor_contents import facts_of_contents
from lossmask.doctor_history import facts_of_history, facts_of_parity
from lossmask.doctor_system import facts_of_roles, facts_of_system
from lossmask.doctor_tokens import (
    fact_of_the_fast_way,
    facts_of_cost,
    facts_of_injection,
    facts_of_special_tokens,
)
from lossmask.doctor_tools import facts_of_tools
from lossmask.doctor_turns import facts_of_generation_prompt, facts_of_padding, facts_of_stops
from lossmask.doctor_variables import facts_of_variables
from lossmask.encoder import Encoder
from lossmask.errors import TemplateError
from lossmask.rendering import ChatTemplate
from lossmask.trial_renderings import SAID, Trials, assistant, shows, user


def diagnose(encoder: Encoder, *, is_stand_in: bool = False) -> Diagnosis:
    """Find out what the chat template of an encoder does.

    Args:
        encoder: With a Jinja template.
        is_stand_in: The tokenizer is not the model's, but any: say nothing about tokens.

    Raises:
        TemplateError: The encoder has no Jinja template.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> found = diagnose(Encoder.from_pretrained(DEMO_MODEL))
        >>> found.find("every_prompt_is_prefix").verdict
        'ok'
    """
    setting = encoder._setting
    template = setting.template
    if not isinstance(template, ChatTemplate):
        raise TemplateError(
            "there is no Jinja chat template to diagnose: this encoder renders by a renderer's own "
            "code, or rows of text only",
            reason="no_jinja_template",
        )
    trials = _trials(template, encoder)
    facts: list[Fact] = [
        *facts_of_parity(trials, encoder),
        *facts_of_history(trials),
        *facts_of_generation_prompt(trials),
        *facts_of_stops(trials, setting, is_stand_in=is_stand_in),
        *facts_of_contents(trials),
        *facts_of_tools(trials),
        *facts_of_system(trials, setting),
        *facts_of_roles(trials),
        *facts_of_variables(trials),
    ]
    if not is_stand_in:
        facts += [
            *facts_of_padding(setting),
            *facts_of_injection(trials, setting),
            *facts_of_special_tokens(trials, setting),
            *facts_of_cost(trials, setting),
            fact_of_the_fast_way(encoder),
        ]
    return Diagnosis(
        by_topic(facts),
        str(encoder.tokenizer.name_or_path),
        is_stand_in,
        len(trials.made),
    )


def _trials(template: ChatTemplate, encoder: Encoder) -> Trials:
    """Return trials with contents as strings, or as parts where only these show an answer."""
    variables = encoder._setting.template_variables
    for in_parts in (False, True):
        trials = Trials(template, variables, in_parts=in_parts)
        if shows(trials.render([user(), assistant()]).text or "", SAID):
            return trials
    return Trials(template, variables)
