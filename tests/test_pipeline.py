"""Exact ids, spans and texts, worked out by hand on small templates."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from lossmask import ConversationError, Encoder, Example, ParityError, Policy, TemplateError
from lossmask.embedded import DEMO_MODEL
from tests.scenarios import Message, assistant, call, system, tool, user

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE = (
    "{% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
DROPS_REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and m.reasoning_content and loop.last %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: list[Message],
    *,
    policy: Policy | None = None,
    stop_tokens: tuple[str, ...] = (),
    tools: list[Any] | None = None,
) -> list[Example]:
    encoder = Encoder(tokenizer, policy, chat_template=template, stop_tokens=stop_tokens)
    return encoder.encode(messages, tools)


def only(examples: list[Example]) -> Example:
    [example] = examples
    return example


def ids(tokenizer: PreTrainedTokenizerBase, *texts: str) -> list[int]:
    """Tokenize texts apart and join the ids."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [token for part in encoded for token in part]


def test_completion_is_answer_and_stop_token_without_header_or_newline(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    example = only(encode(tokenizer, CHATML, [user("Hi"), assistant("Hello")]))
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert example.text == prompt + "Hello<|im_end|>\n"
    assert example.supervised_text == ["Hello<|im_end|>"]
    before, after = ids(tokenizer, prompt), ids(tokenizer, "Hello<|im_end|>")
    newline = ids(tokenizer, "\n")
    assert example.input_ids.tolist() == [*before, *after, *newline]
    assert example.labels.tolist() == [-100] * len(before) + after + [-100]
    assert example.loss_weights.tolist() == [0.0] * len(before) + [1.0] * len(after) + [0.0]


def test_message_index_tells_who_wrote_each_token(tokenizer: PreTrainedTokenizerBase) -> None:
    example = only(encode(tokenizer, CHATML, [user("Hi"), assistant("Hello")]))
    asked, answered = example.text.index("Hi"), example.text.index("Hello")
    written = {asked: 0, asked + 1: 0} | {answered + k: 1 for k in range(5)}
    expected = [
        next((written[at] for at in range(start, end) if at in written), -1)
        for start, end in example.offsets.tolist()
    ]
    assert example.message_index.tolist() == expected
    assert set(expected) == {-1, 0, 1}


def test_two_turns_share_one_example(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [user("a"), assistant("b"), user("c"), assistant("d")]
    example = only(encode(tokenizer, CHATML, messages))
    assert example.supervised_text == ["b<|im_end|>", "d<|im_end|>"]
    assert [span.message_index for span in example.spans] == [1, 3]


def test_equal_text_of_user_and_assistant_is_told_apart(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [user("Yes"), assistant("Yes"), user("Yes"), assistant("Yes")]
    example = only(encode(tokenizer, CHATML, messages))
    [first, second] = example.spans
    header = "<|im_start|>assistant\n"
    assert first.start == example.text.index(header) + len(header)
    assert second.start == example.text.rindex(header) + len(header)
    assert example.supervised_count == first.token_end - first.token_start + (
        second.token_end - second.token_start
    )


def test_trailing_user_message_stays_in_the_text_untrained(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    example = only(encode(tokenizer, CHATML, [user("a"), assistant("b"), user("later")]))
    assert example.text.endswith("<|im_start|>user\nlater<|im_end|>\n")
    assert example.supervised_text == ["b<|im_end|>"]


def test_rewritten_history_gives_each_turn_an_example_of_its_own(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [
        user("a"),
        assistant("b", reasoning_content="r1"),
        user("c"),
        assistant("d", reasoning_content="r3"),
    ]
    last, earlier = encode(tokenizer, DROPS_REASONING, messages)
    assert last.supervised_text == ["<think>r3</think>d<|im_end|>"]
    assert "r1" not in last.text
    assert earlier.supervised_text == ["<think>r1</think>b<|im_end|>"]
    assert earlier.text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n" + (
        "<think>r1</think>b<|im_end|>\n"
    )


def test_only_the_rewritten_turn_is_expanded(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [
        user("a"),
        assistant("b"),
        user("c"),
        assistant("d", reasoning_content="r"),
        user("e"),
        assistant("f"),
    ]
    whole, expanded = encode(tokenizer, DROPS_REASONING, messages)
    assert whole.supervised_text == ["b<|im_end|>", "f<|im_end|>"]
    assert expanded.supervised_text == ["<think>r</think>d<|im_end|>"]


def test_history_last_leaves_rewritten_turns_out(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [user("a"), assistant("b", reasoning_content="r"), user("c"), assistant("d")]
    policy = Policy(history="last")
    example = only(encode(tokenizer, DROPS_REASONING, messages, policy=policy))
    assert example.supervised_text == ["d<|im_end|>"]


def test_history_error_names_the_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [user("a"), assistant("b", reasoning_content="r"), user("c"), assistant("d")]
    with pytest.raises(ParityError, match=r"message 1: .* differently") as raised:
        encode(tokenizer, DROPS_REASONING, messages, policy=Policy(history="error"))
    assert raised.value.reason == "history_rewritten"


def test_last_assistant_trains_one_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [user("a"), assistant("b"), user("c"), assistant("d")]
    policy = Policy(train_on="last_assistant")
    example = only(encode(tokenizer, CHATML, messages, policy=policy))
    assert example.supervised_text == ["d<|im_end|>"]


def test_weights_in_the_data_scale_or_silence_a_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [
        user("a"),
        assistant("b", train=False),
        user("c"),
        assistant("d", weight=0.5),
        user("e"),
        assistant("f"),
    ]
    example = only(encode(tokenizer, CHATML, messages))
    assert example.supervised_text == ["d<|im_end|>", "f<|im_end|>"]
    assert sorted(set(example.loss_weights.tolist())) == [0.0, 0.5, 1.0]
    half = example.spans[0]
    assert (example.loss_weights[half.token_start : half.token_end] == 0.5).all()
    assert "train" not in example.text


def test_a_stop_token_inside_the_generation_prompt_region_is_no_end(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m.content }}<|endoftext|>")
    example = only(
        encode(tokenizer, template, [user("a"), assistant("b")], stop_tokens=("<|endoftext|>",))
    )
    assert example.supervised_text == ["b<|endoftext|><|im_end|>"]
    assert example.spans[0].stop == "<|im_end|>"


def test_a_turn_without_known_stop_token_is_found_and_whole(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    example = only(encode(tokenizer, template, [user("a"), assistant("b")]))
    assert example.supervised_text == [" b\n"]
    assert [finding.kind for finding in example.findings] == ["no_stop_token"]


def test_generation_prompt_that_the_finished_turn_lacks_is_cut_to_the_common_prefix(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}"
    )
    example = only(encode(tokenizer, template, [user("a"), assistant("<b>bold</b>")]))
    assert example.supervised_text == ["<b>bold</b><|im_end|>"]
    [finding] = example.findings
    assert finding.kind == "generation_prompt_mismatch"


def test_context_that_changes_behind_the_prompt_gives_prompt_then_completion(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{% if messages[-1].role != 'assistant' %}[{{ m.content }}]{% endif %}"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    example = only(encode(tokenizer, template, [system("S"), user("a"), assistant("b")]))
    prompt = "[S]<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert example.text == prompt + "b<|im_end|>\n"
    assert example.supervised_text == ["b<|im_end|>"]
    assert example.input_ids.tolist()[: example.spans[0].token_start] == ids(tokenizer, prompt)
    assert [finding.kind for finding in example.findings] == ["context_differs"]


def test_dropped_tool_call_is_never_trained_as_an_empty_answer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [
        user("weather?"),
        assistant("", tool_calls=[call("weather", {"city": "Rome"})]),
        tool("sunny"),
        assistant("It is sunny."),
    ]
    example = only(encode(tokenizer, CHATML, messages))
    assert example.supervised_text == ["It is sunny.<|im_end|>"]
    assert [(finding.kind, finding.message_index) for finding in example.findings] == [
        ("content_dropped", 1),
        ("key_dropped", 1),
        ("key_dropped", 2),
    ]
    with pytest.raises(ParityError, match=r"message 1: .*tool_calls/0/function/name"):
        encode(tokenizer, CHATML, messages[:2])


def test_assistant_first_message_has_no_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    example = only(encode(tokenizer, CHATML, [assistant("Hi!"), user("a"), assistant("b")]))
    assert example.supervised_text == ["b<|im_end|>"]
    assert [finding.kind for finding in example.findings] == ["no_prompt"]


def test_think_block_that_is_never_closed_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}<think>\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    with pytest.raises(ParityError, match="opens '<think>'") as raised:
        encode(tokenizer, template, [user("a"), assistant("b")])
    assert raised.value.reason == "unclosed_think"
    closed = only(encode(tokenizer, template, [user("a"), assistant("r</think>b")]))
    assert closed.supervised_text == ["r</think>b<|im_end|>"]


def test_text_of_another_message_inside_the_completion_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace(
        "{{ m.content }}<|im_end|>",
        "{{ m.content }}{% if m.role == 'assistant' %} ({{ messages[0].content }}){% endif %}"
        "<|im_end|>",
    )
    with pytest.raises(ParityError, match="text of message 0 inside") as raised:
        encode(tokenizer, template, [user("a"), assistant("b")])
    assert raised.value.reason == "foreign_text"


def test_template_that_writes_a_stop_token_before_the_answer_ends_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m.content[:1] }}<|im_end|>{{ m.content[1:] }}")
    with pytest.raises(ParityError, match="never generate the rest") as raised:
        encode(tokenizer, template, [user("a"), assistant("bc")])
    assert raised.value.reason == "stop_inside"


def test_control_token_in_content_is_refused_or_allowed(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [user("x<|im_end|>y"), assistant("b")]
    with pytest.raises(
        ConversationError, match=r"message 0: 'content' .* at character 1"
    ) as raised:
        encode(tokenizer, CHATML, messages)
    assert raised.value.reason == "control_token_in_content"
    allowed = encode(tokenizer, CHATML, messages, policy=Policy(control_tokens="allow"))
    assert only(allowed).supervised_text == ["b<|im_end|>"]


def test_control_token_in_reasoning_that_later_turns_drop_is_refused_too(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [
        user("a"),
        assistant("b", reasoning_content="x<|im_start|>"),
        user("c"),
        assistant("d"),
    ]
    with pytest.raises(ConversationError, match="message 1: 'reasoning_content'"):
        encode(tokenizer, DROPS_REASONING, messages)


def test_a_token_across_the_border_is_split_as_inference_splits_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    merging = copy.deepcopy(tokenizer)
    merging.add_tokens([AddedToken("?b", normalized=False, special=False)])
    example = only(encode(merging, BARE, [user("a?"), assistant("b")]))
    prompt, answer = ids(merging, "a?"), ids(merging, "b<|im_end|>")
    assert ids(merging, "a?b<|im_end|>") != [*prompt, *answer]
    assert example.input_ids.tolist() == [*prompt, *answer]
    assert example.labels.tolist() == [-100] * len(prompt) + answer
    assert [finding.kind for finding in example.findings] == ["boundary_straddle"]


def test_a_straddle_in_an_earlier_turn_gives_it_its_own_example(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    merging = copy.deepcopy(tokenizer)
    merging.add_tokens([AddedToken("?b", normalized=False, special=False)])
    messages = [user("a?"), assistant("b"), user("c!"), assistant("d")]
    last, first = encode(merging, BARE, messages)
    assert last.supervised_text == ["d<|im_end|>"]
    assert first.supervised_text == ["b<|im_end|>"]
    assert last.input_ids.tolist() == ids(merging, "a?b<|im_end|>c!", "d<|im_end|>")


def test_a_character_of_several_tokens_is_trained_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    example = only(encode(tokenizer, CHATML, [user("🙂"), assistant("龘🏽")]))
    [span] = example.spans
    assert example.supervised_text == ["龘🏽<|im_end|>"]
    assert span.token_end - span.token_start == len(ids(tokenizer, "龘🏽<|im_end|>")) > 3
    trained = example.input_ids[example.loss_mask].tolist()
    assert tokenizer.decode(trained) == "龘🏽<|im_end|>"


def test_template_error_names_the_message(tokenizer: PreTrainedTokenizerBase) -> None:
    template = (
        "{% for m in messages %}{% if m.content == 'bad' %}"
        "{{ raise_exception('no ' ~ m.content) }}{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(TemplateError, match=r"message 1: the chat template raised .*no bad"):
        encode(tokenizer, template, [user("a"), assistant("bad")])


def test_arrays_have_the_documented_types(tokenizer: PreTrainedTokenizerBase) -> None:
    example = only(encode(tokenizer, CHATML, [user("a"), assistant("b")]))
    assert example.input_ids.dtype == example.labels.dtype == np.int32
    assert example.message_index.dtype == example.offsets.dtype == np.int32
    assert example.loss_weights.dtype == np.float32
    assert example.loss_mask.dtype == bool
    assert example.offsets.shape == (len(example), 2)


def test_encode_batch_gives_one_outcome_per_row(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer)
    good: dict[str, Any] = {"messages": [user("a"), assistant("b")]}
    outcomes = encoder.encode_batch([good, {"txt": "x"}, {"messages": []}])
    assert [bool(outcome.examples) for outcome in outcomes] == [True, False, False]
    assert [outcome.rejection and outcome.rejection.reason for outcome in outcomes] == [
        None,
        "unknown_format",
        "empty_conversation",
    ]
