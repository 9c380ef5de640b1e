"""What the tokenizer makes of a rendering is told: control tokens, bos, counts, the fast way."""

from __future__ import annotations

import copy

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from lossmask import Encoder
from lossmask.doctor import diagnose
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from tests.doctor_templates import CONTENT, PROMPT, SOUND, changed, fact, kinds, verdicts


def with_bos(*, adds_bos: bool, adds_eos: bool = False) -> PreTrainedTokenizerBase:
    tokenizer = copy.deepcopy(load_tokenizer(DEMO_MODEL))
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    pieces = ["<|im_start|>"] * adds_bos + ["$A"] + ["<|im_end|>"] * adds_eos
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join(pieces),
        special_tokens=[
            (t, tokenizer.convert_tokens_to_ids(t)) for t in ("<|im_start|>", "<|im_end|>")
        ],
    )
    return tokenizer


@pytest.mark.parametrize(
    ("template", "adds", "expected"),
    [
        (SOUND, (True, False), {"bos_doubled": "warning"}),
        (SOUND, (False, False), {"bos_once": "ok"}),
        ("Hello. " + SOUND, (True, False), {"bos_not_in_template": "note"}),
        ("Hello. " + SOUND, (False, False), {"no_bos": "ok"}),
        (SOUND, (False, True), {"bos_once": "ok", "eos_added": "note"}),
    ],
)
def test_who_writes_the_first_token_is_told(
    template: str, adds: tuple[bool, bool], expected: dict[str, str]
) -> None:
    tokenizer = with_bos(adds_bos=adds[0], adds_eos=adds[1])
    found = verdicts(diagnose(Encoder(tokenizer, chat_template=template), topics=["tokens"]))
    found.pop("injection")
    assert found == expected


def test_control_tokens_that_can_be_typed_are_named() -> None:
    found = fact(SOUND, "tokens", "injection")
    assert found.values[:2] == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>" in found.evidence[0].excerpt.removeprefix("<|im_start|>user")


def test_a_template_that_takes_control_tokens_out_is_told() -> None:
    template = changed(CONTENT, "{{ m.content.replace('<|', '< |') }}")
    assert kinds(template, "tokens")["injection_blocked"] == "ok"


def test_the_cost_of_an_exchange_is_counted_in_tokens() -> None:
    tokenizer = load_tokenizer(DEMO_MODEL)
    frame = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
    count = len(tokenizer(frame, add_special_tokens=False)["input_ids"])
    assert fact(SOUND, "cost", "overhead").values == (str(count), str(count))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (changed(CONTENT, "{{ m.content }}{{ '' if m.content | wordcount > 9 }}"),
         "looks at contents in a way"),
        (SOUND.replace(PROMPT, PROMPT.replace("assistant\n", "assistant\n<think>")),
         "the generation prompt opens a think block"),
        (changed(CONTENT, "{{ m.content }}{{ m.content }}"), "a turn is not its prompt"),
    ],
)  # fmt: skip
def test_why_plain_conversations_do_not_go_the_fast_way_is_told(template: str, why: str) -> None:
    for fast in (SOUND, "{% if messages | length > 9 %}x{% endif %}" + SOUND):
        assert kinds(fast, "cost")["fast"] == "ok"
    assert why in fact(template, "cost", "not_fast").sentence
