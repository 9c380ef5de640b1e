"""Every style is its documented text, exact under the oracle, and raises on what it cannot show."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, PolicyError
from lossmask.embedded import DEMO_MODEL
from lossmask.instruction_styles import (
    STYLES,
    cost_of,
    input_separator,
    is_style,
    missing_tokens,
    puts_bos,
    special_tokens_of,
    stop_token_of,
    style_template,
)
from tests import corpus, small_tokenizers
from tests.parity import check
from tests.scenarios import SCENARIOS, Message, assistant, system, user

PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request."
)
PREAMBLE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
CURIOUS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
TURNS = [user("q1"), assistant("a1"), user("q2"), assistant("a2")]

WITHOUT_SYSTEM = {
    "alpaca": f"{PREAMBLE}\n\n### Instruction:\nq1\n\n### Response:\na1</s>"
    "\n\n### Instruction:\nq2\n\n### Response:\na2</s>",
    "vicuna": f"{CURIOUS} USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT: a2</s>",
    "human_assistant": "### Human: q1\n### Assistant: a1</s>\n"
    "### Human: q2\n### Assistant: a2</s>\n",
    "zephyr": "<|user|>\nq1</s>\n<|assistant|>\na1</s>\n<|user|>\nq2</s>\n<|assistant|>\na2</s>\n",
    "chatml": "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
    "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>\n",
    "phi": "Instruct: q1\nOutput: a1</s>\nInstruct: q2\nOutput: a2</s>\n",
    "phi3": "<|user|>\nq1<|end|>\n<|assistant|>\na1<|end|>\n"
    "<|user|>\nq2<|end|>\n<|assistant|>\na2<|end|>\n",
    "llama2": "<s>[INST] q1 [/INST] a1 </s><s>[INST] q2 [/INST] a2 </s>",
    "mistral": "<s>[INST] q1 [/INST] a1</s>[INST] q2 [/INST] a2</s>",
}
PROMPT_WITH_SYSTEM = {
    "alpaca": "sys\n\n### Instruction:\nq1\n\n### Response:\n",
    "vicuna": "sys USER: q1 ASSISTANT:",
    "human_assistant": "sys\n### Human: q1\n### Assistant:",
    "zephyr": "<|system|>\nsys</s>\n<|user|>\nq1</s>\n<|assistant|>\n",
    "chatml": "<|im_start|>system\nsys<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n"
    "<|im_start|>assistant\n",
    "phi3": "<|system|>\nsys<|end|>\n<|user|>\nq1<|end|>\n<|assistant|>\n",
    "llama2": "<s>[INST] <<SYS>>\nsys\n<</SYS>>\n\nq1 [/INST]",
    "mistral": "<s>[INST] sys\n\nq1 [/INST]",
}
EXACT_AT_LEAST = 16  # scenarios of 27; the others hold tools or roles that no style shows


def llama_like() -> PreTrainedTokenizerBase:
    """Return a tokenizer with the bos and eos tokens that most styles were made with."""
    tokenizer = small_tokenizers.sentencepiece()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    return tokenizer


def demo(name: str) -> PreTrainedTokenizerBase:
    """Return the embedded tokenizer; a style's own stop token is one of its tokens."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    if (stop := stop_token_of(name)) and stop in missing_tokens(tokenizer, name):
        tokenizer.add_tokens(list(missing_tokens(tokenizer, name)), special_tokens=True)
    return tokenizer


def rendered(name: str, messages: list[Message], *, prompt: bool = False, **options: Any) -> str:
    text: Any = llama_like().apply_chat_template(
        messages,
        chat_template=style_template(name, **options),
        tokenize=False,
        add_generation_prompt=prompt,
    )
    return str(text)


def test_the_expectations_are_of_every_style() -> None:
    assert set(STYLES) == set(WITHOUT_SYSTEM)
    assert set(STYLES) - set(PROMPT_WITH_SYSTEM) == {"phi"}
    assert all(map(is_style, STYLES))
    assert not is_style("Alpaca")


@pytest.mark.parametrize("name", STYLES)
def test_two_turns_are_the_documented_text(name: str) -> None:
    assert rendered(name, TURNS) == WITHOUT_SYSTEM[name]


