"""How much each token counts, drawn as runs of text with one weight."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from lossmask import ConversationError, Encoder, Example, ParityError, Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.policy import PARTS
from tests.scenarios import Message, assistant, system, tool, user

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content is defined %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}<call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REWRITING = (  # reasoning is shown for the last message only
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


CALLING: list[Message] = [
    system("Be brief."),
    user("Add."),
    assistant(
        "Sure.", reasoning_content="So.", tool_calls=[call("add", a=2, b="x"), call("neg", c=3)]
    ),
    tool("5"),
    assistant("It is 5."),
]


def encode(
    messages: list[Message], policy: Policy | None = None, template: str = TEMPLATE
) -> list[Example]:
    return Encoder.from_pretrained(DEMO_MODEL, policy, chat_template=template).encode(messages)


def runs(example: Example) -> list[tuple[float, str]]:
    """Return the text in runs of one weight."""
    tokens = zip(example.loss_weights.tolist(), example.offsets.tolist(), strict=True)
    return [
        (round(weight, 4), "".join(example.text[start:end] for _, (start, end) in run))
        for weight, run in groupby(tokens, key=lambda token: token[0])
    ]


def in_loss(example: Example) -> list[tuple[float, str]]:
    return [run for run in runs(example) if run[0]]


def test_every_part_has_its_weight() -> None:
    weights = {
        "prompt": 0.1,
        "scaffold": 0.2,
        "reasoning": 0.3,
        "content": 0.4,
        "tool_calls.syntax": 0.5,
        "tool_calls.name": 0.6,
        "tool_calls.arguments": 0.7,
        "stop": 0.8,
    }
    [example] = encode(CALLING, Policy(weights=weights))
    assert runs(example) == [
        (0.2, "<|im_start|>system\n"),
        (0.1, "Be brief."),
        (0.2, "<|im_end|>\n<|im_start|>user\n"),
        (0.1, "Add."),
        (0.2, "<|im_end|>\n<|im_start|>assistant\n"),
        (0.3, "<think>\nSo.\n</think>"),
        (0.4, "\n\nSure."),
        (0.5, '<call>{"name": "'),
        (0.6, "add"),
        (0.5, '", "arguments": '),
        (0.7, '{"a": 2, "b": "x"}'),
        (0.5, '}</call><call>{"name": "'),
        (0.6, "neg"),
        (0.5, '", "arguments": '),
        (0.7, '{"c": 3}'),
        (0.5, "}</call>"),
        (0.8, "<|im_end|>"),
        (0.2, "\n<|im_start|>tool\n"),
        (0.1, "5"),
        (0.2, "<|im_end|>\n<|im_start|>assistant\n"),
        (0.4, "It is 5."),
        (0.8, "<|im_end|>"),
        (0.2, "\n"),
    ]


def test_reasoning_is_reasoning_inside_the_content_too() -> None:
    messages = [user("Q"), assistant("<think>So.</think>Yes.")]
    [example] = encode(messages, Policy(weights={"reasoning": 0}))
    assert in_loss(example) == [(1.0, "Yes.<|im_end|>")]


@pytest.mark.parametrize(
    ("generation_prompt", "supervised"),
    [
        ("<|im_start|>assistant\n", "Yes.<|im_end|>"),
        ("<|im_start|>assistant\n<think>\n", "Yes.<|im_end|>"),  # the prompt opens the block
    ],
)
def test_an_empty_think_block_is_left_out(generation_prompt: str, supervised: str) -> None:
    template = TEMPLATE.partition("{% if add_generation_prompt %}")[0]
    template += "{% if add_generation_prompt %}" + generation_prompt + "{% endif %}"
    messages = [user("Q"), assistant("Yes.", reasoning_content="")]
    [plain] = encode(messages, template=template)
    [(_, completion)] = in_loss(plain)
    assert completion.endswith("\n</think>\n\n" + supervised)
    [example] = encode(messages, Policy(empty_think="ignore"), template)
    assert in_loss(example) == [(1.0, "\n\n" + supervised)]
    thinking = [user("Q"), assistant("Yes.", reasoning_content="So.")]
    [example] = encode(thinking, Policy(empty_think="ignore"), template)
    [(_, completion)] = in_loss(example)
    assert completion.endswith("So.\n</think>\n\n" + supervised)


@pytest.mark.parametrize(
    ("stop", "supervised"),
    [
        ("train", ["A1.<|im_end|>", "A3.<|im_end|>"]),
        ("last", ["A1.", "A3.<|im_end|>"]),
        ("never", ["A1.", "A3."]),
    ],
)
def test_stop_tokens(stop: Any, supervised: list[str]) -> None:
    messages = [user("Q0"), assistant("A1."), user("Q2"), assistant("A3.")]
    [example] = encode(messages, Policy(stop=stop))
    assert [text for _, text in in_loss(example)] == supervised


def test_the_last_stop_is_that_of_the_last_trained_turn() -> None:
    messages = [user("Q0"), assistant("A1."), user("Q2"), assistant("A3.", train=False)]
    [example] = encode(messages, Policy(stop="last"))
    assert in_loss(example) == [(1.0, "A1.<|im_end|>")]


def test_ranges_of_the_data_win_over_message_and_part() -> None:
    ranges = [
        {"start": 4, "end": 7, "weight": -2},
        {"start": 0, "end": 2, "weight": 0, "path": "reasoning_content"},
    ]
    messages = [
        user("Q"),
        assistant("One two six", reasoning_content="So it", weight=0.5, weights=ranges),
    ]
    [example] = encode(messages, Policy(weights={"content": 3, "reasoning": 3}))
    assert runs(example)[1:] == [
        (1.5, "<think>\n"),
        (0.0, "So"),
        (1.5, " it\n</think>\n\nOne"),
        (-2.0, " two"),  # the space before a word counts as the word
        (1.5, " six"),
        (0.5, "<|im_end|>"),
        (0.0, "\n"),
    ]
    assert example.labels[example.loss_weights == -2].tolist() == (
        example.input_ids[example.loss_weights == -2].tolist()
    )


def test_a_range_alone_trains_a_message_that_is_otherwise_out() -> None:
    one = assistant("One two", weight=0, weights=[{"start": 0, "end": 3, "weight": 1}])
    [example] = encode([user("Q"), one])
    assert in_loss(example) == [(1.0, "One")]


def test_a_range_in_text_that_the_template_changes_is_refused() -> None:
    messages = [user("q"), assistant("a b", weights=[{"start": 0, "end": 1, "weight": 0}])]
    template = TEMPLATE.replace("{{ m.content or '' }}", "{{ m.content | title }}")
    with pytest.raises(ParityError, match="characters 0:1 of 'content', but the template changes"):
        encode(messages, template=template)


def test_the_weight_of_the_row_multiplies_everything() -> None:
    encoder = Encoder.from_pretrained(DEMO_MODEL, Policy(weights={"stop": 2}))
    messages = [user("Q"), assistant("A.", weight=3)]
    outcome = encoder.encode_row({"messages": messages, "weight": 0.5})
    assert in_loss(outcome.examples[0]) == [(1.5, "A."), (3.0, "<|im_end|>")]


def test_a_loss_scale_multiplies() -> None:
    policy = Policy(loss_scale={"[0-9]+": [0.5]}, weights={"content": 4})
    [example] = encode([user("Q"), assistant("a 12 b")], policy)
    assert in_loss(example) == [(4.0, "a"), (2.0, " 12"), (4.0, " b"), (1.0, "<|im_end|>")]
    by_query = {"query": {"fast": [0.5]}, "response": {"b": [2]}}
    for asked, expected in (
        ("fast?", [(0.5, "a b"), (1.0, "<|im_end|>")]),
        ("slow?", [(1.0, "a"), (2.0, " b"), (1.0, "<|im_end|>")]),
    ):
        [example] = encode([user(asked), assistant("a b")], Policy(loss_scale=by_query))
        assert in_loss(example) == expected


def test_what_two_examples_repeat_counts_once() -> None:
    messages = [
        user("Q0"),
        assistant("A1.", reasoning_content="R1"),
        user("Q2"),
        assistant("A3.", reasoning_content="R3"),
    ]
    first, second = encode(messages, Policy(weights={"prompt": 0.5}), REWRITING)
    assert runs(first) == [
        (0.0, "<|im_start|>user\n"),
        (0.5, "Q0"),
        (0.0, "<|im_end|>\n<|im_start|>assistant\n"),
        (0.5, "A1."),  # context: its own example trains it as it was generated
        (0.0, "<|im_end|>\n<|im_start|>user\n"),
        (0.5, "Q2"),
        (0.0, "<|im_end|>\n<|im_start|>assistant\n"),
        (1.0, "<think>R3</think>A3.<|im_end|>"),
        (0.0, "\n"),
    ]
    assert in_loss(second) == [(1.0, "<think>R1</think>A1.<|im_end|>")]


def test_where_every_weight_is_zero_the_row_is_refused() -> None:
    with pytest.raises(ConversationError, match="every token has weight 0"):
        encode([user("Q"), assistant("A.")], Policy(weights={"content": 0, "stop": 0}))


def test_an_example_in_which_nothing_counts_is_left_out() -> None:
    messages = [
        user("Q0"),
        assistant("A1.", reasoning_content="R1", weights=[{"start": 0, "end": 3, "weight": 0}]),
        user("Q2"),
        assistant("A3."),
    ]
    policy = Policy(weights={"reasoning": 0, "stop": 0})
    [example] = encode(messages, policy, REWRITING)
    assert in_loss(example) == [(1.0, "A3.")]


def test_tokens_to_ignore_by_id_and_by_text() -> None:
    encoder = Encoder.from_pretrained(DEMO_MODEL)
    [plain] = encoder.encode([user("yes"), assistant("yes, no")])
    assert plain.ignorable is None
    stop = int(encoder.tokenizer.eos_token_id)
    encoder = Encoder.from_pretrained(DEMO_MODEL, Policy(ignore=(stop, "no")))
    [example] = encoder.encode([user("no"), assistant("yes, no")])
    assert example.ignorable is not None
    tokens = example.offsets[example.ignorable].tolist()
    # the id everywhere, in the loss or not; the text in completions only
    assert [example.text[start:end] for start, end in tokens][-2:] == [" no", "<|im_end|>"]
    assert example.loss_weights.tolist() == [
        float(inside) for inside in example.loss_mask
    ]  # the draw is for later


def test_an_example_tells_what_each_of_its_tokens_is_part_of() -> None:
    encoder = Encoder.from_pretrained(DEMO_MODEL)
    rows = [
        {"messages": [user("Hi."), assistant("<think>\nSo.\n</think>\n\nHello.")]},
        {"messages": [user("Hi."), assistant("Hello.")]},
    ]
    [[thought], [plain]] = [outcome.examples for outcome in encoder.encode_batch(rows)]
    for example, expected in (
        (thought, {"reasoning", "content", "stop", "prompt", "scaffold"}),
        (plain, {"content", "stop", "prompt", "scaffold"}),
    ):
        assert example.parts is not None
        texts: dict[str, str] = {}
        for part, (start, end) in zip(example.parts, example.offsets, strict=True):
            texts[PARTS[part]] = texts.get(PARTS[part], "") + example.text[start:end]
        assert texts.keys() == expected
        assert texts["stop"] == "<|im_end|>"
        assert texts["prompt"] == "Hi."
        assert texts["content"].endswith("Hello.")
