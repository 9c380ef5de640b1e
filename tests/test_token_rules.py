"""The rule that decided about a token gives exactly its weight, and is the one that did."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, Fit, LossmaskError, Policy
from lossmask.attribution import attributed
from lossmask.embedded import DEMO_MODEL
from lossmask.layout import Layout
from lossmask.outcome import Outcome
from lossmask.token_rules import Rule, TokenRules
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import SCENARIOS, Message, assistant, call, system, tool, user


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return loaded


def rules_of(encoder: Encoder, row: dict[str, Any], example: int = 0) -> list[tuple[str, Rule]]:
    """Return text and rule of each token."""
    found = attributed(encoder, row)
    chosen = found.outcome.examples[example]
    rules = TokenRules(encoder, found, example)
    return [
        (chosen.text[start:end], rules.rule(token))
        for token, (start, end) in enumerate(chosen.offsets.tolist())
    ]


def rule_at(encoder: Encoder, messages: list[Message], text: str, example: int = 0) -> Rule:
    """Return the rule of the last token that holds a text."""
    found = rules_of(encoder, {"messages": messages}, example)
    return next(rule for own, rule in reversed(found) if text in own)


TALK = [system("S"), user("Q"), assistant("A"), user("Q"), assistant("B")]


def test_each_token_of_a_conversation_has_its_reason(tokenizer: PreTrainedTokenizerBase) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    found = rules_of(Encoder(tokenizer, chat_template=template), {"messages": TALK[1:3]})
    assert [(text, rule.name) for text, rule in found] == [
        ("<|im_start|>", "prompt"),
        ("user", "prompt"),
        ("\n", "prompt"),
        ("Q", "train_on"),
        ("<|im_end|>", "prompt"),
        ("\n", "prompt"),
        ("<|im_start|>", "generation_prompt"),
        ("assistant", "generation_prompt"),
        ("\n", "generation_prompt"),
        ("A", "train_on"),
        ("<|im_end|>", "train_on"),
        ("\n", "behind_the_end"),
    ]
    assert [rule.weight for _, rule in found] == [0.0] * 9 + [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("policy", "messages", "text", "name", "reason"),
    [
        (
            Policy(),
            TALK,
            "S",
            "train_on",
            "message 0 is of the role system, which train_on=all_assistant does not train",
        ),
        (
            Policy(train_on="last_assistant"),
            TALK,
            "A",
            "train_on",
            "train_on=last_assistant does not choose message 2",
        ),
        (
            Policy(train_on=("user", "assistant")),
            TALK,
            "Q",
            "train_on",
            "it is content of message 3: train_on=assistant,user trains that message",
        ),
        (
            Policy(train_on="all"),
            TALK,
            "S",
            "train_on",
            "it is content of message 0: train_on=all trains that message",
        ),
        (
            Policy(weights={"content": 0.5}),
            TALK,
            "B",
            "weights.content",
            "it is content of message 4: train_on=all_assistant trains that message, policy "
            "weights.content is 0.5",
        ),
        (
            Policy(weights={"prompt": 0.25}),
            TALK,
            "S",
            "weights.prompt",
            "it is outside of all answers: policy weights.prompt is 0.25",
        ),
        (
            Policy(stop="never"),
            TALK,
            "<|im_end|>",
            "stop",
            "it is the stop token of message 4, and policy stop=never leaves it out",
        ),
        (
            Policy(loss_scale={"B": [3.0]}),
            TALK,
            "B",
            "loss_scale",
            "it is content of message 4: train_on=all_assistant trains that message, a rule of "
            "loss_scale gives 3",
        ),
        (
            Policy(ignore=("B",), ignore_probability=0.5),
            TALK,
            "B",
            "ignore",
            "it is content of message 4: train_on=all_assistant trains that message; policy.ignore "
            "names it: with probability 0.5 a batch leaves it out",
        ),
        (
            Policy(),
            [*TALK[:2], assistant("A", train=False), *TALK[3:]],
            "A",
            "message_weight",
            "the data takes message 2 out of the loss (weight 0)",
        ),
        (
            Policy(),
            [*TALK[:4], assistant("B", weight=0.5)],
            "B",
            "message_weight",
            "it is content of message 4: the data gives that message the weight 0.5",
        ),
        (
            Policy(),
            [*TALK[:4], assistant("x B", weights=[{"start": 1, "end": 3, "weight": 2.0}])],
            "B",
            "span_weight",
            "it is content of message 4: the data weighs characters 1:3 of content 2",
        ),
        (
            Policy(),
            [*TALK[:4], assistant("Well B", prefill="Well")],
            "W",
            "prefill",
            "inference is given it: it is the prefill of message 4",
        ),
    ],
)
def test_the_rule_that_decided_is_named(
    policy: Policy,
    messages: list[Message],
    text: str,
    name: str,
    reason: str,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rule = rule_at(Encoder(tokenizer, policy), messages, text)
    assert (rule.name, rule.reason) == (name, reason)


CALLING = FIXTURE_TEMPLATES["chatml with tools"]
REASONING = FIXTURE_TEMPLATES["reasoning kept after the last user turn only"]


def test_parts_of_a_tool_call_are_named(tokenizer: PreTrainedTokenizerBase) -> None:
    policy = Policy(weights={"tool_calls": 0.5, "tool_calls.arguments": 2})
    encoder = Encoder(tokenizer, policy, chat_template=CALLING)
    messages = [user("Q"), assistant("", tool_calls=[call("zap", {"city": "Rome"})]), tool("x")]
    messages.append(assistant("done"))
    found = Counter(rule.name for _, rule in rules_of(encoder, {"messages": messages}))
    assert {name for name in found if name.startswith("weights.")} == {
        "weights.tool_calls.arguments",
        "weights.tool_calls.name",
        "weights.tool_calls.syntax",
    }
    assert rule_at(encoder, messages, "R").reason == (
        "it is the arguments of a tool call of message 1: train_on=all_assistant trains that "
        "message, policy weights.tool_calls.arguments is 2"
    )


def test_a_turn_that_another_example_trains_is_history(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer, chat_template=REASONING)
    messages = [user("Q"), assistant("A", reasoning_content="R"), user("q"), assistant("B")]
    assert rule_at(encoder, messages, "A").reason == (
        "here message 1 is context: the template shows it unlike it was generated; example 2 "
        "trains it"
    )
    assert rule_at(encoder, messages, "A", example=1).name == "train_on"
    last = Encoder(tokenizer, Policy(history="last"), chat_template=REASONING)
    rule = rule_at(last, messages, "A")
    assert rule.name == "history_rewritten"
    assert rule.reason.startswith("message 1 is not trained: the template shows this turn")


def test_an_empty_think_block_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer, Policy(empty_think="ignore"), chat_template=REASONING)
    rule = rule_at(encoder, [user("Q"), assistant("A")], "/")
    assert rule.reason == "it is reasoning of message 1, an empty think block: empty_think=ignore"


def test_a_prompt_counts_in_the_first_example_that_holds_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoder = Encoder(tokenizer, Policy(weights={"prompt": 0.5}), chat_template=REASONING)
    messages = [user("Q"), assistant("A", reasoning_content="R"), user("q"), assistant("B")]
    assert rule_at(encoder, messages, "Q").name == "weights.prompt"
    assert rule_at(encoder, messages, "Q", example=1) == Rule(
        "earlier_example", "an earlier example of the row trains it already", 0.0
    )


def test_a_reply_that_is_cut_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    [whole] = Encoder(tokenizer).encode(TALK)
    longer = [*TALK[:4], assistant("B " * 9)]
    encoder = Encoder(tokenizer, fit=Fit(len(whole), "keep_start"))
    rule = rule_at(encoder, longer, "B")
    assert (rule.name, rule.weight) == ("cut_reply", 0.0)
    assert rule.reason == "the reply it belongs to is cut off: cut_reply=mask"


def test_messages_keep_their_numbers_where_exchanges_are_dropped(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    [whole] = Encoder(tokenizer).encode(TALK)
    encoder = Encoder(tokenizer, fit=Fit(len(whole) - 1, "drop_turns"))
    assert rule_at(encoder, TALK, "B").reason == (
        "it is content of message 4: train_on=all_assistant trains that message"
    )


def test_ranges_of_a_text_decide(tokenizer: PreTrainedTokenizerBase) -> None:
    layout = Layout(response_template="A:", instruction_template="Q:")
    encoder = Encoder(tokenizer, layout=layout)
    found = rules_of(encoder, {"text": "Q: 1+1? A: 2", "weight": 3})
    names = [(text, rule.reason) for text, rule in found]
    assert names[0] == ("Q", "it stands in no range of the text that is trained")
    assert names[-1] == ("<|im_end|>", "range 0 of the text is trained, with weight 1")


def test_labels_of_the_row_decide(tokenizer: PreTrainedTokenizerBase) -> None:
    row = {"input_ids": [60, 61, 62], "labels": [-100, 61, 62]}
    assert [rule.reason for _, rule in rules_of(Encoder(tokenizer), row)] == [
        "the row itself leaves it out of the loss",
        "the row itself puts it into the loss",
        "the row itself puts it into the loss",
    ]


def test_a_first_token_in_the_loss_is_no_prediction(tokenizer: PreTrainedTokenizerBase) -> None:
    [(_, first), *_] = rules_of(Encoder(tokenizer, Policy(train_on="all")), {"messages": TALK})
    assert first.name == "first_token"
    assert first.reason.endswith("; yet it is the first token, which nothing predicts")


def test_a_rule_that_gives_another_weight_is_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer)
    found = attributed(encoder, {"messages": TALK})
    [example] = found.outcome.examples
    weights = np.where(example.loss_weights > 0, np.float32(7), np.float32(0))
    wrong = replace(found, outcome=Outcome((replace(example, loss_weights=weights),)))
    token = int(np.flatnonzero(weights)[0])
    with pytest.raises(
        LossmaskError, match=f"token {token} has the weight 7, and the rule .* train_on, gives 1"
    ):
        TokenRules(encoder, wrong, 0).rule(token)


POLICIES = [
    Policy(),
    Policy(train_on="all"),
    Policy(train_on=("user", "tool"), stop="last"),
    Policy(weights={"reasoning": 0, "tool_calls": 0.5, "scaffold": 0.2, "prompt": 0.3}),
    Policy(boundary="exclude", append_stop="eos", empty_think="ignore"),
    Policy(boundary="include", history="as_rendered", loss_scale={"A[0-9]": [2.0]}),
]


@pytest.mark.parametrize("name", FIXTURE_TEMPLATES)
def test_every_token_has_a_rule_that_gives_its_weight(
    name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    counted: Counter[str] = Counter()
    for number, policy in enumerate(POLICIES):
        encoder = Encoder(tokenizer, policy, chat_template=FIXTURE_TEMPLATES[name])
        for scenario in SCENARIOS[number :: 2 * len(POLICIES)]:
            messages = [dict(message) for message in scenario.messages]
            messages[-1]["weight"] = 0.5
            row = {"messages": messages, "tools": scenario.tools, "weight": 3}
            count = len(attributed(encoder, row).outcome.examples)
            for example in range(count):
                counted.update(rule.name for _, rule in rules_of(encoder, row, example))
    assert len(counted) > 4
