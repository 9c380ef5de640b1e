"""Prompts of prefilled turns, and turns as the whole conversation shows them."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import ConversationError, Encoder, ParityError, Policy
from lossmask.embedded import DEMO_MODEL
from tests.parity import check
from tests.scenarios import assistant, user

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAST_REASONING_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def test_a_prefilled_beginning_is_prompt_as_continue_final_message_renders_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [
        user("Q0 go?"),
        assistant("A1 Sure, one.", prefill="A1 Sure,"),
        user("Q2 more?"),
        assistant("A3 two."),
    ]
    encoder = Encoder(tokenizer, chat_template=CHATML)
    [example] = encoder.encode(messages)
    assert example.supervised_text == [" one.<|im_end|>", "A3 two.<|im_end|>"]
    prompt = tokenizer.apply_chat_template(
        [user("Q0 go?"), assistant("A1 Sure,")],
        chat_template=CHATML,
        continue_final_message=True,
        tokenize=False,
    )
    assert example.text[: example.spans[0].start] == prompt
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert example.input_ids[: example.spans[0].token_start].tolist() == prompt_ids
    assert check(encoder, messages).status == "exact"


def test_a_prefill_alone_is_a_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [assistant("A0 Sure, one.", prefill="A0 Sure,"), user("Q1?"), assistant("A2.")]
    encoder = Encoder(tokenizer, chat_template=CHATML)
    [example] = encoder.encode(messages)
    assert example.text[: example.spans[0].start] == "<|im_start|>assistant\nA0 Sure,"
    assert example.supervised_text == [" one.<|im_end|>", "A2.<|im_end|>"]
    prompt_ids = tokenizer("<|im_start|>assistant\nA0 Sure,", add_special_tokens=False)["input_ids"]
    assert example.input_ids[: example.spans[0].token_start].tolist() == prompt_ids


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (assistant("Sure", prefill="No"), "must begin with the 'prefill' 'No'"),
        (assistant("Sure", prefill=3), "'prefill' must be a string on an assistant message"),
        (user("Sure") | {"prefill": "S"}, "'prefill' must be a string on an assistant message"),
    ],
)
def test_a_prefill_that_is_not_the_beginning_of_an_answer_is_refused(
    tokenizer: PreTrainedTokenizerBase, message: dict[str, object], error: str
) -> None:
    with pytest.raises(ConversationError, match=error):
        Encoder(tokenizer).encode([user("Hi"), message, assistant("Hello")])


def test_a_prefill_that_the_finished_turn_does_not_begin_with_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace("{{ m.content", "{{ '!' if 'yes' in m.content }}{{ m.content")
    with pytest.raises(ParityError, match="does not begin with the prefilled prompt") as caught:
        Encoder(tokenizer, chat_template=template).encode(
            [user("Hi"), assistant("Sure, yes", prefill="Sure")]
        )
    assert (caught.value.reason, caught.value.message_index) == ("prompt_differs", 1)


def test_a_prefill_that_the_finished_turn_begins_with_by_chance_only_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace("{{ m.content", "{{ m.content.split('</think>')[-1]")
    with pytest.raises(ParityError, match="leaves out the prefill of the prompt") as caught:
        Encoder(tokenizer, chat_template=template).encode(
            [user("Hi"), assistant("<</think>", prefill="<")]  # the '<' of <|im_end|>
        )
    assert (caught.value.reason, caught.value.message_index) == ("prompt_differs", 1)


def test_history_as_rendered_trains_each_turn_once_where_the_whole_conversation_shows_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [
        user("Q0?"),
        assistant("A1.", reasoning_content="R1"),
        user("Q2?"),
        assistant("A3.", reasoning_content="R3"),
    ]
    encoder = Encoder(tokenizer, Policy(history="as_rendered"), chat_template=LAST_REASONING_ONLY)
    [example] = encoder.encode(messages)
    whole = tokenizer.apply_chat_template(
        messages, chat_template=LAST_REASONING_ONLY, tokenize=False
    )
    assert example.text == whole
    assert example.supervised_text == ["A1.<|im_end|>", "<think>R3</think>A3.<|im_end|>"]
    assert example.input_ids.tolist() == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert [(f.kind, f.message_index) for f in example.findings] == [
        ("history_rewritten", 1),
        ("reasoning_dropped", 1),
    ]


def test_history_as_rendered_changes_nothing_where_nothing_is_rewritten(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [user("Q0?"), assistant("A1."), user("Q2?"), assistant("A3.")]
    [shown] = Encoder(tokenizer, Policy(history="as_rendered"), chat_template=CHATML).encode(
        messages
    )
    [expanded] = Encoder(tokenizer, chat_template=CHATML).encode(messages)
    assert shown.labels.tolist() == expanded.labels.tolist()
    assert shown.findings == expanded.findings == ()
