"""Each way of rewriting history is told, with the smallest conversation that shows it."""

from __future__ import annotations

import pytest

from lossmask.doctor_history import CONVERSATIONS
from tests.doctor_templates import (
    HEADER,
    PROMPT,
    SOUND,
    changed,
    diagnosed,
    difference,
    fact,
    kinds,
    verdicts,
)

REASONING_OF_THE_LAST = changed(
    "{% if m.reasoning_content %}", "{% if m.reasoning_content and loop.last %}"
)
CALLS_OF_THE_LAST = changed(HEADER, "{% set is_last = loop.last %}" + HEADER).replace(
    "in m.tool_calls or [] %}", "in (m.tool_calls or []) if is_last %}"
)
ANSWERS_CUT = changed(
    "{{ m.content }}",
    "{{ '..' if m.role == 'assistant' and m.content and not loop.last else m.content }}",
)
EMPTY_THINK = changed(
    "{% if m.reasoning_content %}",
    "{% if loop.last and m.role == 'assistant' %}<think></think>"
    "{% endif %}{% if m.reasoning_content %}",
)
TOOLS = "{%- if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
TOOLS_OF_THE_LAST_QUESTION = changed(TOOLS, "").replace(
    HEADER,
    "{% if tools and m.role == 'user' and m == (messages | selectattr('role', 'eq', 'user') | list)"
    "[-1] %}{{ tools | tojson }}{% endif %}" + HEADER,
)
TOOLS_AT_FIRST = changed("{%- if tools %}", "{%- if tools and messages | length < 3 %}")
END_OF_TEXT = SOUND + "{% if not add_generation_prompt %}[END]{% endif %}"


def test_a_sound_template_keeps_prompts_and_history() -> None:
    assert kinds(SOUND, "parity", "history") == {
        "every_prompt_is_prefix": "ok",
        "derivations_agree": "ok",
        "one_example": "ok",
        "history_kept": "ok",
    }
    assert fact(SOUND, "parity", "every_prompt_is_prefix").values == ("12 of 12",)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (REASONING_OF_THE_LAST, {"reasoning_dropped_later=warning"}),
        (CALLS_OF_THE_LAST, {"call_dropped_later=warning"}),
        (ANSWERS_CUT, {"answer_dropped_later=warning", "reasoning_dropped_later=warning"}),
        (EMPTY_THINK, {"turn_respelled_later=warning"}),
        (END_OF_TEXT, {"ending_differs_later=note"}),
        (TOOLS_OF_THE_LAST_QUESTION, {"tools_moved_later=warning"}),
        (TOOLS_AT_FIRST, {"tools_dropped_later=warning"}),
    ],
    ids=["reasoning", "calls", "answers", "spelling", "ending", "tools-moved", "tools-dropped"],
)
def test_what_a_turn_loses_once_others_follow_is_one_fact(
    template: str, expected: set[str]
) -> None:
    assert difference(template, "history") == expected


def test_the_example_of_rewriting_is_the_smallest() -> None:
    found = fact(REASONING_OF_THE_LAST, "history", "reasoning_dropped_later")
    assert [each.rendered.label for each in found.evidence] == [
        "user, assistant + reasoning",
        "user, assistant + reasoning, user",
    ]
    assert [each.excerpt for each in found.evidence] == [
        "<think>Perhaps Mizar.</think>Near Altair.<|im_end|>\n",
        "Near Altair.<|im_end|>\n<|im_start|>user\nWhere is Rigel?<|im_end|>\n",
    ]
    assert found.values == ("followed by user",)


def test_turns_that_are_shown_differently_later_become_examples_of_their_own() -> None:
    assert fact(REASONING_OF_THE_LAST, "parity", "several_examples").values == (
        "with reasoning: 2",
        "with reasoning before a tool call: 2",
    )


def test_a_prompt_that_is_not_the_beginning_is_counted_and_shown_where_it_parts() -> None:
    template = SOUND.replace(PROMPT, PROMPT.replace("assistant\n", "assistant\n<think>"))
    found = fact(template, "parity", "prompt_is_no_prefix")
    assert (found.verdict, found.values) == ("warning", ("5 of 12",))
    assert found.sentence.startswith("Of 12 prompts tried 7 are not the beginning")
    assert [each.excerpt for each in found.evidence] == [
        "<think>",
        "Near Altair.<|im_end|>\n",
    ]


def test_a_template_that_renders_nothing_tried_is_an_error() -> None:
    found = diagnosed("{{ raise_exception('never') }}", "parity")
    assert found.worst == "error"
    assert verdicts(found) == {
        "nothing_renders": "error",
        "nothing_proven": "warning",
        "refused": "error",
    }
    refused = found.find("refused")
    assert refused is not None
    assert refused.values == tuple(f"{name}: template_error" for name in CONVERSATIONS)


def test_a_text_that_changes_by_itself_is_an_error() -> None:
    assert "derivations_disagree=error" in difference(SOUND + "{{ range(9) | random }}", "parity")
