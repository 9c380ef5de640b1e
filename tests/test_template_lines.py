"""The line of the template that wrote each character, against templates with one character changed.

The oracle: change one literal character on one line, render with transformers alone; every
character of the text that changes must have been told to be of that line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import TemplateError
from lossmask.embedded import DEMO_MODEL
from lossmask.rendering import ChatTemplate
from lossmask.template_lines import LinedOrigins, LinedTemplate, lines_of
from tests.corpus import needs_corpus, template_names, template_source, tokenizer_for
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import Message, Scenario, assistant, scenarios_of, user

_CHANGED = "\ue000"
_STATEMENT = re.compile(r"\{%.*?%\}|\{#.*?#\}|\{\{.*?\}\}", re.DOTALL)
_QUOTED = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return loaded


HI = [user("Hi"), assistant("Hello")]


def lined(
    tokenizer: PreTrainedTokenizerBase, source: str, messages: list[Message], **options: Any
) -> list[tuple[str, int]]:
    """Return the runs of a rendering that one line wrote, each with its line."""
    rendering = LinedTemplate(tokenizer, source).render(messages, **options)
    lines = lines_of(rendering.origins)
    borders = [0, *(np.flatnonzero(np.diff(lines)) + 1).tolist(), len(lines)]
    return [(rendering.text[a:b], int(lines[a])) for a, b in pairwise(borders)]


def test_literal_text_has_the_line_it_stands_on(tokenizer: PreTrainedTokenizerBase) -> None:
    source = "one\n{% for m in messages %}\n<a>\n\n<b>{{ m.content }}</b>\n{% endfor %}\n\ntwo"
    assert lined(tokenizer, source, HI[:1]) == [
        ("one\n", 1),
        ("<a>\n", 3),
        ("\n", 4),
        ("<b>Hi</b>\n", 5),
        ("\n", 7),
        ("two", 8),
    ]


def test_white_space_that_tags_take_away_is_no_line(tokenizer: PreTrainedTokenizerBase) -> None:
    source = "a\n\n  {%- for m in messages -%}\n\n\n  b {{- m.content -}}\n\n c\n{%- endfor %}"
    assert lined(tokenizer, source, HI[:1]) == [("a", 1), ("bHi", 6), ("c", 8)]


def test_what_a_macro_writes_has_the_line_inside_of_it(tokenizer: PreTrainedTokenizerBase) -> None:
    source = (
        "{% macro turn(m) %}\n<{{ m.role }}>\n{{ m.content | trim }}\n{% endmacro %}\n"
        "{% for m in messages %}\n{{ turn(m) ~ '!' }}\n{% endfor %}"
    )
    assert lined(tokenizer, source, [user(" Hi ")]) == [("<user>\n", 2), ("Hi\n", 3), ("!\n", 6)]


def test_what_a_block_keeps_has_the_line_inside_of_it(tokenizer: PreTrainedTokenizerBase) -> None:
    source = (
        "{% set body %}\n<x>{{ messages[0].content }}\n{% endset %}\n{% set y = '<y>' %}\n\n"
        "{{ body | upper }}\n{{ y }}"
    )
    assert lined(tokenizer, source, HI) == [
        ("\n", 5),
        ("<X>HI\n", 2),
        ("\n", 6),
        ("<y>", 7),
    ]


def test_each_part_of_an_expression_has_the_line_it_stands_on(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = (
        "{{ '<a>' +\n messages[0].content\n + ('<b>'\n if messages\n else '<c>')\n ~ 1\n ~ '<d>' }}"
    )
    assert lined(tokenizer, source, HI) == [
        ("<a>", 1),
        ("Hi", 2),
        ("<b>", 3),
        ("1", 6),
        ("<d>", 7),
    ]


def test_numbers_and_lists_are_written_as_ever(tokenizer: PreTrainedTokenizerBase) -> None:
    source = "{{ 1 + 2 + 3 }}\n{{ [1] + ['a'] }}\n{{ none }}{{ missing }}{{ 'a' if false }}"
    assert lined(tokenizer, source, HI) == [("6\n", 1), ("[1, 'a']\n", 2), ("None", 3)]


def test_text_of_several_lines_that_a_filter_changes_is_of_the_line_with_the_filter(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = "{% set body %}\n<x>\n<y>\n{% endset %}\n{{ body | center(9) | wordwrap(20) }}"
    *_, last = lined(tokenizer, source, HI)
    assert last[1] == 5


def test_a_text_that_is_another_one_each_time_has_no_lines(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = LinedTemplate(tokenizer, "a{{ strftime_now('%f') }}\n{{ messages[0].content }}")
    for _ in range(40):
        try:
            rendering = template.render(HI)
        except TemplateError:  # the first ones are held against transformers'
            continue
        assert not lines_of(rendering.origins).any()
        assert rendering.text.endswith("Hi")
        return
    pytest.fail("no rendering went unnoticed")


def test_origins_know_their_lines_through_slices_and_concatenations_alone() -> None:
    origins = LinedOrigins.of(np.arange(4), np.array([1, 1, 2, 3], np.int32))
    assert lines_of(origins[1:]).tolist() == [1, 2, 3]
    assert lines_of(origins[:3][1:]).tolist() == [1, 2]
    assert lines_of(origins[::-1]).tolist() == [3, 2, 1, 1]
    joined = np.concatenate([origins[2:], np.array([-1]), origins[:1]])
    assert joined.tolist() == [2, 3, -1, 0]
    assert lines_of(joined).tolist() == [2, 3, 0, 1]
    assert lines_of(origins + 1).tolist() == [0, 0, 0, 0]
    assert lines_of(origins[np.array([3, 0])]).tolist() == [0, 0]
    assert int(origins[2]) == 2


def changes(source: str) -> Iterator[tuple[int, str]]:
    """Yield a line and the template in which one literal character on it is another one.

    Only characters that the template writes where they stand: outside of statements, or in a
    string of an expression; of these the second of each word between brackets.
    """
    places: list[int] = []
    at = 0
    for tag in [*_STATEMENT.finditer(source), None]:
        places += _words(source, at, len(source) if tag is None else tag.start())
        if tag is None:
            break
        at = tag.end()
        if tag.group().startswith("{{"):
            for quoted in _QUOTED.finditer(tag.group()):
                inside = tag.start() + quoted.start() + 1
                places += _words(source, inside, tag.start() + quoted.end() - 1)
    for place in places:
        yield source.count("\n", 0, place) + 1, source[:place] + _CHANGED + source[place + 1 :]


def _words(source: str, start: int, end: int) -> list[int]:
    found = re.finditer(r"[<\[]\S{2,}?[>\]]", source[start:end])
    return [start + each.start() + 2 for each in found]


def check(tokenizer: PreTrainedTokenizerBase, source: str, scenario: Scenario, most: int) -> int:
    """Return how many characters of a rendering are proven to be of the line that they have."""
    known = 0
    listed = list(changes(source))
    for asked in (False, True):
        options: dict[str, Any] = {"tools": scenario.tools, "add_generation_prompt": asked}
        try:
            rendering = LinedTemplate(tokenizer, source).render(scenario.messages, **options)
        except TemplateError:
            continue
        lines = lines_of(rendering.origins)
        for line, changed in listed[:: max(1, len(listed) // most)]:
            try:
                template = ChatTemplate(tokenizer, changed)
                text = template.render_text(scenario.messages, **options)
            except TemplateError:
                continue
            differs = [k for k, character in enumerate(text) if character == _CHANGED]
            restored = re.sub(_CHANGED, ".", re.escape(text))
            if len(text) == len(rendering.text) and re.fullmatch(restored, rendering.text):
                found = {int(at) for at in lines[differs]}
                assert found <= {line, 0}, source.split("\n")[line - 1]  # 0: it is not known
                known += int((lines[differs] != 0).sum())
    return known


@pytest.mark.parametrize("name", FIXTURE_TEMPLATES)
def test_a_changed_literal_changes_characters_of_its_line(
    name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    source = FIXTURE_TEMPLATES[name].replace("{%", "\n  {%")  # a statement a line, as published
    known = sum(check(tokenizer, source, each, 100) for each in scenarios_of(source)[:12])
    assert known > 20 or name == "plain text, one newline between"


@needs_corpus
@pytest.mark.parametrize("name", template_names()[::40])
def test_a_changed_literal_changes_characters_of_its_line_in_published_templates(name: str) -> None:
    _check_published(name, 1, 6)


@needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("name", template_names())
def test_a_changed_literal_changes_characters_of_its_line_in_every_published_template(
    name: str,
) -> None:
    _check_published(name, 12, 1000)


def _check_published(name: str, scenarios: int, most: int) -> None:
    source, tokenizer = template_source(name), tokenizer_for(name)
    for scenario in scenarios_of(source)[:scenarios]:
        check(tokenizer, source, scenario, most)