@pytest.mark.parametrize("name", sorted(PROMPT_WITH_SYSTEM))
def test_a_system_message_stands_where_the_format_has_it(name: str) -> None:
    assert rendered(name, [system("sys"), user("q1")], prompt=True) == PROMPT_WITH_SYSTEM[name]
    whole = rendered(name, [system("sys"), *TURNS])
    assert whole.startswith(PROMPT_WITH_SYSTEM[name])
    assert whole.endswith(WITHOUT_SYSTEM[name][WITHOUT_SYSTEM[name].index("a1") :])


def test_alpaca_tells_an_input_by_its_separator() -> None:
    content = "q1" + input_separator("alpaca") + "in1"
    assert rendered("alpaca", [user(content)], prompt=True) == (
        f"{PREAMBLE_WITH_INPUT}\n\n### Instruction:\nq1\n\n### Input:\nin1\n\n### Response:\n"
    )


@pytest.mark.parametrize("name", STYLES)
def test_every_style_is_exact(name: str) -> None:
    tokenizer = demo(name)
    stop = stop_token_of(name)
    template = style_template(name, tokenizer=tokenizer)
    encoder = Encoder(tokenizer, chat_template=template, stop_tokens=[stop] if stop else [])
    cases = {s.name: check(encoder, s.messages, s.tools) for s in SCENARIOS}
    statuses = Counter(case.status for case in cases.values())
    assert set(statuses) <= {"exact", "raises", "no completion"}, cases
    assert statuses["exact"] >= EXACT_AT_LEAST, cases
    for scenario in ("plain", "many-turns", "trailing-space", "emoji-ends", "content-parts"):
        assert cases[scenario].status == "exact", cases[scenario]
    assert not any("no_stop_token" in case.findings for case in cases.values())


@pytest.mark.parametrize("name", STYLES)
def test_the_stop_is_trained_in_every_turn(name: str) -> None:
    tokenizer = demo(name)
    end = stop_token_of(name)
    encoder = Encoder(
        tokenizer, chat_template=style_template(name), stop_tokens=[end] if end else []
    )
    [example] = encoder.encode(TURNS)
    stop = end or tokenizer.eos_token
    space = "" if example.text[example.spans[0].start] == "a" else " "
    after = " " if name == "llama2" else ""
    expected = [f"{space}a1{after}{stop}", f"{space}a2{after}{stop}"]
    assert example.supervised_text == expected


@pytest.mark.parametrize("name", STYLES)
def test_bos_and_eos_can_be_added_and_left_out(name: str) -> None:
    as_format = WITHOUT_SYSTEM[name]
    bare = as_format.replace("<s>", "").replace("</s>", "")
    assert rendered(name, TURNS, bos=False) == as_format.replace("<s>", "")
    with_bos = rendered(name, TURNS, bos=True)
    assert with_bos == (as_format if as_format.startswith("<s>") else "<s>" + as_format)
    without = rendered(name, TURNS, bos=False, eos=False)
    assert without == (
        bare.replace("a1", "a1\n").replace("a2", "a2\n") if name == "vicuna" else bare
    )
    assert rendered(name, TURNS, eos=True).count("</s>") == (4 if name == "zephyr" else 2)


@corpus.needs_corpus
@pytest.mark.parametrize(
    ("name", "published", "options"),
    [
        ("zephyr", "hfjs__HuggingFaceH4-zephyr-7b-beta-add-generation-prompt-false.jinja", {}),
        ("chatml", "axolotl__chatml.jinja", {}),
        ("phi3", "axolotl__phi_3.jinja", {"bos": True}),
        ("llama2", "mistralrs__llama2.jinja", {}),
    ],
)
def test_published_templates_of_a_style_write_the_same(
    name: str, published: str, options: dict[str, Any]
) -> None:
    for messages in (TURNS, [system("sys"), *TURNS]):
        for count, prompt in ((len(messages), False), (len(messages) - 1, True)):
            expected = llama_like().apply_chat_template(
                messages[:count],
                chat_template=corpus.template_source(published),
                tokenize=False,
                add_generation_prompt=prompt,
            )
            assert rendered(name, messages[:count], prompt=prompt, **options) == expected


def test_template_variables_overrule_what_is_written_in() -> None:
    text = llama_like().apply_chat_template(
        TURNS[:2],
        chat_template=style_template("phi", bos=True, eos=True),
        tokenize=False,
        add_bos=False,
        add_eos=False,
    )
    assert text == "Instruct: q1\nOutput: a1\n"


