"""Where turns end, on templates shaped like the published ones that end them in their own ways."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, Example, Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.stops import Stops
from tests.scenarios import Message, assistant, call, tool, user

GPT_OSS = (
    "{% macro calls(m) %}{% for c in m.tool_calls %}<|start|>assistant to=functions."
    "{{ c.function.name }}<|channel|>commentary json<|message|>{{ c.function.arguments | tojson }}"
    "<|call|>{% endfor %}{% endmacro %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content and (loop.last or m.tool_calls) %}<|start|>assistant<|channel|>"
    "analysis<|message|>{{ m.reasoning_content }}<|end|>{% endif %}"
    "{% if m.tool_calls %}{{ calls(m) }}{% else %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}{% endif %}"
    "{% elif m.role == 'tool' %}<|start|>functions.weather to=assistant<|channel|>commentary"
    "<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
GLM = (
    "[gMASK]{% for m in messages %}{% if m.role == 'tool' %}<|observation|>\n{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|assistant|>\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}"
    "{{ c.function.arguments | tojson }}</tool_call>{% endfor %}"
    "{% else %}<|{{ m.role }}|>\n{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
COMMAND_R = (
    "{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'assistant' %}"
    "<|CHATBOT_TOKEN|><|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% else %}"
    "<|USER_TOKEN|>{{ m.content }}{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
CONTROL = {
    GPT_OSS: ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"],
    GLM: ["<|user|>", "<|assistant|>", "<|observation|>", "[gMASK]"],
    PHI_3: ["<|user|>", "<|assistant|>", "<|end|>"],
    COMMAND_R: [
        "<|START_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
        "<|USER_TOKEN|>",
        "<|START_RESPONSE|>",
        "<|END_RESPONSE|>",
    ],
}


def encode(
    template: str,
    messages: list[Message],
    *,
    eos: str,
    stops: tuple[str, ...] = (),
    policy: Policy | None = None,
    tools: list[Any] | None = None,
) -> list[Example]:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(DEMO_MODEL)
    tokenizer.add_tokens(CONTROL[template], special_tokens=True)
    tokenizer.add_special_tokens({"eos_token": eos})
    encoder = Encoder(tokenizer, policy, chat_template=template, stop_tokens=stops)
    return encoder.encode(messages, tools)


def supervised(examples: list[Example]) -> dict[int, str]:
    spans = [(span, example) for example in examples for span in example.spans]
    indices = [span.message_index for span, _ in spans]
    assert len(set(indices)) == len(indices), "a turn is supervised twice"
    return {
        span.message_index: example.text[span.start : span.end]
        for span, example in sorted(spans, key=lambda pair: pair[0].message_index)
    }


def kinds(examples: list[Example]) -> set[str]:
    return {finding.kind for example in examples for finding in example.findings}


def test_gpt_oss_ends_a_call_with_call_and_an_answer_with_return() -> None:
    messages = [
        user("Q0 weather?"),
        assistant("", reasoning_content="R1 hm", tool_calls=[call("weather", {"city": "Rome"})]),
        tool("T2 hot"),
        assistant("A3 hot.", reasoning_content="R3 so"),
        user("Q4 thanks"),
        assistant("A5 bye."),
    ]
    examples = encode(GPT_OSS, messages, eos="<|return|>", stops=("<|call|>",))
    assert supervised(examples) == {
        1: "<|channel|>analysis<|message|>R1 hm<|end|><|start|>assistant to=functions.weather"
        '<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>',
        3: "<|channel|>analysis<|message|>R3 so<|end|><|start|>assistant<|channel|>final"
        "<|message|>A3 hot.<|return|>",
        5: "<|channel|>final<|message|>A5 bye.<|return|>",
    }
    before_3 = next(e for e in examples if e.spans[-1].message_index == 3)
    assert before_3.text[: before_3.spans[-1].start].endswith("T2 hot<|end|><|start|>assistant")


def test_glm_ends_a_turn_with_the_next_header_even_where_none_follows() -> None:
    messages = [
        user("Q0 weather?"),
        assistant("", tool_calls=[call("weather", {"city": "Rome"})]),
        tool("T2 hot"),
        assistant("A3 hot."),
    ]
    examples = encode(GLM, messages, eos="<|user|>", stops=("<|observation|>",))
    assert supervised(examples) == {
        1: '<tool_call>weather{"city": "Rome"}</tool_call><|observation|>',
        3: "A3 hot.<|user|>",
    }
    assert kinds(examples) == {"stop_appended", "key_dropped"}
    ends_with_call = encode(GLM, messages[:2], eos="<|user|>", stops=("<|observation|>",))
    assert supervised(ends_with_call) == {
        1: '<tool_call>weather{"city": "Rome"}</tool_call><|observation|>'
    }


@pytest.mark.parametrize(
    ("append_stop", "eos", "expected", "finding"),
    [
        ("history", "<|user|>", "A1 hi.<|user|>", "stop_appended"),
        ("eos", "<|user|>", "A1 hi.<|user|>", "stop_appended"),
        ("never", "<|user|>", "A1 hi.", "no_stop_token"),
        ("history", "<|endoftext|>", "A1 hi.", "no_stop_token"),
        ("eos", "<|endoftext|>", "A1 hi.<|endoftext|>", "stop_appended"),
    ],
)
def test_append_stop_decides_about_a_last_turn_without_one(
    append_stop: Any, eos: str, expected: str, finding: str
) -> None:
    policy = Policy(append_stop=append_stop)
    [example] = encode(GLM, [user("Q0 hi?"), assistant("A1 hi.")], eos=eos, policy=policy)
    assert example.supervised_text == [expected]
    assert kinds([example]) == {finding}
    assert example.labels[-1] == example.input_ids[-1]


def test_a_stop_that_history_writes_before_a_newline_takes_its_place() -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
        "{% if not loop.last or m.role == 'user' %}<|end|>{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    CONTROL[template] = CONTROL[PHI_3]
    [example] = encode(template, [user("Q0?"), assistant("A1.")], eos="<|end|>")
    assert example.text == "<|user|>\nQ0?<|end|>\n<|assistant|>\nA1.<|end|>"
    assert example.supervised_text == ["A1.<|end|>"]


def test_phi_3_stops_at_end_where_that_is_a_stop_token_and_at_eos_where_it_is_not() -> None:
    messages = [user("Q0?"), assistant("A1."), user("Q2?"), assistant("A3.")]
    examples = encode(PHI_3, messages, eos="<|endoftext|>", stops=("<|end|>",))
    assert supervised(examples) == {1: "A1.<|end|>", 3: "A3.<|end|>"}
    assert len(examples) == 1
    only_eos = encode(PHI_3, messages, eos="<|endoftext|>")
    assert supervised(only_eos) == {
        1: "A1.<|end|>\n<|endoftext|>",
        3: "A3.<|end|>\n<|endoftext|>",
    }


def test_command_r_trains_both_terminators() -> None:
    messages = [user("Q0?"), assistant("A1."), user("Q2?"), assistant("A3.")]
    both = ("<|END_RESPONSE|>",)
    [example] = encode(COMMAND_R, messages, eos="<|END_OF_TURN_TOKEN|>", stops=both)
    end = "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    assert example.supervised_text == [
        f"<|START_RESPONSE|>A1.{end}",
        f"<|START_RESPONSE|>A3.{end}",
    ]


def test_no_stop_is_taken_from_text_that_only_follows_to_see_how_history_goes_on() -> None:
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    CONTROL[bare] = []
    [example] = encode(bare, [user("Q0?"), assistant("A1")], eos="<|endoftext|>", stops=(".",))
    assert example.supervised_text == ["A1"]
    assert kinds([example]) == {"no_stop_token"}


def test_adjacent_stops_end_together_but_not_beyond_eos() -> None:
    stops = Stops(frozenset({1, 2}), ("</s>", "<end>"), "</s>")
    text = "x<end></s><end>"
    found = stops.first_run(text, 0)
    assert found is not None
    assert (found.group(), found.end()) == ("</s>", 10)
    assert stops.first_run("none", 0) is None
