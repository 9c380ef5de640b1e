"""Renderings equal those of transformers, error for error, with the origin of every character."""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import TemplateError, TokenizerError
from lossmask.embedded import DEMO_MODEL
from lossmask.rendering import ChatTemplate
from lossmask.traced_rendering import Leaf
from tests import corpus
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import SCENARIOS, assistant, call, user


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def renders_alike(
    tokenizer: PreTrainedTokenizerBase, source: str, messages: list[Any], tools: list[Any] | None
) -> bool:
    """Compare with transformers, error for error and text for text; False if both raise."""
    template = ChatTemplate(tokenizer, source)
    try:
        expected = tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=source, tokenize=False
        )
    except Exception as error:  # whatever a template raises
        with pytest.raises(TemplateError, match=re.escape(str(error))) as raised:
            template.render(messages, tools=tools)
        return raised.value.reason != "template_error"
    assert template.render(messages, tools=tools).text == expected
    return True


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_own_templates_render_as_in_transformers(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    rendered = [
        renders_alike(tokenizer, FIXTURE_TEMPLATES[name], s.messages, s.tools) for s in SCENARIOS
    ]
    assert sum(rendered) > len(rendered) / 2


def _corpus_renders(templates: list[str]) -> None:
    edge = corpus.rows("synthetic-edge-dev")
    sample = [row for name in corpus.dataset_names() for row in corpus.rows(name, limit=1)]
    rendered = 0
    for name in templates:
        tokenizer, source = corpus.tokenizer_for(name), corpus.template_source(name)
        for row in [*edge, *sample]:
            rendered += renders_alike(tokenizer, source, row["messages"], row.get("tools"))
    assert rendered > len(templates) * len(edge) / 2


@corpus.needs_corpus
@pytest.mark.parametrize("part", range(2))
def test_published_templates_render_as_in_transformers(part: int) -> None:
    _corpus_renders(corpus.template_names()[part * 50 :: 100])


@corpus.needs_corpus
@pytest.mark.slow
def test_all_published_templates_render_as_in_transformers() -> None:
    _corpus_renders(corpus.template_names())


def test_every_character_knows_its_message_field_and_offset(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = (
        "{% for m in messages %}[{{ m.content | trim | upper }}]"
        "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}{% endfor %}"
    )
    messages = [user("  ab "), assistant("c", tool_calls=[call("fn", {"x": "é\n"})])]
    rendering = ChatTemplate(tokenizer, source).render(messages)
    assert rendering.text.startswith("[AB][C]{")
    assert rendering.origin(0) == (None, -1)
    assert rendering.origin(1) == (Leaf(0, "content"), 2)
    assert rendering.origin(2) == (Leaf(0, "content"), 3)
    assert rendering.origin(5) == (Leaf(1, "content"), 0)
    newline = rendering.text.index("\\n")
    argument = Leaf(1, "tool_calls/0/function/arguments/x")
    assert rendering.origin(newline) == rendering.origin(newline + 1) == (argument, 1)
    key = rendering.text.index('"x"') + 1
    assert rendering.origin(key) == (Leaf(1, argument.path, is_key=True), 0)


def test_roles_are_scaffolding(tokenizer: PreTrainedTokenizerBase) -> None:
    rendering = ChatTemplate(tokenizer).render([user("user")])
    owners = rendering.message_index().tolist()
    first = rendering.text.index("user")
    second = rendering.text.index("user", first + 1)
    assert owners[first : first + 4] == [-1] * 4
    assert owners[second : second + 4] == [0] * 4


def test_blended_strings_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    source = "{{ (messages[0].content ~ messages[1].content) | wordwrap(1) }}"
    with pytest.raises(TemplateError, match="blends several strings") as raised:
        ChatTemplate(tokenizer, source).render([user("a"), assistant("b")])
    assert raised.value.reason == "cannot_trace"


def test_a_tokenizer_without_template_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    bare = AutoTokenizer.from_pretrained(DEMO_MODEL)
    bare.chat_template = None
    with pytest.raises(TemplateError, match="has no chat template") as raised:
        ChatTemplate(bare)
    assert raised.value.reason == "no_chat_template"


def test_something_else_than_a_tokenizer_is_refused() -> None:
    with pytest.raises(TokenizerError, match="expected a transformers tokenizer, got str"):
        ChatTemplate("qwen")


def test_a_template_that_does_not_compile_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TemplateError, match=r"does not compile: line 2: .*endfor") as raised:
        ChatTemplate(tokenizer, "\n{% for m in messages %}")
    assert raised.value.reason == "template_syntax"