def test_chatml_does_not_double_a_stop_that_is_the_eos_token() -> None:
    text = demo("chatml").apply_chat_template(
        TURNS[:2], chat_template=style_template("chatml", eos=True), tokenize=False
    )
    assert text == WITHOUT_SYSTEM["chatml"][: len(text)]


def test_the_bos_token_is_written_where_the_tokenizer_puts_it() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = llama_like()
    assert not puts_bos(tokenizer)
    assert not puts_bos(demo("alpaca"))
    bos = ("<s>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[bos]
    )
    assert puts_bos(tokenizer)
    text: Any = tokenizer.apply_chat_template(
        TURNS[:1], chat_template=style_template("phi", tokenizer=tokenizer), tokenize=False
    )
    assert text == "<s>Instruct: q1\n"


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([user("q"), {"role": "tool", "content": "r"}], {}, "shows no messages of the role tool"),
        ([user("q"), assistant("a"), system("s")], {}, "shows (a system message only|no messages)"),
        ([user("q"), assistant("a", tool_calls=[{"name": "f"}])], {}, "shows no tool calls"),
        ([user("q")], {"tools": [{"type": "function"}]}, "shows no tools"),
        ([user([{"type": "image"}])], {}, "shows text only, not a part of the type image"),
        ([user("q"), assistant(None)], {}, "needs a content in every message"),
    ],
)
def test_what_a_style_cannot_show_is_refused(
    name: str, messages: list[Message], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TemplateError, match=f"the style {name} {message}"):
        llama_like().apply_chat_template(
            messages, chat_template=style_template(name), tokenize=False, **options
        )


@pytest.mark.parametrize("name", ["llama2", "mistral"])
@pytest.mark.parametrize(
    "messages",
    [[user("a"), user("b")], [user("a"), assistant("b"), assistant("c")], [assistant("a")]],
)
def test_styles_of_brackets_need_turns_that_alternate(name: str, messages: list[Message]) -> None:
    with pytest.raises(TemplateError, match=f"the style {name} needs"):
        rendered(name, messages)


def test_phi_has_no_system_message() -> None:
    with pytest.raises(TemplateError, match="style phi shows no messages of the role system; it"):
        rendered("phi", [system("s"), user("q")])


def test_a_tokenizer_without_eos_token_is_refused() -> None:
    tokenizer = llama_like()
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="alpaca ends answers with the eos token"):
        tokenizer.apply_chat_template(TURNS, chat_template=style_template("alpaca"), tokenize=False)


@pytest.mark.parametrize(
    "call", [style_template, input_separator, special_tokens_of, stop_token_of]
)
def test_an_unknown_style_names_the_nearest(call: Any) -> None:
    with pytest.raises(PolicyError, match="there is no style 'alpacca'; did you mean 'alpaca'"):
        call("alpacca")


def test_the_cost_of_headers_as_tokens_is_measured() -> None:
    tokenizer = small_tokenizers.byte_level()  # a token per byte
    cost = cost_of(tokenizer, "human_assistant")
    assert (
        cost.new_tokens == ("### Human:", "### Assistant:") == special_tokens_of("human_assistant")
    )
    assert cost.new_rows == 2
    assert cost.tokens_per_exchange == len("### Human: \n### Assistant: \n") + 1
    assert cost.tokens_per_exchange_after == len("H \nA \n") + 1
    assert cost.saved_per_exchange == len("### Human:### Assistant:") - 2
    assert missing_tokens(tokenizer, "human_assistant") == cost.new_tokens
    assert len(tokenizer) == 257


def test_headers_that_are_tokens_cost_nothing() -> None:
    cost = cost_of(AutoTokenizer.from_pretrained(DEMO_MODEL), "chatml")
    assert (cost.new_tokens, cost.new_rows, cost.saved_per_exchange) == ((), 0, 0)


@pytest.mark.parametrize("name", ["human_assistant", "alpaca", "vicuna"])
def test_with_headers_as_tokens_a_style_is_exact_too(name: str) -> None:
    tokenizer = demo(name)
    tokenizer.add_tokens(list(special_tokens_of(name)), special_tokens=True)
    encoder = Encoder(tokenizer, chat_template=style_template(name))
    for scenario in SCENARIOS[:3]:
        assert check(encoder, scenario.messages).status == "exact", scenario.name
