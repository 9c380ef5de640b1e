"""How tools are declared and called is told."""

from __future__ import annotations

import pytest

from tests.doctor_templates import SOUND, changed, difference, fact, kinds

TOOLS = "{%- if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
ARGUMENTS = (
    "{% if c.function.arguments is string %}{{ c.function.arguments }}"
    "{% else %}{{ c.function.arguments | tojson }}{% endif %}"
)
CALL = '<tool_call>{"name": "{{ c.function.name }}", "arguments": ' + ARGUMENTS + "}</tool_call>"


def test_a_sound_template_shows_tools_and_calls() -> None:
    assert kinds(SOUND, "tools") == {
        "tools_shown": "ok",
        "call_is_json": "ok",
        "arguments_alike": "ok",
        "parallel_calls_shown": "ok",
    }


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (changed(TOOLS, ""), {"tools_dropped=warning"}),
        (
            changed("{{ tools | tojson }}", "{{ tools | map(attribute='function.name') | join }}"),
            {"tools_shortened=warning"},
        ),
        (changed(TOOLS, "{{ raise_exception('no') if tools }}"), {"tools_refused=warning"}),
        (changed(CALL, "{{ c.function.name }}" + ARGUMENTS), {"arguments_are_json=ok"}),
        (changed(CALL, ARGUMENTS), {"call_without_name=warning"}),
        (
            changed(CALL, "{{ c.function.name }}({{ c.function.arguments }})"),
            {"call_is_no_json=note", "arguments_differ=warning"},
        ),
        (
            changed(ARGUMENTS, "{{ c.function.arguments | tojson }}"),
            {"arguments_quoted_twice=warning"},
        ),
        (
            changed(ARGUMENTS, "{{ c.function.arguments.items() | list | length }}"
                    "{{ c.function.arguments | tojson }}"),
            {"arguments_as_text_refused=note", "arguments_are_json=ok"},
        ),
        (
            changed(ARGUMENTS, "{{ {'star': c.function.arguments.star} | tojson if "
                    "c.function.arguments is mapping }}"),
            {"arguments_as_text_torn=warning"},
        ),
        (
            changed("{% for c in m", "{% if m.tool_calls and m.tool_calls | length > 1 %}"
                    "{{ raise_exception('one at a time') }}{% endif %}{% for c in m"),
            {"parallel_calls_refused=warning"},
        ),
        (
            changed("in m.tool_calls or []", "in (m.tool_calls or [])[:1]"),
            {"parallel_calls_dropped=warning"},
        ),
    ],
)  # fmt: skip
def test_what_is_done_with_tools_is_told(template: str, expected: set[str]) -> None:
    assert difference(template, "tools") == expected


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("{% if tools and m.role == 'user' and loop.first %}{{ tools }}{% endif %}", None),
        ("{% if tools and loop.last %}{{ tools }}{% endif %}", "before the last question"),
        ("{% if tools and loop.index == 2 %}{{ tools }}{% endif %}", "before the first question"),
    ],
)
def test_where_tools_are_shown_is_told(where: str, place: str | None) -> None:
    template = changed(TOOLS, "").replace(
        "<|im_start|>{{ m.role }}", where + "<|im_start|>{{ m.role }}"
    )
    if place is None:  # with a system prompt no user comes first
        assert kinds(template, "tools")["tools_dropped"] == "warning"
    else:
        assert fact(template, "tools", "tools_shown").values == (place,)


def test_a_call_is_shown_as_the_template_writes_it() -> None:
    assert fact(SOUND, "tools", "call_is_json").evidence[0].excerpt == (
        '<tool_call>{"name": "look_up_star", "arguments": {"star": "Polaris"}}</tool_call>'
        "<|im_end|>\n"
    )
