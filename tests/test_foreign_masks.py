"""The masks of transformers and TRL are theirs: called, not rebuilt, refused in their words."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from datasets import Dataset, disable_progress_bars, enable_progress_bars

from lossmask import Encoder, Outcome, PolicyError, foreign_masks
from lossmask.embedded import DEMO_MODEL
from lossmask.foreign_masks import (
    ForeignEncoder,
    ForeignSource,
    OneByOne,
    Tool,
    name_of,
    tool_named,
)
from lossmask.preparing import EncoderSource
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import assistant, user

TAGS = FIXTURE_TEMPLATES["generation tags and end of text after the last turn"]
ROW = {"messages": [user("Hi"), assistant("Yes")]}


def encoder_of(tool: Tool, template: str | None = None, **more: Any) -> ForeignEncoder:
    encoder = Encoder.from_pretrained(DEMO_MODEL, chat_template=template)
    return ForeignEncoder(encoder, tool, sets_template=template is not None, **more)


def trained(outcome: Outcome) -> tuple[str, str]:
    """Return the text of the only example, and what of it is in the loss."""
    assert outcome.rejection is None, outcome.rejection
    [example] = outcome.examples
    pairs = zip(example.offsets.tolist(), example.loss_weights.tolist(), strict=True)
    return example.text, "".join(example.text[s:e] for (s, e), weight in pairs if weight)


def reason(outcome: Outcome) -> tuple[str, str]:
    assert outcome.rejection is not None
    return outcome.rejection.reason, outcome.rejection.detail


def test_transformers_marks_nothing_without_tags() -> None:
    text, marked = trained(encoder_of("transformers").encode_row(ROW))
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    assert marked == ""


def test_transformers_marks_what_lies_between_tags() -> None:
    text, marked = trained(encoder_of("transformers", TAGS).encode_row(ROW))
    assert text.endswith("assistant\nYes<|im_end|><|endoftext|>")
    assert marked == "Yes<|im_end|>"


def test_transformers_is_given_messages_of_any_layout_without_keys_for_training() -> None:
    template = "{% for m in messages %}{{ m.keys() | join(',') }};{% endfor %}"
    row = {"conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}]}
    tool = encoder_of("transformers", template)
    assert trained(tool.encode_row(row))[0] == "role,content;role,content;"
    weighted = {"messages": [{**each, "weight": 1} for each in ROW["messages"]]}
    assert trained(tool.encode_row(weighted))[0] == "role,content;role,content;"
    assert reason(tool.encode_row({"text": "A"})) == (
        "transformers_takes_messages",
        "apply_chat_template takes messages, and this row holds none",
    )


def test_variables_of_the_template_reach_both() -> None:
    template = "{{ mood }}{% generation %}{{ messages[-1].content }}{% endgeneration %}"
    tools: tuple[Tool, ...] = ("transformers", "trl")
    for tool in tools:
        found = encoder_of(tool, template, template_variables={"mood": "glad"})
        assert trained(found.encode_row(ROW)) == ("gladYes", "Yes")


def test_what_a_tool_raises_rejects_the_row_in_its_words() -> None:
    broken = encoder_of("transformers", "{{ raise_exception('no tools here') }}")
    assert reason(broken.encode_row(ROW)) == (
        "transformers_raises",
        "TemplateError: no tools here",
    )
    kind, detail = reason(encoder_of("trl").encode_row(ROW))
    assert kind == "trl_raises"
    assert detail.startswith("ValueError: The chat template is not training-compatible")


def test_trl_trains_what_lies_between_tags_and_everything_by_default() -> None:
    text, marked = trained(encoder_of("trl", TAGS).encode_row(ROW))
    assert marked == "Yes<|im_end|>"
    assert trained(encoder_of("trl-default", TAGS).encode_row(ROW)) == (text, text)


def test_trl_reads_rows_as_they_are_and_each_by_itself() -> None:
    tool = encoder_of("trl", TAGS)
    pair = {"prompt": "Say: ", "completion": "yes"}
    assert trained(tool.encode_row(pair)) == ("Say: yes<|im_end|>", " yes<|im_end|>")
    assert trained(tool.encode_row({"text": "Say"})) == ("Say<|im_end|>", "Say<|im_end|>")
    talk = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]}
    _, detail = reason(tool.encode_row(talk))
    assert "`assistant_only_loss=True`, but the dataset is not conversational" in detail
    assert trained(tool.encode_row(ROW))[1] == "Yes<|im_end|>"
    by_default = encoder_of("trl-default", TAGS)
    assert reason(by_default.encode_row(talk))[1] == "KeyError: 'text'"  # it keeps role `human`


def test_trl_makes_the_same_of_a_data_set_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [
        ROW,
        {"prompt": "Say: ", "completion": "yes"},
        {"text": "Say"},
    ]
    found = [trained(encoder_of("trl", TAGS).encode_row(row)) for row in rows]
    disable_progress_bars()
    monkeypatch.setattr(foreign_masks, "_data_set", lambda row: Dataset.from_list([dict(row)]))
    assert [trained(encoder_of("trl", TAGS).encode_row(row)) for row in rows] == found
    enable_progress_bars()


def test_trl_by_default_cuts_rows_at_1024_tokens_and_drops_what_has_no_label_left() -> None:
    long = "x " * 600
    by_default = encoder_of("trl-default", TAGS)
    outcome = by_default.encode_row({"messages": [user(long), assistant("Yes")]})
    [example] = outcome.examples
    assert len(example) == 1024
    pair = {"prompt": [user(long)], "completion": [assistant("Yes")]}
    assert reason(by_default.encode_row(pair)) == (
        "trl_drops",
        "TRL drops the row: no label is left in its first 1024 tokens (SFTConfig.max_length)",
    )
    whole = encoder_of("trl", TAGS).encode_row(pair)
    assert trained(whole)[1] == "Yes<|im_end|>"


def test_rows_are_encoded_one_by_one() -> None:
    batches = encoder_of("transformers").row_batches
    assert isinstance(batches, OneByOne)
    assert batches.lay_out(ROW) is None  # type: ignore[func-returns-value]
    batches.expect_many()
    batches.check_backend()
    with pytest.raises(AssertionError, match="no row is laid out"):
        batches.tokenize([])


def test_a_source_makes_the_encoder_with_the_template_it_names() -> None:
    source = EncoderSource(str(DEMO_MODEL), chat_template=TAGS)
    found = ForeignSource(source, "transformers").load()
    assert trained(found.encode_row(ROW))[1] == "Yes<|im_end|>"


def test_a_tool_has_a_name_and_a_version() -> None:
    assert tool_named("trl-default") == "trl-default"
    assert name_of("transformers").startswith("transformers 5.")
    assert name_of("trl").startswith("TRL 1.")
    with pytest.raises(PolicyError, match="--against 'tlr'; did you mean 'trl'"):
        tool_named("tlr")


def test_trl_that_is_not_installed_is_an_error_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(PolicyError, match=r'pip install "trl>=1\.16" torch') as info:
        name_of("trl")
    assert info.value.reason == "missing_extra"
    with pytest.raises(PolicyError, match="TRL, which is not installed"):
        encoder_of("trl")
