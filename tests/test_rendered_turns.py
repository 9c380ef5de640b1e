"""The examples that beginnings of a conversation prove are those that the whole way makes."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.pipeline import encode_conversation
from lossmask.plain_conversations import PlainConversations
from lossmask.rendered_turns import RenderedTurns
from lossmask.rendering import ChatTemplate
from tests.both_ways import check_both_ways, ready
from tests.scenarios import Message, assistant, system, user

_HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
LONG = [system("S"), user("Q"), assistant("A"), user("R"), assistant("B"), user("T")]


def _chatml(before: str = "", behind: str = "", tail: str = "") -> str:
    return _HEAD + before + "{{ m.content }}<|im_end|>" + behind + "\n{% endfor %}" + tail + _PROMPT


ONE_EXAMPLE = {
    "the prompt is asked for in the loop": (
        _HEAD + "{{ m.content }}<|im_end|>\n{% if loop.last and add_generation_prompt %}"
        "<|im_start|>assistant\n{% endif %}{% endfor %}"
    ),
    "the number of messages is asked for": "{% set n = messages | length %}" + _chatml(),
    "text before an answer": _chatml("{{ '\n' if m.role == 'assistant' }}"),
    "a set block": "{% set all %}" + _chatml() + "{% endset %}{{ all }}",
}
MANY_EXAMPLES = {
    "a thought before the last answer": _chatml(
        "{{ '<t></t>' if loop.last and m.role == 'assistant' }}"
    ),
    "another header for the last answer": _chatml(
        "{{ ('x' if loop.last else 'y') ~ ': ' if m.role == 'assistant' }}"
    ),
}
UNCLEAR = {
    "the prompt is another one": _chatml("{{ '?' if messages | length == 2 }}"),
    "a thought before the last message": _chatml("{{ '<t></t>' if loop.last }}"),
    "a mark behind the last message": _chatml(behind="{{ '!' if loop.last }}"),
    "a stop before the answer": _chatml("{{ '<|im_end|>' if m.role == 'assistant' }}"),
    "no stop": _chatml().replace("<|im_end|>", ""),
    "another content": _chatml("{{ messages[0].content }}"),
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def examples_of(encoder: Encoder, messages: list[Message], trained: list[int]) -> Any:
    template = encoder._setting.template
    assert isinstance(template, ChatTemplate)
    plain = PlainConversations(encoder._setting, encoder.layout)
    plain.prompt_end()
    whole = template.render_sealed(messages, plain._variables)
    assert whole is not None
    turns = RenderedTurns(
        template,
        plain._variables,
        invitation=plain.invitation,
        stops=encoder._setting.stops,
        end_of_stop=plain._end_of_stop,
    )
    return turns.examples(messages, whole, trained)


@pytest.mark.parametrize("name", [*ONE_EXAMPLE, *MANY_EXAMPLES])
def test_examples_are_those_of_the_whole_way(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    source = {**ONE_EXAMPLE, **MANY_EXAMPLES}[name]
    encoder = ready(Encoder(tokenizer, chat_template=source, fast=False))
    for messages in (LONG, LONG[:5], LONG[1:3]):
        trained = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
        found = examples_of(encoder, messages, trained)
        assert found is not None
        expected = encode_conversation(messages, None, encoder._setting)
        assert [(each.text, each.completions) for each in found[0]] == [
            (each.text, [(s.message_index, s.start, s.end) for s in each.spans])
            for each in expected
        ]
        assert (len(expected) > 1) == (name in MANY_EXAMPLES and len(trained) > 1)


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_is_not_told_by_literals_takes_the_whole_way(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    encoder = ready(Encoder(tokenizer, chat_template=UNCLEAR[name], fast=False))
    assert examples_of(encoder, LONG, [2, 4]) is None
    assert check_both_ways(encoder, [{"messages": LONG}] * 4) == 0


def test_a_content_that_begins_as_a_literal_is_asked_for(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = MANY_EXAMPLES["a thought before the last answer"]
    encoder = ready(Encoder(tokenizer, chat_template=source, fast=False))
    found = examples_of(encoder, LONG, [2, 4])
    assert found is not None
    asked = {(2, str.startswith, ("<",)): False, (4, str.startswith, ("<",)): False}
    assert found[1] == asked
    alike = [*LONG[:2], assistant("<t></t>A"), *LONG[3:]]
    assert examples_of(encoder, alike, [2, 4]) is None


@pytest.mark.parametrize("name", [*ONE_EXAMPLE, *MANY_EXAMPLES])
def test_other_contents_have_the_same_outcome_both_ways(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    source = {**ONE_EXAMPLE, **MANY_EXAMPLES}[name]
    encoder = ready(Encoder(tokenizer, chat_template=source, fast=False))
    rows = [
        {"messages": [user(q), assistant(a), user("x"), assistant(b)]}
        for q, a, b in (
            *(("Q", "A", "B"), ("?", "!", "é"), ("a", "b", "c"), ("Q", "<t></t>A", "B")),
            *(("Q", "x: A", "x: "), ("Q", "\n", "!"), ("Q", "<", "<t>"), ("Q", "y", "x")),
        )
    ]
    assert check_both_ways(encoder, [*rows, *rows]) >= 6
