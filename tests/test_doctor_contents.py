"""Whatever a template leaves out is told, and nothing that it shows is."""

from __future__ import annotations

import pytest

from tests.doctor_templates import CONTENT, SOUND, changed, difference, fact, kinds

THINK = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
STRINGS = "{% if m.content is string %}{{ m.content }}{% else %}"


def test_a_sound_template_shows_everything() -> None:
    assert {kind for kind, verdict in kinds(SOUND, "contents").items() if verdict != "ok"} == {
        "image_marked"
    }


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            changed(THINK, ""),
            {"reasoning_dropped=warning", "reasoning_before_call_dropped=warning"},
        ),
        (
            changed(CONTENT, "{{ m.content.split('</think>')[-1] }}"),
            {"inline_reasoning_dropped=warning"},
        ),
        (changed("in m.tool_calls or []", "in []"), {"call_dropped=warning"}),
        (
            changed(CONTENT, "{% if not m.tool_calls %}{{ m.content }}{% endif %}"),
            {"text_beside_call_dropped=warning"},
        ),
        (
            changed(CONTENT, "{% if m.role != 'tool' %}{{ m.content }}{% endif %}"),
            {"tool_result_dropped=warning"},
        ),
        (
            changed("{% if m.name %} {{ m.name }}{% endif %}", ""),
            {"name_dropped=note", "tool_name_dropped=note"},
        ),
        (
            changed("{% if m.tool_call_id %} {{ m.tool_call_id }}{% endif %}", ""),
            {"call_id_dropped=note"},
        ),
        (changed(CONTENT, "{{ m.content | trim }}"), {"white_space_cut=note"}),
        (
            changed(STRINGS, "{{ m.content }}{% if true %}{% else %}"),
            {"user_parts_printed=warning", "assistant_parts_printed=warning"},
        ),
        (
            changed(STRINGS, "{{ m.content + '' }}{% if true %}{% else %}"),
            {"user_parts_refused=note", "assistant_parts_refused=note"},
        ),
        (
            changed(STRINGS, "{{ m.content if m.content is string }}{% if true %}{% else %}"),
            {"user_parts_dropped=warning", "assistant_parts_dropped=warning"},
        ),
        (
            changed("{{ p.text }}", "[{{ p.text }}]"),
            {"user_parts_altered=note", "assistant_parts_altered=note"},
        ),
        (changed("<image>", ""), {"image_dropped=note"}),
        (changed("<image>", "{{ raise_exception('no images') }}"), {"image_refused=note"}),
        (
            changed(CONTENT, "{{ raise_exception('no') if m.role == 'tool' }}" + CONTENT),
            {"tool_result_refused=warning"},
        ),
    ],
)  # fmt: skip
def test_what_is_left_out_is_told_and_nothing_else(template: str, expected: set[str]) -> None:
    assert difference(template, "contents") == expected


def test_cut_white_space_is_told_by_role_and_side() -> None:
    template = changed(
        CONTENT,
        "{% if m.role == 'user' %}{{ m.content.rstrip() }}{% elif m.role == 'system' %}"
        "{{ m.content | trim }}{% else %}{{ m.content }}{% endif %}",
    )
    found = fact(template, "contents", "white_space_cut")
    assert found.values == (
        "user: after",
        "system: before and after",
    )


def test_a_template_that_takes_parts_alone_is_diagnosed_on_parts() -> None:
    template = changed(STRINGS, "{% if m.content is string %}{% else %}")
    assert kinds(template, "contents")["needs_parts"] == "warning"
    assert kinds(template, "contents")["answer_shown"] == "ok"
    assert kinds(template, "parity")["every_prompt_is_prefix"] == "ok"


def test_an_answer_that_is_never_shown_is_an_error() -> None:
    template = changed(
        "{%- for m in messages %}", "{%- for m in messages if m.role != 'assistant' %}"
    )
    assert kinds(template, "contents")["answer_dropped"] == "error"
