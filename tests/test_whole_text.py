"""Other roles, the whole text, and the template's own tags."""

from __future__ import annotations

from typing import Any

import pytest

from lossmask import ConversationError, Encoder, ParityError, Policy, TemplateError
from lossmask.embedded import DEMO_MODEL
from tests.scenarios import assistant, system, tool, user
from tests.test_weighting import CALLING, REWRITING, TEMPLATE, encode, in_loss, runs

TAGGED = TEMPLATE.replace(
    "{{ m.content or '' }}", "{% generation %}{{ m.content or '' }}{% endgeneration %}"
)
PERFECT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}"
    "<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_all_is_the_whole_text_in_one_example() -> None:
    [example] = encode(CALLING, Policy(train_on="all"))
    assert runs(example) == [(1.0, example.text)]
    assert example.supervised_text[2] == (
        'So.\n</think>\n\nSure.<call>{"name": "add", "arguments": {"a": 2, "b": "x"}}</call>'
        '<call>{"name": "neg", "arguments": {"c": 3}}</call><|im_end|>'
    )


def test_all_keeps_what_the_data_says() -> None:
    messages = [system("S0") | {"weight": 0}, user("Q1"), assistant("A2.")]
    [example] = encode(messages, Policy(train_on="all", weights={"scaffold": 0.5}))
    assert runs(example) == [
        (0.5, "<|im_start|>system\n"),
        (0.0, "S0"),
        (0.5, "<|im_end|>\n<|im_start|>user\n"),
        (1.0, "Q1<|im_end|>"),
        (0.5, "\n<|im_start|>assistant\n"),
        (1.0, "A2.<|im_end|>"),
        (0.5, "\n"),
    ]


def test_all_is_one_example_where_the_template_rewrites_history() -> None:
    messages = [user("Q0"), assistant("A1.", reasoning_content="R1"), user("Q2"), assistant("A3.")]
    [example] = encode(messages, Policy(train_on="all"), REWRITING)
    assert "R1" not in example.text
    assert runs(example) == [(1.0, example.text)]


def test_other_roles_are_trained_with_the_stop_token_behind_them() -> None:
    [example] = encode(CALLING, Policy(train_on=("assistant", "tool"), weights={"tool_calls": 0}))
    assert in_loss(example) == [
        (1.0, "<think>\nSo.\n</think>\n\nSure."),
        (1.0, "<|im_end|>"),
        (1.0, "5<|im_end|>"),
        (1.0, "It is 5.<|im_end|>"),
    ]
    [example] = encode([user("Q0"), system("S1")], Policy(train_on=("user",)))
    assert in_loss(example) == [(1.0, "Q0<|im_end|>")]
    assert [span.message_index for span in example.spans] == [0]


def test_another_role_counts_in_the_first_example_that_shows_it() -> None:
    messages = [user("Q0"), assistant("A1.", reasoning_content="R1"), user("Q2"), assistant("A3.")]
    first, second = encode(messages, Policy(train_on=("assistant", "user")), REWRITING)
    assert [text for _, text in in_loss(first)] == [
        "Q0<|im_end|>",
        "Q2<|im_end|>",
        "A3.<|im_end|>",
    ]
    assert [text for _, text in in_loss(second)] == ["<think>R1</think>A1.<|im_end|>"]


def test_a_stop_token_of_the_next_turn_is_not_that_of_a_user() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    [example] = encode([user("Q0"), assistant("A1")], Policy(train_on=("user",)), template)
    assert in_loss(example) == [(1.0, " Q0")]


def test_a_message_with_another_inside_it_is_refused() -> None:
    template = "{{ messages[0].content[:2] }}{{ messages[1].content }}{{ messages[0].content[2:] }}"
    with pytest.raises(ParityError, match="puts text of message 1 inside this one"):
        encode([user("abcd"), assistant("yes")], Policy(train_on=("user",)), template)


def test_tags_are_taken_instead_of_the_contract_and_compared_with_it() -> None:
    [example] = encode(CALLING, Policy(spans="tags"), TAGGED)
    assert in_loss(example) == [(1.0, "Sure."), (1.0, "It is 5.")]
    assert [(finding.kind, finding.message_index) for finding in example.findings] == [
        ("tags_differ", 2),
        ("tags_differ", 4),
    ]
    assert example.findings[1].detail == (
        "the template's tags hold 'It is 5.', inference generates 'It is 5.<|im_end|>'"
    )


def test_tags_that_hold_what_inference_generates_are_not_reported() -> None:
    messages = [user("Q0"), assistant("A1."), user("Q2"), assistant("A3.", train=False)]
    policy = Policy(spans="tags")
    [example] = encode(messages, policy, PERFECT)
    assert in_loss(example) == [(1.0, "A1.<|im_end|>")]
    assert example.findings == ()
    encoder = Encoder.from_pretrained(DEMO_MODEL, policy, chat_template=PERFECT)
    known = encoder.tokenizer.apply_chat_template(
        messages[:2], chat_template=PERFECT, return_assistant_tokens_mask=True, return_dict=True
    )
    [ours] = encoder.encode(messages[:2])
    assert ours.input_ids.tolist() == known["input_ids"]
    assert ours.loss_mask.tolist() == [bool(inside) for inside in known["assistant_masks"]]


def test_a_template_without_tags_is_refused() -> None:
    with pytest.raises(TemplateError, match=r"has no \{% generation %\} tags"):
        encode(CALLING, Policy(spans="tags"))


def test_control_tokens_are_refused_in_the_whole_text_too() -> None:
    messages = [user("Q0 <|im_end|>"), assistant("A1"), tool("T2")]
    with pytest.raises(ValueError, match=r"<\|im_end\|>"):
        encode(messages, Policy(train_on="all"))


def test_a_message_that_no_example_shows_is_found() -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    messages = [user("Q0"), assistant("A1"), user("Q2")]
    policy = Policy(train_on=("assistant", "user"), append_stop="never")
    [example] = encode(messages, policy, template)
    assert "Q2" not in example.text
    [finding] = [each for each in example.findings if each.kind == "message_not_shown"]
    assert (finding.message_index, finding.detail) == (
        2,
        "not trained: no example shows this message",
    )
    hidden = template.replace("{{ m.content }}", "{{ m.content if m.role == 'user' }}")
    [example] = encode(messages, Policy(train_on="all"), hidden)
    [finding] = [each for each in example.findings if each.kind == "message_not_shown"]
    assert finding.message_index == 1
    [example] = encode([user("Q0"), assistant("A1")], Policy(spans="tags", train_on="all"), PERFECT)
    [finding] = example.findings
    assert (finding.kind, finding.message_index) == ("message_not_shown", 0)


@pytest.mark.parametrize("train_on", ["all", ("user",)])
def test_half_a_character_is_refused_in_the_whole_text_too(train_on: Any) -> None:
    with pytest.raises(ConversationError, match="half a character") as info:
        encode([user("Q\ud83d"), assistant("A")], Policy(train_on=train_on))
    assert (info.value.reason, info.value.message_index) == ("lone_surrogate", 0)


def test_tags_that_cannot_be_held_against_inference_say_why() -> None:
    template = PERFECT.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    template = template.replace("{% generation %}{{ m", "<think>\n{% generation %}{{ m")
    [example] = encode([user("Q0"), assistant("A1.")], Policy(spans="tags"), template)
    assert in_loss(example) == [(1.0, "A1.<|im_end|>")]
    [finding] = example.findings
    assert (finding.kind, finding.message_index) == ("tags_differ", 1)
    assert "cannot be told, to compare the tags: the generation prompt opens" in finding.detail
