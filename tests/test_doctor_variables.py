"""Variables that a template reads are told with what they change; so is the clock."""

from __future__ import annotations

import pytest

from tests.doctor_templates import SOUND, difference, fact, kinds


def test_a_sound_template_reads_messages_tools_and_the_generation_prompt_alone() -> None:
    assert kinds(SOUND, "variables") == {"no_variables": "ok", "no_clock": "ok"}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            SOUND.replace("assistant\n{%", "assistant\n{{ '<no>' if quick is false }}{%"),
            "quick (False changes the prompt)",
        ),
        ("{% if mode is true %}x{% endif %}" + SOUND, "mode (True changes the prompt)"),
        ("{{ effort }}" + SOUND, "effort (False changes the prompt)"),
        ("{% if effort == 'low' %}x{% endif %}" + SOUND, "effort ('low' changes the prompt)"),
        ("{{ 1 if tools and style }}" + SOUND, "style (True changes a prompt with tools)"),
        ("{% if style == 'nobody knows' %}x{% endif %}" + SOUND, "style"),
        ("{% if day is not defined %}{% set day = 1 %}{% endif %}{{ day }}" + SOUND,
         "day (False changes the prompt)"),
    ],
)  # fmt: skip
def test_a_variable_is_told_with_what_it_changes(template: str, said: str) -> None:
    found = fact(template, "variables", "variables_read")
    assert (found.verdict, found.sentence) == ("note", f"Further variables are read: {said}.")
    assert found.values == (said.partition(" ")[0],)


def test_a_variable_of_the_templates_own_is_none_to_give() -> None:
    own = "{% for m in messages %}{% if m.content %}{% set text = 1 %}{% endif %}{% endfor %}"
    assert difference(own + "{% if false %}{{ text }}{% endif %}" + SOUND, "variables") == set()


@pytest.mark.parametrize("name", ["bos_token", "eos_token", "documents", "tokenize"])
def test_what_transformers_gives_is_no_further_variable(name: str) -> None:
    assert difference("{% if " + name + " == 5 %}x{% endif %}" + SOUND, "variables") == set()


@pytest.mark.parametrize(
    "clock", ["{{ strftime_now('%Y') }}", "{% if tools %}{{ strftime_now('%d') }}{% endif %}"]
)
def test_asking_for_the_time_is_told(clock: str) -> None:
    assert difference(clock + SOUND, "variables") == {"depends_on_time=warning"}


def test_a_clock_that_is_there_and_not_asked_is_not() -> None:
    template = "{% if strftime_now is defined %}{% set a = 1 %}{% endif %}" + SOUND
    assert difference(template, "variables") == set()
