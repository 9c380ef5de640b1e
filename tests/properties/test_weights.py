"""Whatever conversation and policy: every word has the weight that a short calculation gives it.

Each word of a drawn conversation occurs once. What it is part of, and how much it must count, is
told by where the conversation holds it, not by origins in a rendering.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lossmask import Encoder, Example, Policy
from lossmask.embedded import DEMO_MODEL

Message = dict[str, Any]

FEW = settings(
    max_examples=120,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=3000, phases=[Phase.generate, Phase.shrink])
TOKENIZER = AutoTokenizer.from_pretrained(DEMO_MODEL)
_SCAFFOLD = {*("user", "assistant", "system", "tool", "name", "arguments", "function"), "call"}
WORDS = sorted(  # tokens with the space before them
    {t[1:] for t in TOKENIZER.get_vocab() if re.fullmatch("Ġ[a-z]{3,}", t)} - _SCAFFOLD
)
WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b")
CONTROL = re.compile(r"<\|im_(?:start|end)\|>")
_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEMPLATES = {
    "JSON calls": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n"
        "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}<call>"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
        "</call>{% endfor %}<|im_end|>\n{% endfor %}" + _PROMPT
    ),
    "calls in tags, before the content": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}[THINK]"
        "{{ m.reasoning_content }}[/THINK]{% endif %}{% for c in m.tool_calls or [] %}"
        "<function={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}"
        "<{{ k }}>{{ v }}</{{ k }}>{% endfor %}</function>{% endfor %}{{ m.content or '' }}"
        "<|im_end|>{% endfor %}" + _PROMPT
    ),
    "the next header stops": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>"
        "{{ m.reasoning_content }}</think>\n{% endif %}{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}\n{{ c.function.name }}"
        "({{ c.function.arguments | tojson }}){% endfor %}{% endfor %}" + _PROMPT
    ),
}
WEIGHTS = st.sampled_from([0, 0.25, 0.5, 1, 2, -1])
PARTS = st.dictionaries(
    st.sampled_from(
        [
            *("prompt", "scaffold", "content", "reasoning", "tool_calls", "stop"),
            *("tool_calls.name", "tool_calls.arguments", "tool_calls.syntax"),
        ]
    ),
    WEIGHTS,
    max_size=5,
)
TRAIN_ON = st.sampled_from(
    ["all_assistant", "last_assistant", "last_turn", ("assistant", "user"), ("tool",), "all"]
)


@dataclass
class Row:
    """A conversation and what each of its words is.

    Attributes:
        messages: With loss keys.
        parts: Word -> its message and part.
        ranges: Word -> the weight that a range gives it.
        prefilled: Words that inference is given.
        weight: Of the row.
    """

    messages: list[Message] = field(default_factory=list)
    parts: dict[str, tuple[int, str]] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)
    prefilled: set[str] = field(default_factory=set)
    weight: float = 1.0


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Draw a conversation that begins with a user and holds at least one answer."""
    row, unused = Row(weight=draw(st.sampled_from([1.0, 0.5, 2.0]))), iter(WORDS)

    def text(index: int, part: str) -> str:
        words = [next(unused) for _ in range(draw(st.integers(1, 3)))]
        row.parts.update(dict.fromkeys(words, (index, part)))
        return draw(st.sampled_from([" ", ", ", "\n", " 7 "])).join(words)

    roles = draw(
        st.sampled_from(
            [
                ("user", "assistant"),
                ("user", "assistant", "tool", "assistant"),
                ("system", "user", "assistant", "user", "assistant"),
                ("user", "assistant", "assistant", "user"),
            ]
        )
    )
    for index, role in enumerate(roles):
        message: Message = {"role": role, "content": text(index, "content")}
        if role == "assistant":
            _extend(draw, message, index, text)
        if draw(st.integers(0, 3)) == 0:
            message |= draw(st.sampled_from([{"weight": 0.5}, {"train": False}, {"weight": -2}]))
        if draw(st.integers(0, 2)) == 0:
            _weigh_words(draw, message, row)
        if role == "assistant" and "weights" not in message and draw(st.booleans()):
            _prefill(message, row)
        row.messages.append(message)
    return row


def _extend(draw: st.DrawFn, message: Message, index: int, text: Any) -> None:
    if draw(st.booleans()):
        message["reasoning_content"] = text(index, "reasoning")
    elif draw(st.integers(0, 3)) == 0:
        message["content"] = f"<think>{text(index, 'reasoning')}</think>{message['content']}"
    calls = []
    for _ in range(draw(st.integers(0, 2))):
        name = text(index, "tool_calls.name").split()[0].strip(",")
        key = text(index, "tool_calls.arguments").split()[0].strip(",")
        arguments = {key: text(index, "tool_calls.arguments")}
        calls.append({"type": "function", "function": {"name": name, "arguments": arguments}})
    if calls:
        message["tool_calls"] = calls


def _weigh_words(draw: st.DrawFn, message: Message, row: Row) -> None:
    ranges = []
    for path in ("content", "reasoning_content"):
        for word in WORD.finditer(message.get(path) or ""):
            if draw(st.booleans()):
                row.ranges[word.group()] = weight = float(draw(WEIGHTS))
                one = {"start": word.start(), "end": word.end(), "weight": weight, "path": path}
                ranges.append(one)
    if ranges:
        message["weights"] = ranges


def _prefill(message: Message, row: Row) -> None:
    word = WORD.match(message["content"])
    is_first = not {"reasoning_content", "tool_calls"} & set(message)
    if word and is_first and len(message["content"]) > word.end():
        message["prefill"] = word.group()
        row.prefilled.add(word.group())


