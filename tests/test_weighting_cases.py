"""Weights that were once lost, misplaced, or too large: one test per case."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer

from lossmask import (
    ConversationError,
    Encoder,
    Example,
    LossmaskError,
    ParityError,
    Policy,
    TemplateError,
)
from lossmask.embedded import DEMO_MODEL
from lossmask.parts import end_of_answer
from lossmask.traced_text import LITERAL
from lossmask.weighting import first_visible, in_float32
from tests import corpus
from tests.mutations import Mutant
from tests.scenarios import SCENARIOS, assistant, tool, user
from tests.small_tokenizers import byte_level
from tests.test_weighting import REWRITING, TEMPLATE, call, encode, in_loss, runs
from tests.token_mutations import WEIGHT_MUTANTS

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
CLOSED = PLAIN + "{{ '<|end|>' if not add_generation_prompt }}"


def span(start: int, end: int, weight: float, path: str = "content") -> dict[str, Any]:
    return {"start": start, "end": end, "weight": weight, "path": path}


def row(data: dict[str, Any], policy: Policy | None = None) -> Example | str:
    """Return the example of a row, or why it is rejected."""
    outcome = Encoder.from_pretrained(DEMO_MODEL, policy).encode_row(data)
    return outcome.rejection.reason if outcome.rejection else outcome.examples[0]


def test_zero_in_the_data_wins_over_the_weight_of_prompts() -> None:
    policy = Policy(weights={"prompt": 0.5})
    messages = [
        user("One two") | {"weights": [span(0, 3, 0)]},
        assistant("A1", train=False),
        user("Q2") | {"weight": 0},
        assistant("A3"),
    ]
    [example] = encode(messages, policy)
    assert in_loss(example) == [(0.5, " two"), (1.0, "A3<|im_end|>")]


def test_a_range_leaves_the_rest_of_a_prompt_what_it_was() -> None:
    messages = [user("One two") | {"weights": [span(0, 3, 2)]}, assistant("A1")]
    [example] = encode(messages, Policy(weights={"prompt": 0.5, "scaffold": 0.25}))
    assert runs(example) == [
        (0.25, "<|im_start|>user\n"),
        (2.0, "One"),
        (0.5, " two"),
        (0.25, "<|im_end|>\n<|im_start|>assistant\n"),
        (1.0, "A1<|im_end|>"),
        (0.25, "\n"),
    ]


def test_a_range_of_a_later_message_is_none_of_an_earlier_turn() -> None:
    messages = [
        user("Q0"),
        assistant("add it") | {"weights": [span(0, 3, 0.25)]},
        user("Q2"),
        assistant("see it") | {"weights": [span(0, 3, 0)]},
    ]
    policy = Policy(weights={"prompt": 0.5}, train_on="last_assistant")
    example = row({"messages": messages}, policy)
    assert isinstance(example, Example)
    assert in_loss(example) == [
        (0.5, "Q0"),
        (0.25, "add"),
        (0.5, " it"),
        (0.5, "Q2"),
        (1.0, " it<|im_end|>"),
    ]


def test_a_range_in_a_prefill_is_refused() -> None:
    message = assistant("One two", prefill="One", weights=[span(0, 3, 2)])
    with pytest.raises(ParityError, match="0:3 of 'content', which stand outside of what is"):
        encode([user("Q"), message])
    message["weights"] = [span(0, 7, 2)]
    [example] = encode([user("Q"), message])
    assert in_loss(example) == [(2.0, " two"), (1.0, "<|im_end|>")]


@pytest.mark.parametrize("path", ["role", "prefill"])
def test_a_range_in_a_string_that_templates_never_see_is_refused(path: str) -> None:
    message = assistant("A1", prefill="A", weights=[span(0, 1, 2, path)])
    with pytest.raises(LossmaskError, match=path):
        encode([user("Q"), message])


def test_reasoning_has_several_names() -> None:
    for name in ("thinking", "reasoning", "reasoning_content"):
        message = assistant("A1", weights=[span(0, 2, 2, name)]) | {name: "So it"}
        [example] = encode([user("Q"), message])
        assert in_loss(example)[1] == (2.0, "So")


def test_a_range_replaces_part_and_message_and_is_scaled() -> None:
    policy = Policy(loss_scale={"[0-9]+": [0.5]}, weights={"content": 4})
    [example] = encode([user("Q"), assistant("a 12 b", weights=[span(2, 6, 3)])], policy)
    assert in_loss(example) == [(4.0, "a"), (1.5, " 12"), (3.0, " b"), (1.0, "<|im_end|>")]


def test_a_loss_scale_asks_the_text_of_parts() -> None:
    template = TEMPLATE.replace("{{ m.content or '' }}", "{{ m.content[0].text or m.content }}")
    policy = Policy(loss_scale={"query": {"type": [0.5], "fast": [2]}, "response": {}})
    messages = [user([{"type": "text", "text": "fast?"}]), assistant("A1")]
    [example] = encode(messages, policy, template)
    assert in_loss(example) == [(2.0, "A1"), (1.0, "<|im_end|>")]


def test_a_think_tag_of_another_message_opens_no_block() -> None:
    messages = [user("What is <think>?"), assistant("It ends by </think>.")]
    [example] = encode(messages, Policy(weights={"reasoning": 0}))
    assert in_loss(example) == [(1.0, "It ends by </think>.<|im_end|>")]


def test_think_tags_inside_of_arguments_are_arguments() -> None:
    messages = [user("Q"), assistant("x", tool_calls=[call("add", a="<think></think>")])]
    policy = Policy(empty_think="ignore", weights={"reasoning": 0, "tool_calls.arguments": 0.5})
    [example] = encode(messages, policy)
    assert (0.5, '{"a": "<think></think>"}') in in_loss(example)


def test_arguments_that_the_content_repeats_are_content() -> None:
    message = assistant('add {"a": 2}', tool_calls=[call("add", a=2)])
    [example] = encode([user("Q"), message], Policy(weights={"tool_calls.arguments": 0.5}))
    assert in_loss(example) == [
        (1.0, 'add {"a": 2}<call>{"name": "add", "arguments": '),
        (0.5, '{"a": 2}'),
        (1.0, "}</call><|im_end|>"),
    ]


def test_arguments_whose_keys_cannot_be_sorted() -> None:
    arguments: Any = {1: "a", "b": 2}
    asked = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    policy = Policy(weights={"tool_calls.arguments": 0.5})
    [example] = encode([user("Q"), assistant("x", tool_calls=[asked])], policy)
    assert (0.5, '{"1": "a", "b": 2}') in in_loss(example)


@pytest.mark.parametrize(
    ("weight", "policy"),
    [
        (3e38, Policy(weights={"content": 10})),
        (2.0, Policy(weights={"content": 3e38})),
        (1e-30, Policy(weights={"content": 1e-30})),
        (1e-30, Policy(loss_scale={"A": [1e-30]})),
    ],
)
def test_what_float32_cannot_hold_is_refused(weight: float, policy: Policy) -> None:
    with pytest.raises(ConversationError, match="which float32 cannot hold"):
        encode([user("Q"), assistant("A1", weight=weight)], policy)


def test_rounding_is_done_once() -> None:
    weights = np.array([0.1, -3.0, 0.0])
    assert in_float32(weights, 3.0).tolist() == [float(np.float32(0.1 * 3.0)), -9.0, 0.0]
    assert in_float32(weights, 0.0).tolist() == [0, 0, 0]


def test_texts_to_ignore_are_each_looked_for() -> None:
    [example] = encode([user("Q"), assistant("now no")], Policy(ignore=("no", "now", "ow no")))
    assert example.ignorable is not None
    texts = [example.text[start:end] for start, end in example.offsets[example.ignorable].tolist()]
    assert "".join(texts) == "now no"


def test_a_text_to_ignore_is_found_fast_in_much_white_space() -> None:
    [example] = encode([user("Q"), assistant("a" + "\n" * 20_000 + "b")], Policy(ignore=("b", "x")))
    assert example.ignorable is not None
    assert example.ignorable.any()


def test_the_last_stop_is_that_of_the_last_turn_in_the_loss() -> None:
    template = (  # an empty answer is shown without a stop token, and left out of the loss
        "{% for m in messages %}{% if m.content %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    messages = [user("Q0"), assistant("A1"), user("Q2"), assistant("")]
    [example] = encode(messages, Policy(stop="last"), template)
    assert in_loss(example) == [(1.0, "A1<|im_end|>")]
    messages = [user("Q0"), assistant("A1"), user("Q2"), assistant("A3", weight=0)]
    messages[-1]["weights"] = [span(0, 2, 1)]
    [example] = encode(messages, Policy(stop="last"))
    assert in_loss(example) == [(1.0, "A1<|im_end|>"), (1.0, "A3")]


def test_both_of_two_terminators_are_stop_tokens() -> None:
    tokenizer = copy.deepcopy(AutoTokenizer.from_pretrained(DEMO_MODEL))
    tokenizer.add_tokens([AddedToken("<|a|>", special=True, normalized=False)], special_tokens=True)
    template = TEMPLATE.replace("<|im_end|>", "<|a|><|im_end|>")
    for policy, expected in (
        (Policy(stop="never"), [(1.0, "A")]),
        (Policy(weights={"stop": 0.5}), [(1.0, "A"), (0.5, "<|a|><|im_end|>")]),
    ):
        encoder = Encoder(tokenizer, policy, chat_template=template, stop_tokens=["<|a|>"])
        [example] = encoder.encode([user("Q"), assistant("A")])
        assert in_loss(example) == expected


def test_adjacent_terminators_are_all_stop_tokens() -> None:
    text = "A<|a|><|end|>"
    origins = np.array([7] + [LITERAL] * 12)
    assert end_of_answer(text, origins, "<|end|>", ("<|end|>", "<|a|>")) == 1
    assert end_of_answer(text, origins, "<|end|>", ("<|end|>",)) == 6
    assert end_of_answer(text + "\n", np.append(origins, LITERAL), "<|end|>", ("<|a|>",)) == 1
    origins[1:6] = 8  # typed in the message
    assert end_of_answer(text, origins, "<|end|>", ("<|end|>", "<|a|>")) == 6
    assert end_of_answer("A", origins[:1], None, ("<|end|>",)) == 1


@pytest.mark.parametrize("boundary", ["include", "exclude"])
def test_a_token_across_the_border_counts_as_the_completion(boundary: Any) -> None:
    policy = Policy(boundary=boundary, loss_scale={"^b": [2]})
    encoder = Encoder(byte_level("? b"), policy, chat_template=CLOSED, proof="off")
    messages = [user("a?"), assistant("bcd", weights=[span(0, 1, 3), span(1, 2, 5)])]
    [example] = encoder.encode(messages)
    expected = {
        "include": [(6.0, "?b"), (5.0, "c"), (1.0, "d<|end|>")],
        "exclude": [(5.0, "c"), (1.0, "d<|end|>")],
    }
    assert in_loss(example) == expected[boundary]


@pytest.mark.parametrize("boundary", ["include", "exclude"])
def test_a_think_block_that_begins_inside_a_token_is_reasoning(boundary: Any) -> None:
    policy = Policy(boundary=boundary, weights={"reasoning": 0.5})
    encoder = Encoder(byte_level("? <"), policy, chat_template=CLOSED, proof="off")
    [example] = encoder.encode([user("a?"), assistant("<think>so</think>b")])
    assert in_loss(example) == [
        (0.5, {"include": "?<", "exclude": ""}[boundary] + "think>so</think>"),
        (1.0, "b<|end|>"),
    ]


def test_a_token_of_white_space_may_reach_out_of_its_turn() -> None:
    offsets = np.array([[0, 1], [1, 4]], np.int32)
    assert first_visible("a \n", offsets).tolist() == [0, 1]


def test_a_block_of_tags_ends_with_its_stop_token_and_white_space() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}"
        "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    messages = [user("Q0"), assistant("A1"), user("Q2"), assistant("A3")]
    for stop, expected in (
        ("train", ["A1<|im_end|>\n", "A3<|im_end|>\n"]),
        ("last", ["A1", "A3<|im_end|>\n"]),
        ("never", ["A1", "A3"]),
    ):
        [example] = encode(messages, Policy(spans="tags", stop=stop), template)  # type: ignore[arg-type]
        assert [text for _, text in in_loss(example)] == expected
        assert [each.stop for each in example.spans] == ["<|im_end|>"] * 2
    [example] = encode(messages, Policy(spans="tags", weights={"stop": 0.5}), template)
    assert in_loss(example)[1] == (0.5, "<|im_end|>\n")
    [example] = encode([*messages[:3], assistant("")], Policy(spans="tags"), template)
    assert [each.message_index for each in example.spans] == [1, 3]


def test_a_block_behind_all_messages_is_that_of_the_last() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% generation %}{{ m.content }}"
        "{% endgeneration %}{% endfor %}{% generation %}<|im_end|>{% endgeneration %}"
    )
    [example] = encode([user("Q0"), assistant("A1")], Policy(spans="tags"), template)
    assert in_loss(example) == [(1.0, "A1<|im_end|>")]
    assert [each.message_index for each in example.spans] == [1, 1]


def test_an_answer_without_tags_is_reported() -> None:
    template = TEMPLATE.replace(
        "{{ m.content or '' }}",
        "{% if loop.last %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}",
    )
    messages = [user("Q0"), assistant("A1"), user("Q2"), assistant("A3")]
    [example] = encode(messages, Policy(spans="tags"), template)
    assert [(f.kind, f.message_index) for f in example.findings] == [
        ("tags_differ", 3),
        ("tags_differ", 1),
    ]
    assert example.findings[1].detail == (
        "the template's tags hold nothing, inference generates 'A1<|im_end|>'"
    )


def test_a_token_of_several_characters_counts_as_its_first() -> None:
    encoder = Encoder(byte_level("a b", "Ġ c"), chat_template=CLOSED, proof="off")
    [example] = encoder.encode([user("?"), assistant("ab cd", weights=[span(1, 4, 3)])])
    assert in_loss(example) == [(1.0, "ab"), (3.0, " c"), (1.0, "d<|end|>")]


@pytest.mark.parametrize("text", ["👍🏽", "e\u0301", "𠮷", "\n\t"])
def test_a_character_of_several_tokens_is_weighed_whole(text: str) -> None:
    for normalizer in (None, normalizers.NFC()):
        encoder = Encoder(byte_level(normalizer=normalizer), chat_template=CLOSED, proof="off")
        weights = [span(1, 1 + len(text), 3)]
        [example] = encoder.encode([user("?"), assistant(f"a{text}b", weights=weights)])
        inside = len(example) - len(["?", "a", "b", "<|end|>"])
        assert inside > 1
        assert example.loss_weights.tolist() == [0, 1, *[3] * inside, 1, 1]


def _weighed() -> list[Any]:
    """Return conversations in which each fault of weighing shows."""
    content = {"weights": [span(0, 3, 3), span(8, 10, 2)], "weight": 0.5}
    one = assistant("One </think> two 12", **content)
    messages = [user("<think> Q0"), one, user("Q2"), assistant("A3")]
    policy = Policy(
        weights={"prompt": 0.25, "stop": 8, "reasoning": 16}, loss_scale={"[0-9]+": [64]}
    )
    reasoned = [user("Q0"), assistant("A1", reasoning_content="R1"), user("Q2"), assistant("A3")]
    tokenizer = byte_level("a b", "Ġ c")
    encoder = Encoder(tokenizer, policy, chat_template=CLOSED, proof="off")
    merged = [user("?"), assistant("ab cd", weights=[span(1, 4, 3)])]
    return [
        *map(runs, Encoder.from_pretrained(DEMO_MODEL, policy).encode(messages, weight=0.5)),
        *map(runs, encode(reasoned, policy, REWRITING)),
        *map(runs, encoder.encode(merged)),
    ]


@pytest.mark.parametrize("mutant", WEIGHT_MUTANTS, ids=lambda mutant: mutant.name)
def test_faults_of_weighing_are_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _weighed()
    assert before == _weighed()
    mutant.patch(monkeypatch)
    assert before != _weighed()


TEXT = {"text": "a b", "weights": [{"start": 0, "end": 3, "weight": 2}]}
IDS = {"input_ids": [5, 6, 7], "loss_weights": [0, 1, -1]}


@pytest.mark.parametrize("data", [TEXT, IDS])
def test_a_row_of_weight_zero_is_rejected_in_every_form(data: dict[str, Any]) -> None:
    assert row(data | {"weight": 0}) == "nothing_to_train"


@pytest.mark.parametrize(
    "data",
    [
        {"text": "a b", "weights": [{"start": 0, "end": 3, "weight": 1e30}], "weight": 1e30},
        {"input_ids": [5, 6, 7], "loss_weights": [0, 1e30, 1], "weight": 1e30},
    ],
)
def test_rows_of_text_and_ids_are_refused_too_where_weights_overflow(data: dict[str, Any]) -> None:
    assert row(data) == "bad_conversation"


def test_the_stop_token_appended_to_text_is_weighed_as_one() -> None:
    for policy, expected in (
        (Policy(), [(2.0, "a b<|im_end|>")]),
        (Policy(weights={"stop": 0.5}), [(2.0, "a b"), (1.0, "<|im_end|>")]),
        (Policy(stop="never"), [(2.0, "a b")]),
    ):
        example = row(TEXT, policy)
        assert isinstance(example, Example)
        assert in_loss(example) == expected
    assert row(TEXT, Policy(weights={"stop": 3e38})) == "bad_conversation"


@functools.cache
def _tagged_templates() -> list[str]:
    names = corpus.template_names()
    return [name for name in names if "endgeneration" in corpus.template_source(name)]


@corpus.needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("name", _tagged_templates())
def test_tags_are_those_of_transformers(name: str) -> None:
    source, tokenizer = corpus.template_source(name), corpus.tokenizer_for(name)
    encoder = Encoder(tokenizer, Policy(spans="tags"), chat_template=source, proof="off")
    for scenario in SCENARIOS:
        try:
            [example] = encoder.encode(scenario.messages, scenario.tools)
        except TemplateError:  # of what the template itself cannot show
            continue
        known = tokenizer.apply_chat_template(
            scenario.messages,
            tools=scenario.tools,
            chat_template=source,
            return_assistant_tokens_mask=True,
            return_dict=True,
        )
        assert example.input_ids.tolist() == known["input_ids"]
        masks = [bool(inside) for inside in known["assistant_masks"]]
        assert example.loss_mask.tolist() == masks, scenario.name


def test_tool_answers_are_context_unless_they_are_chosen() -> None:
    messages = [user("Q0"), assistant("", tool_calls=[call("add", a=2)]), tool("T2"), user("Q3")]
    [example] = encode(messages, Policy(train_on=("tool",), weights={"prompt": 0.5}))
    assert (1.0, "T2<|im_end|>") in in_loss(example)
    assert [each.message_index for each in example.spans] == [2]
