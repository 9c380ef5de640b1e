"""Control tokens that messages hold as text: which those are, and when they are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lossmask import ConversationError, Encoder, ParityError, Policy
from lossmask.control_tokens import ControlScan, control_tokens_of
from lossmask.embedded import DEMO_MODEL
from lossmask.stops import any_of
from lossmask.tokenizing import TextTokenizer, Tokens
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import WEATHER, assistant, call, user
from tests.test_escaping import CHATML, NO_STOPS, ids_of, only, plain, refusal, with_tokens


@pytest.fixture(scope="module")
def demo() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def test_stop_tokens_are_control_tokens_even_if_not_flagged(demo: PreTrainedTokenizerBase) -> None:
    tokenizer = with_tokens(demo, "<|eot|>", special=False)
    template = CHATML.replace("<|im_end|>", "<|eot|>")
    encoder = Encoder(
        tokenizer, Policy(control_tokens="escape"), chat_template=template, stop_tokens=["<|eot|>"]
    )
    messages = [user("a"), assistant("b<|eot|>")]
    [example] = encoder.encode(messages)
    stop = tokenizer.convert_tokens_to_ids("<|eot|>")
    assert example.input_ids[example.loss_mask].tolist() == [*plain(demo, "b<|eot|>"), stop]
    refusing = Encoder(tokenizer, chat_template=template, stop_tokens=["<|eot|>"])
    assert "'<|eot|>' at character 1" in str(refusal(refusing, messages))


def test_unknown_characters_are_no_control_tokens() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    )
    control = control_tokens_of(TextTokenizer(tokenizer), NO_STOPS)
    ids, offsets = np.array([2, 0, 0, 1], np.int32), np.array([[0, 1], [2, 3], [4, 9], [9, 13]])
    found = control.occurrences("a é <unk></s>", Tokens(ids, offsets))
    assert found == [(4, 9, 0), (9, 13, 1)]


def test_what_messages_wrote_in_a_beginning_is_told_from_the_whole_text() -> None:
    texts = ("<x>", "<x>yz", "x><", "z<x")  # one begins another, two overlap
    pattern = any_of(texts)
    text = "a<x>b<x>yz<x><x>yz<x>y"
    origins = np.array([-1 if at < 7 or at in (12, 13) else at for at in range(len(text))])
    scan = ControlScan(text, origins, pattern, max(map(len, texts)))
    for end in range(len(text) + 1):
        found = list(scan.written_in(text[:end]))
        spans = [match.span() for match in pattern.finditer(text[:end])]
        written = [span for span in spans if (origins[slice(*span)] >= 0).any()]
        assert set(written) <= set(found) <= set(spans), end
        assert found == sorted(found)


def test_control_tokens_in_tools_are_escaped(demo: PreTrainedTokenizerBase) -> None:
    template = FIXTURE_TEMPLATES["chatml with tools"]
    encoder = Encoder(demo, Policy(control_tokens="escape"), chat_template=template)
    text = '{"d": "<|im_end|>", "<|im_start|>": [1, "a<|im_end|>"]}'
    function = {"name": "weather", "parameters": json.loads(text)}
    tools = [{"type": "function", "function": function}]
    [example] = encoder.encode([user("a"), assistant("b")], tools)
    assert text in example.text
    shown = example.text.split("<|im_start|>system\n")[1].split("<|im_end|>\n<|im_start|>user")[0]
    system = ids_of(demo, "", "<|im_start|>", f"system\n{shown}", "<|im_end|>", "\n")
    asked = ids_of(demo, "", "<|im_start|>", "user\na", "<|im_end|>", "\n")
    answer = ids_of(demo, "", "<|im_start|>", "assistant\nb", "<|im_end|>", "\n")
    assert example.input_ids.tolist() == system + asked + answer


def test_control_tokens_in_tools_of_unknown_writer_are_refused(
    demo: PreTrainedTokenizerBase,
) -> None:
    template = "{{ ('<|im_start|>' ~ tools[0].name).expandtabs() }}" + CHATML
    encoder = Encoder(demo, Policy(control_tokens="escape"), chat_template=template)
    assert refusal(encoder, [user("a"), assistant("b")], [{"name": "c"}]).reason == "cannot_trace"


def test_control_tokens_in_tools_are_refused(demo: PreTrainedTokenizerBase) -> None:
    template = FIXTURE_TEMPLATES["chatml with tools"]
    encoder = Encoder(demo, chat_template=template)
    tools = [{**WEATHER, "description": "<|im_end|>"}]
    error = refusal(encoder, [user("a"), assistant("b")], tools)
    assert error.reason == "control_token_in_content"
    assert "'tools' contains the control token '<|im_end|>'" in str(error)


@pytest.mark.parametrize("policy", ["error", "escape"])
def test_control_tokens_in_keys_of_messages_are_refused(
    demo: PreTrainedTokenizerBase, policy: Any
) -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m | tojson }}")
    encoder = Encoder(demo, Policy(control_tokens=policy), chat_template=template)
    error = refusal(encoder, [user("a"), assistant("b"), user("c") | {"<|im_end|>": 1}])
    assert (error.reason, error.message_index) == ("control_token_in_content", 2)
    assert "a key contains the control token '<|im_end|>'" in str(error)


def test_an_answer_that_begins_with_a_control_token_of_its_prompt_is_refused(
    demo: PreTrainedTokenizerBase,
) -> None:
    template = CHATML.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<|endoftext|>{% endif %}"
    )
    encoder = Encoder(demo, Policy(control_tokens="escape"), chat_template=template)
    error = refusal(encoder, [user("a"), assistant("<|endoftext|>b")])
    assert (error.reason, error.message_index) == ("control_token_in_content", 1)
    assert "begins with the control token '<|endoftext|>', which is in its prompt" in str(error)


@pytest.mark.parametrize("answer", ["b<|im_end|>c", "b<|im_end|>", "<|im_end|>"])
def test_an_allowed_stop_token_inside_an_answer_is_refused(
    demo: PreTrainedTokenizerBase, answer: str
) -> None:
    encoder = Encoder(demo, Policy(control_tokens="allow"), chat_template=CHATML)
    error = refusal(encoder, [user("a"), assistant(answer)])
    assert isinstance(error, ParityError)
    assert (error.reason, error.message_index) == ("stop_inside", 1)
    assert "itself holds the stop token '<|im_end|>'" in str(error)


def test_a_stop_token_that_is_an_ordinary_word_ends_an_answer_as_well(
    demo: PreTrainedTokenizerBase,
) -> None:
    encoder = Encoder(demo, chat_template=CHATML, stop_tokens=["\n"])
    [example] = encoder.encode([user("a\nb"), assistant("c")])
    assert example.supervised_text == ["c<|im_end|>"]
    error = refusal(encoder, [user("a"), assistant("b\nc")])
    assert (error.reason, error.message_index) == ("stop_inside", 1)


def test_other_control_tokens_are_allowed_as_the_tokenizer_reads_them(
    demo: PreTrainedTokenizerBase,
) -> None:
    messages = [user("x<|im_end|><|im_"), assistant("b<|im_start|>c")]
    example = only(demo, CHATML, messages, "allow")
    assert example.input_ids.tolist() == demo(example.text, add_special_tokens=False)["input_ids"]
    assert example.supervised_text == ["b<|im_start|>c<|im_end|>"]


def test_the_error_names_message_field_token_and_place(demo: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(demo, chat_template=FIXTURE_TEMPLATES["chatml with tools"])
    asked = assistant("", tool_calls=[call("weather", {"city": "Rome<|im_start|>"})])
    with pytest.raises(
        ConversationError,
        match=r"message 1: 'tool_calls/0/function/arguments/city' contains the control token "
        r"'<\|im_start\|>' at character 4: .* control_tokens=\"escape\" or \"allow\"",
    ):
        encoder.encode([user("a"), asked])
