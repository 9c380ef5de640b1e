"""The page shows every fact, fits its width, and lets no template steer the terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lossmask.diagnosis import TOPICS, Diagnosis, Evidence, Fact, Rendered
from lossmask.doctor_display import show_diagnosis
from tests.doctor_templates import SOUND, changed, diagnosed


def drawn(found: Diagnosis, *, width: int = 80, evidence: bool = False, name: str = "t") -> str:
    console = Console(file=io.StringIO(), width=width, record=True, color_system="truecolor")
    console.print(show_diagnosis(found, name=name, evidence=evidence))
    return console.export_text()


def unwrapped(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_page_holds_every_topic_within_its_width(width: int) -> None:
    text = drawn(diagnosed(SOUND), width=width)
    assert max(map(len, text.splitlines())) <= width
    for heading in TOPICS.values():
        assert f"\n{heading}" in text


def test_a_sentence_stands_behind_the_sign_of_its_verdict() -> None:
    text = unwrapped(drawn(diagnosed(changed("{{ m.content }}", "{{ m.content | trim }}"))))
    assert "✗ 0 errors ▲ 0 warnings · 3 notes ✓" in text
    assert "· White space around a text is cut (user: before and after;" in text
    assert "✓ A system prompt is shown." in text


def test_what_is_shown_and_left_out_is_listed_in_a_line_each() -> None:
    text = unwrapped(drawn(diagnosed(changed("in m.tool_calls or []", "in []"), "contents")))
    assert "▲ left out: call" in text
    assert "shown: question, answer, reasoning, inline reasoning, text beside call," in text


def test_rewriting_is_shown_by_both_renderings_from_where_they_part() -> None:
    template = changed("{% if m.reasoning_content %}", "{% if m.reasoning_content and loop.last %}")
    text = drawn(diagnosed(template, "history"), width=120)
    assert (
        "user, assistant + reasoning: …>⏎<|im_start|>assistant⏎┃<think>Perhaps Mizar.</think>"
        "Near Altair.<|im_end|>⏎" in text
    )


def test_with_evidence_every_fact_is_shown_with_its_renderings() -> None:
    text = unwrapped(drawn(diagnosed(SOUND), evidence=True))
    assert "✓ A tool result is shown. user, assistant + call, tool; tools given: <|im" in text


def test_a_stand_in_for_the_tokenizer_is_named_as_one() -> None:
    text = unwrapped(drawn(diagnosed(SOUND, "stops", is_stand_in=True)))
    assert "No tokenizer was given" in text
    assert "--tokenizer" in text


def test_nothing_of_a_template_steers_the_terminal_or_is_markup() -> None:
    evil = "\x1b[31m[bold]\u202e"
    rendered = Rendered(({"role": evil, "content": ""},), "x" + evil)
    refused = Rendered(({"role": "user", "content": ""},), None, evil)
    facts = tuple(
        Fact("history", "kind", "warning", f"A {evil}.", (), (Evidence(each, 1),))
        for each in (rendered, refused)
    )
    found = Diagnosis(facts, evil, False, 1)
    console = Console(file=io.StringIO(), width=80, color_system=None, force_terminal=True)
    console.print(show_diagnosis(found, name=evil))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("[bold]") == 7
