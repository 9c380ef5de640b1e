"""Rows of text and ids under the encoder; conversations have tests of their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, Example, Policy, TemplateError
from lossmask.embedded import DEMO_MODEL
from lossmask.layout import Layout
from tests.scenarios import assistant, user


@pytest.fixture(scope="module")
def bare() -> PreTrainedTokenizerBase:
    tokenizer = copy.deepcopy(AutoTokenizer.from_pretrained(DEMO_MODEL))
    tokenizer.chat_template = None
    return tokenizer


def encode(row: Any, policy: Policy | None = None, layout: Layout | None = None) -> Example:
    encoder = Encoder.from_pretrained(DEMO_MODEL, policy, layout=layout)
    outcome = encoder.encode_row(row)
    assert outcome.rejection is None, outcome.rejection
    [example] = outcome.examples
    return example


def rejection(row: Any, layout: Layout | None = None) -> tuple[str, str]:
    encoder = Encoder.from_pretrained(DEMO_MODEL, layout=layout)
    outcome = encoder.encode_row(row)
    assert outcome.rejection is not None
    return outcome.rejection.reason, outcome.rejection.detail


def test_a_completion_ends_with_a_stop_token() -> None:
    row = {"prompt": "1+1=", "completion": " 2", "weight": 0.5}
    example = encode(row)
    assert example.supervised_text == [" 2<|im_end|>"]
    assert example.loss_weights[example.loss_mask].tolist() == [0.5] * example.supervised_count
    assert [finding.kind for finding in example.findings] == ["stop_appended"]
    never = encode(row, Policy(append_stop="never"))
    assert never.supervised_text == [" 2"]
    assert [finding.kind for finding in never.findings] == ["no_stop_token"]
    own = encode({"prompt": "1+1=", "completion": " 2<|im_end|>"})
    assert own.supervised_text == [" 2<|im_end|>"]
    assert own.findings == ()


def test_markers_cut_text() -> None:
    text = "### Human: Q0\n### Assistant: A1<|im_end|>\n### Human: Q2\n### Assistant: A3"
    markers = Layout(response_template="### Assistant:", instruction_template="### Human:")
    assert encode({"text": text}, layout=markers).supervised_text == [
        " A1<|im_end|>\n",
        " A3<|im_end|>",
    ]
    assert rejection({"text": "no marker"}, markers)[0] == "marker_absent"


def test_ids_are_taken_as_they_are() -> None:
    encoder = Encoder.from_pretrained(DEMO_MODEL)
    [made] = encoder.encode([user("Q"), assistant("A.", weight=0.5)])
    row = {
        "input_ids": made.input_ids.tolist(),
        "labels": made.labels.tolist(),
        "loss_weights": made.loss_weights.tolist(),
    }
    example = encode(row)
    assert example.input_ids.tolist() == made.input_ids.tolist()
    assert example.labels.tolist() == made.labels.tolist()
    assert example.loss_weights.tolist() == made.loss_weights.tolist()
    assert example.supervised_text == ["A.<|im_end|>"]
    assert [span.stop for span in example.spans] == ["<|im_end|>"]
    assert encode(row | {"weight": 4}).loss_weights.max() == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input_ids": []}, "nothing_to_train"),
        ({"input_ids": [5, 6], "labels": [5, -100]}, "nothing_to_train"),  # nothing predicts it
        ({"input_ids": [5, 10**6]}, "bad_ids"),
        ({"text": "<|im_end|>"}, "nothing_to_train"),  # nothing predicts its one token
        ({"text": ""}, "nothing_to_train"),
        ({"prompt": "a", "completion": ""}, "nothing_to_train"),
        ({"prompt": "a\ud83d", "completion": "b"}, "lone_surrogate"),
    ],
)
def test_rows_without_anything_to_train_are_rejected(row: Any, reason: str) -> None:
    assert rejection(row)[0] == reason


def test_text_and_ids_need_no_chat_template(bare: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TemplateError, match="has no chat template"):
        Encoder(bare)
    encoder = Encoder(bare, layout=Layout(format="prompt_completion"))
    assert encoder.encode_row({"prompt": "a", "completion": " b"}).rejection is None
    chat = [{"role": "user", "content": "a"}]
    answer = [{"role": "assistant", "content": "b"}]
    outcome = encoder.encode_row({"prompt": chat, "completion": answer})
    assert outcome.rejection is not None
    assert outcome.rejection.reason == "no_chat_template"
    assert len(encoder.fingerprint()) == 64


def test_tokens_to_ignore_count_in_text_too() -> None:
    example = encode({"prompt": "no", "completion": " yes no"}, Policy(ignore=("no",)))
    assert example.ignorable is not None
    [token] = example.offsets[example.ignorable].tolist()
    assert example.text[token[0] : token[1]] == " no"
    assert example.loss_mask[example.ignorable].all()


def test_a_style_brings_its_separator_and_its_stop_token(bare: PreTrainedTokenizerBase) -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    [example] = Encoder(bare, chat_template="alpaca").encode_row(row).examples
    assert "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n" in example.text
    assert example.supervised_text == ["3<|im_end|>"]
    [example] = Encoder(bare, chat_template="chatml").encode_row(row).examples
    assert "Add.\n\n1 2<|im_end|>" in example.text
    assert example.supervised_text == ["3<|im_end|>"]
