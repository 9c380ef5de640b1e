"""Templates whose finished turn does not begin with the generation prompt."""

from __future__ import annotations

import re

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, Example, ParityError
from lossmask.embedded import DEMO_MODEL
from tests.parity import check
from tests.scenarios import assistant, user

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CONVERSATION = [user("Q0?"), assistant("A1."), user("Q2?"), assistant("A3.")]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def _template(generation_prompt: str) -> str:
    return TURNS + "{% if add_generation_prompt %}{{ " + repr(generation_prompt) + " }}{% endif %}"


@pytest.mark.parametrize(
    ("generation_prompt", "supervised"),
    [
        ("\n<|im_start|>assistant\n", "A1.<|im_end|>"),  # a stray newline before the header
        ("  <|im_start|>assistant\n\n", "A1.<|im_end|>"),  # and one behind it
        (" <|im_start|>assistant", "\nA1.<|im_end|>"),  # the newline is left to the model
        (" <|im_start|>assistant: ", "A1.<|im_end|>"),  # white space there belongs to the header
    ],
)
def test_a_header_spelled_differently_is_never_trained(
    tokenizer: PreTrainedTokenizerBase, generation_prompt: str, supervised: str
) -> None:
    encoder = Encoder(tokenizer, chat_template=_template(generation_prompt))
    examples = encoder.encode(CONVERSATION)
    first = _of_message(examples, 1)
    [span] = [span for span in first.spans if span.message_index == 1]
    prompt = tokenizer.apply_chat_template(
        CONVERSATION[:1],
        chat_template=_template(generation_prompt),
        add_generation_prompt=True,
        tokenize=False,
    )
    assert first.text[: span.start] == prompt
    assert first.text[span.start : span.end] == supervised
    assert {f.kind for f in first.findings} - {"boundary_straddle"} == {"header_respelled"}
    case = check(encoder, CONVERSATION)
    assert case.status == "exact", case


def test_a_header_of_other_words_is_the_common_prefix(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer, chat_template=_template("<|im_start|>assistant\n<think>\n"))
    first = _of_message(encoder.encode(CONVERSATION), 1)
    assert first.supervised_text[0] == "A1.<|im_end|>"
    assert {f.kind for f in first.findings} == {"generation_prompt_mismatch"}


def test_text_behind_all_turns_is_context_where_there_is_no_generation_prompt(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = "{% for m in messages %}{{ m.content }}{{ '  ' if not loop.last }}{% endfor %}END"
    encoder = Encoder(tokenizer, chat_template=template, stop_tokens=["<|im_end|>"])
    first = _of_message(encoder.encode(CONVERSATION[:2]), 1)
    assert first.text == "Q0?ENDA1.END"
    assert first.supervised_text == ["A1.END"]


def test_a_stop_token_inside_the_generation_prompt_is_not_the_end_of_an_empty_answer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    turn = "<|im_end|><|im_start|>assistant\n"  # the header of an answer ends the turn before it
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + turn
        + "!{{ m.content }}<|im_end|>"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}" + turn + "<think>{% endif %}"
    )
    messages = [user("Q0?"), assistant("")]
    [example] = Encoder(tokenizer, chat_template=template).encode(messages)
    assert example.supervised_text == ["!<|im_end|>"]
    assert check(Encoder(tokenizer, chat_template=template), messages).status == "exact"


JOINING = (
    "{% for i in range(messages | length) %}{% set m = messages[i] %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ ' ' + m.content }}"
    "{% if i + 1 < messages | length and messages[i + 1].role == 'assistant' %}{{ GLUE }}"
    "{% else %}<|im_end|>{% endif %}{% endif %}{% endfor %}"
)


def test_an_answer_joined_to_the_one_before_follows_its_end(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoder = Encoder(tokenizer, chat_template=JOINING.replace("GLUE", repr("\n")))
    messages = [user("Q0?"), assistant("A1."), assistant("A2.")]
    [example] = encoder.encode(messages)
    assert example.text == "[INST] Q0? [/INST] A1.<|im_end|>\n A2.<|im_end|>"
    assert example.supervised_text == [" A1.<|im_end|>", "\n A2.<|im_end|>"]
    [finding] = example.findings
    assert (finding.kind, finding.message_index) == ("context_differs", 2)
    assert check(encoder, messages).status == "exact"


@pytest.mark.parametrize("invitation", ["", "Answer:"])
def test_an_answer_joined_by_words_or_behind_a_generation_prompt_is_refused(
    tokenizer: PreTrainedTokenizerBase, invitation: str
) -> None:
    glue = "\n" if invitation else "\nand "
    template = JOINING.replace("GLUE", repr(glue))
    template += "{% if add_generation_prompt %}" + invitation + "{% endif %}"
    encoder = Encoder(tokenizer, chat_template=template)
    with pytest.raises(ParityError, match=re.escape("end with '<|im_end|>' in the prompt, but")):
        encoder.encode([user("Q0?"), assistant("A1."), assistant("A2.")])


def _of_message(examples: list[Example], index: int) -> Example:
    [found] = [e for e in examples if any(s.message_index == index for s in e.spans)]
    return found
