"""Runs cover the text, say whose it is, and lead to the very characters in the row."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, Fit, Policy
from lossmask.attribution import Author, attribute, attributed, field_name
from lossmask.embedded import DEMO_MODEL
from lossmask.layout import Layout
from lossmask.written import REASONING
from tests.byte_renderers import Bytes
from tests.corpus import needs_corpus, template_names, template_source, tokenizer_for
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import Message, Scenario, assistant, call, scenarios_of, system, tool, user

_ESCAPED = ("&lt;", "&gt;", "&amp;", "&#39;", "&#34;")
HI = [user("Hi"), assistant("Hello")]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return loaded


def value_of(message: Message, author: Author) -> str:
    """Return the string of a message that an author names."""
    assert author.field is not None
    value: Any = message
    keys = re.findall(r"[^.\[\]]+", author.field)
    for key in keys[:-1] if author.is_key else keys:
        if key in REASONING and key not in value:  # templates see reasoning by several names
            key = next(name for name in REASONING if name in value)
        value = value[int(key)] if isinstance(value, list) else value[key]
    return keys[-1] if author.is_key else str(value)


def check(encoder: Encoder, row: dict[str, Any]) -> list[Author]:
    """Hold what is said of each example against the row, and return all of it."""
    found = attribute(encoder, row)
    outcome = encoder.encode_row(row)
    assert len(found) == len(outcome.examples)
    for example, authors in zip(outcome.examples, found, strict=True):
        assert [0, *(a.end for a in authors)] == [*(a.start for a in authors), len(example.text)]
        owner = np.full(len(example.text) + 1, -1)
        for author in authors:
            assert author.start < author.end
            owner[author.start : author.end] = author.message_index
            text = example.text[author.start : author.end]
            if author.message_index < 0:
                assert (author.field, author.field_start) == (None, None)
            elif author.field_start is not None:
                whole = value_of(row["messages"][author.message_index], author)
                own = whole[author.field_start :][: len(text)].lower()
                assert own == text.lower() or text in json.dumps(own[0]) or text in _ESCAPED
        written = [owner[start:end] for start, end in example.offsets.tolist()]
        first = [next((int(o) for o in each if o >= 0), -1) for each in written]
        assert first == example.message_index.tolist()
    return [author for authors in found for author in authors]


def test_an_example_is_told_run_by_run(tokenizer: PreTrainedTokenizerBase) -> None:
    template = (
        "{% for m in messages %}\n<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
        "{% endfor %}\n{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}"
    )
    encoder = Encoder(tokenizer, chat_template=template)
    row = {"messages": [user("  Hi "), assistant("Hello")]}
    [example] = encoder.encode(row["messages"])
    [authors] = attribute(encoder, row)
    assert (
        example.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    )
    assert authors == [
        Author(0, 17, -1, None, None, 2),
        Author(17, 19, 0, "content", 2, 3),
        Author(19, 30, -1, None, None, 3),
        Author(30, 52, -1, None, None, 2),
        Author(52, 57, 1, "content", 0, 3),
        Author(57, 68, -1, None, None, 3),
    ]


@pytest.mark.parametrize("name", FIXTURE_TEMPLATES)
def test_runs_cover_the_text_and_lead_to_the_row(
    name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    source = FIXTURE_TEMPLATES[name]
    encoder = Encoder(tokenizer, Policy(control_tokens="escape"), chat_template=source)
    authors = [a for each in scenarios_of(source) for a in check(encoder, row_of(each))]
    assert {author.template_line for author in authors} <= set(range(1, source.count("\n") + 2))
    assert len({author.message_index for author in authors}) > 3


def row_of(scenario: Scenario) -> dict[str, Any]:
    return {"messages": scenario.messages, "tools": scenario.tools}


def published(name: str, scenarios: Sequence[Scenario]) -> None:
    encoder = Encoder(
        tokenizer_for(name),
        Policy(control_tokens="allow"),
        chat_template=template_source(name),
        proof="off",
    )
    for scenario in scenarios:
        check(encoder, row_of(scenario))


@needs_corpus
@pytest.mark.parametrize("name", template_names()[3::60])
def test_runs_lead_to_the_row_in_published_templates(name: str) -> None:
    published(name, scenarios_of(template_source(name))[::9])


@needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("name", template_names())
def test_runs_lead_to_the_row_in_every_published_template(name: str) -> None:
    published(name, scenarios_of(template_source(name)))


def test_a_field_is_written_as_one_writes_it(tokenizer: PreTrainedTokenizerBase) -> None:
    assert field_name("tool_calls/0/function/arguments/city") == (
        "tool_calls[0].function.arguments.city"
    )
    encoder = Encoder(tokenizer, chat_template=FIXTURE_TEMPLATES["chatml with tools"])
    messages = [user("Q"), assistant("", tool_calls=[call("weather", {"city": "Rome"})])]
    authors = check(encoder, {"messages": messages})
    assert [(a.field, a.is_key, a.field_start) for a in authors if a.message_index == 1] == [
        ("tool_calls[0].function.name", False, 0),
        ("tool_calls[0].function.arguments.city", True, 0),
        ("tool_calls[0].function.arguments.city", False, 0),
    ]


def test_a_text_put_together_from_two_renderings_knows_the_lines_of_each(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = (
        "{% for m in messages %}\n{% if m.role == 'system' and messages[-1].role == 'user' %}\n"
        "<sys>{{ m.content }}\n{% elif m.role == 'user' %}\n<user>{{ m.content }}\n"
        "{% elif m.role == 'assistant' %}\n<asst>{{ m.content }}<|im_end|>\n{% endif %}\n"
        "{% endfor %}\n{{ '<asst>' if add_generation_prompt }}"
    )
    encoder = Encoder(tokenizer, chat_template=template)
    row = {"messages": [system("S"), user("Q"), assistant("A")]}
    [example] = encoder.encode(row["messages"])
    assert example.text == "<sys>S\n<user>Q\n<asst>A<|im_end|>\n"
    assert [(example.text[a.start : a.end], a.template_line) for a in check(encoder, row)] == [
        ("<sys>", 3),
        ("S", 3),
        ("\n", 3),
        ("<user>", 5),
        ("Q", 5),
        ("\n", 5),
        ("<asst>", 10),  # the generation prompt's
        ("A", 7),
        ("<|im_end|>\n", 7),
    ]


def test_a_stop_that_no_line_wrote_has_none(tokenizer: PreTrainedTokenizerBase) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template += "{{ 'assistant: ' if add_generation_prompt }}"
    encoder = Encoder(tokenizer, Policy(append_stop="eos"), chat_template=template)
    *_, last = check(encoder, {"messages": HI})
    [example] = encoder.encode(HI)
    assert example.text[last.start : last.end] == encoder.tokenizer.eos_token
    assert last.template_line is None


@pytest.mark.parametrize(
    ("truncation", "cut"), [("drop_turns", 6), ("keep_start", 6), ("keep_end", 22)]
)
def test_what_is_left_of_an_example_is_told_by_the_numbers_of_the_row(
    truncation: Any, cut: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    messages = [system("Be brief."), user("one"), assistant("first"), user("two two two")]
    messages += [assistant("second"), user("three"), assistant("third answer")]
    encoder = Encoder(tokenizer)
    [whole] = encoder.encode(messages)
    shorter = Encoder(tokenizer, fit=Fit(len(whole) - cut, truncation))
    authors = check(shorter, {"messages": messages})
    shown = {author.message_index for author in authors}
    assert (
        shown
        == {
            "drop_turns": {-1, 0, 3, 4, 5, 6},
            "keep_start": {-1, 0, 1, 2, 3, 4, 5, 6},
            "keep_end": {-1, 2, 3, 4, 5, 6},
        }[truncation]
    )


def test_an_example_of_its_own_for_each_turn_that_is_rewritten(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    name = "reasoning kept after the last user turn only"
    encoder = Encoder(tokenizer, chat_template=FIXTURE_TEMPLATES[name])
    thought = [assistant(f"A{n}", reasoning_content=f"R{n}") for n in range(3)]
    messages = [m for n in range(3) for m in (user(f"Q{n}"), thought[n])]
    found = attribute(encoder, {"messages": messages})
    assert len(found) == 3
    reasoned = [[a.message_index for a in each if a.field == "reasoning_content"] for each in found]
    assert reasoned == [[5], [3], [1]]
    check(encoder, {"messages": messages})


def test_a_text_is_told_by_its_ranges(tokenizer: PreTrainedTokenizerBase) -> None:
    layout = Layout(response_template="A:", instruction_template="Q:")
    encoder = Encoder(tokenizer, layout=layout)
    [authors] = attribute(encoder, {"text": "Q: 1+1? A: 2"})
    assert authors == [
        Author(0, 10, -1, "text", 0, None),
        Author(10, 12, 0, "text", 10, None),
        Author(12, 22, -1, None, None, None),
    ]


def test_a_text_that_is_cut_keeps_its_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    layout = Layout(response_template="A:", instruction_template="Q:")
    text = "Q: one? A: eins Q: two? A: zwei"
    whole = Encoder(tokenizer, layout=layout).encode_row({"text": text}).examples[0]
    cut = Encoder(tokenizer, layout=layout, fit=Fit(len(whole) - 2, "keep_end"))
    [authors] = attribute(cut, {"text": text})
    [example] = cut.encode_row({"text": text}).examples
    first = authors[0].field_start
    assert first
    assert example.text.startswith(text[first:])
    assert [(a.start, a.end) for a in authors][-1][1] == len(example.text)


def test_ids_come_from_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer)
    row = {"input_ids": [60, 61, 62], "labels": [-100, 61, 62]}
    [example] = encoder.encode_row(row).examples
    assert attribute(encoder, row) == [[Author(0, len(example.text), -1, "input_ids", None, None)]]


def test_a_renderer_that_is_no_template_has_no_lines() -> None:
    encoder = Encoder.from_renderer(Bytes())
    row = {"messages": [user("Hi"), assistant("Hello"), tool("x"), assistant("Bye")]}
    found = attribute(encoder, row)
    assert {a.template_line for each in found for a in each} == {None}
    assert {a.message_index for each in found for a in each} == {-1, 0, 1, 2, 3}


def test_a_rejected_row_has_no_authors(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer)
    assert attribute(encoder, {"messages": [user("Hi")]}) == []
    found = attributed(encoder, {"nonsense": 1})
    assert found.outcome.rejection == encoder.encode_row({"nonsense": 1}).rejection
    assert found.normal == {}


def test_any_layout_is_told_in_the_normal_form(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer)
    row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    assert attribute(encoder, row) == attribute(encoder, {"messages": HI})