class Expectation:
    """What each word must count, by the conversation and the policy alone."""

    def __init__(self, row: Row, policy: Policy) -> None:
        self.row, self.policy = row, policy
        roles = [message["role"] for message in row.messages]
        last_user = max(k for k, role in enumerate(roles) if role == "user")
        answers = [k for k, role in enumerate(roles) if role == "assistant"]
        chosen: dict[Any, list[int]] = {
            "all_assistant": answers,
            "last_assistant": answers[-1:],
            "last_turn": [k for k in answers if k > last_user],
            "all": list(range(len(roles))),
        }
        train_on = policy.train_on
        self.chosen = chosen.get(train_on, [k for k, role in enumerate(roles) if role in train_on])

    def of_message(self, index: int) -> float | None:
        """Return the weight of a message, None where it is nothing but context."""
        message = self.row.messages[index]
        if "weight" in message or "train" in message:
            return float(message["weight"] if "weight" in message else message["train"])
        return 1.0 if index in self.chosen else None

    def part(self, name: str) -> float:
        """Return the weight of a part."""
        weights = self.policy.weights
        default = float(name not in ("prompt", "scaffold"))
        if name == "scaffold" and self.policy.train_on == "all":
            default = 1.0
        return weights.get(name, weights.get(name.partition(".")[0], default))

    def of_word(self, word: str) -> float:
        """Return what the tokens of a word must count."""
        index, part = self.row.parts[word]
        whole = self.of_message(index)
        own = self.row.ranges.get(word)
        if word in self.row.prefilled and self.policy.train_on != "all":
            weight = 0.0 if whole == 0 else self.part("prompt")
        elif own is not None:
            weight = own
        else:
            weight = self.part("prompt") if whole is None else whole * self.part(part)
        return weight * self.row.weight

    def of_stop(self, index: int) -> float:
        """Return what the stop token of a message in the loss must count."""
        whole = self.of_message(index)
        in_loss = [k for k in range(len(self.row.messages)) if self.of_message(k)]
        is_out = self.policy.stop == "never"
        is_out |= self.policy.stop == "last" and index != max(in_loss, default=-1)
        if is_out:
            return 0.0
        weight = self.part("scaffold") if whole is None else whole * self.part("stop")
        return weight * self.row.weight


def check(row: Row, policy: Policy, template: str) -> str:
    """Encode and compare; return what became of it."""
    stops = ["<|im_start|>"] if "<|im_end|>" not in TEMPLATES[template] else []
    encoder = Encoder(
        TOKENIZER, policy, chat_template=TEMPLATES[template], stop_tokens=stops, proof="off"
    )
    outcome = encoder.encode_row({"messages": row.messages, "weight": row.weight})
    expectation = Expectation(row, policy)
    if outcome.rejection is not None:
        assert outcome.rejection.reason == "nothing_to_train", outcome
        counts = any(map(expectation.of_message, range(len(row.messages))))
        counts |= any(row.ranges.values())
        assert not counts or 0 in policy.weights.values() or policy.stop != "train", outcome
        return "nothing"
    [example] = outcome.examples
    for word in WORD.finditer(example.text):
        expected = expectation.of_word(word.group())
        inside = _inside(example, word.start(), word.end())
        assert set(example.loss_weights[inside].tolist()) == {expected}, (word.group(), example)
    _check_control_tokens(example, expectation)
    _check_spans(example)
    return "exact"


def _inside(example: Example, start: int, end: int) -> Any:
    """Return which tokens have their first visible character in ``text[start:end]``."""
    firsts = [
        begin + len(piece) - len(piece.lstrip()) if piece.strip() else begin
        for begin, stop in example.offsets.tolist()
        for piece in [example.text[begin:stop]]
    ]
    found = np.array([start <= first < end for first in firsts])
    assert found.any()
    return found


def _check_control_tokens(example: Example, expectation: Expectation) -> None:
    """Require the weight of ``stop`` at the end of each span, of ``scaffold`` outside of them."""
    spans = {span.end: span.message_index for span in example.spans if span.stop}
    for found in CONTROL.finditer(example.text):
        [weight] = set(example.loss_weights[_inside(example, found.start(), found.end())].tolist())
        if found.end() in spans:
            assert weight == expectation.of_stop(spans[found.end()]), (found, example)
        elif not any(span.start <= found.start() < span.end for span in example.spans):
            in_loss = expectation.part("scaffold") * expectation.row.weight
            assert weight in (in_loss, 0.0), (found, example)


def _check_spans(example: Example) -> None:
    """Require a span for each message of which something counts, and none of which nothing does."""
    for span in example.spans:
        assert example.loss_mask[span.token_start : span.token_end].any()
    starts = [span.token_start for span in example.spans]
    assert starts == sorted(starts)
    assert np.array_equal(
        example.labels, np.where(example.loss_weights != 0, example.input_ids, -100)
    )


POLICIES = st.builds(
    Policy,
    weights=PARTS,
    train_on=TRAIN_ON,
    stop=st.sampled_from(["train", "train", "last", "never"]),
)


@FEW
@given(rows(), POLICIES, st.sampled_from(sorted(TEMPLATES)))
def test_every_word_counts_as_it_must(row: Row, policy: Policy, template: str) -> None:
    check(row, policy, template)


@pytest.mark.slow
@MANY
@given(rows(), POLICIES, st.sampled_from(sorted(TEMPLATES)))
def test_every_word_counts_as_it_must_at_length(row: Row, policy: Policy, template: str) -> None:
    check(row, policy, template)
