"""Rows encoded many at a time have the outcomes of rows encoded one by one."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, ParityError, Policy, pipeline
from lossmask.embedded import DEMO_MODEL
from lossmask.fit import Fit
from lossmask.row_batches import BATCH_SIZE
from tests import corpus, small_tokenizers
from tests.both_ways import FIRST, check_both_ways, ready
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import Scenario, assistant, scenarios_of, user

LAID_OUT = {  # by template, of the scenarios: how many are encoded many at a time
    "chatml with tools": 17,
    "thinking opened by the generation prompt": 0,
    "reasoning kept after the last user turn only": 8,
    "header written with the user turn": 15,
    "instruction brackets, system in the first user turn": 0,
    "macro and set block": 8,
    "system kept only while a user speaks last": 15,
    "generation tags and end of text after the last turn": 0,
    "plain text, one newline between": 0,
}
CHATML = "llamacpp__Qwen-Qwen2.5-7B-Instruct.jinja"
ROW = {"messages": [user("q"), assistant("a")]}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def row_of(scenario: Scenario) -> dict[str, Any]:
    row: dict[str, Any] = {"messages": scenario.messages}
    return row if scenario.tools is None else row | {"tools": scenario.tools}


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_scenarios_have_the_same_outcome_both_ways(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    source = FIXTURE_TEMPLATES[name]
    encoder = ready(Encoder(tokenizer, chat_template=source, fast=False))
    rows = [row_of(scenario) for scenario in scenarios_of(source)]
    taken = check_both_ways(encoder, rows)
    assert taken >= LAID_OUT[name]
    assert bool(taken) == bool(LAID_OUT[name])


@pytest.mark.parametrize(
    "options",
    [
        {"policy": Policy(train_on="last_assistant")},
        {"policy": Policy(train_on="last_turn")},
        {"policy": Policy(control_tokens="escape")},
        {"policy": Policy(control_tokens="allow")},
        {"policy": Policy(history="error", boundary="error")},
        {"fit": Fit(max_length=60)},
        {"fit": Fit(max_length=60, truncation="keep_end")},
        {"fit": Fit(max_length=60, truncation="drop_turns")},
        {"stop_tokens": ["."]},
        {"template_variables": {"enable_thinking": False}},
        {"fast": True},
    ],
    ids=str,
)
def test_scenarios_have_the_same_outcome_under_every_option(
    tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]
) -> None:
    source = FIXTURE_TEMPLATES["chatml with tools"]
    encoder = ready(Encoder(tokenizer, chat_template=source, **{"fast": False, **options}))
    rows = [row_of(scenario) for scenario in scenarios_of(source)] * (2 if "fast" in options else 1)
    assert check_both_ways(encoder, rows) > 3


def _published(templates: list[str], tokenizers: list[str]) -> int:
    taken = 0
    for template in templates:
        source = corpus.template_source(template)
        of_template = corpus.tokenizer_for(template)
        for own in [of_template, *(corpus.fitted(name, "chatml")[0] for name in tokenizers)]:
            encoder = ready(Encoder(own, chat_template=source, fast=False))
            rows = [row_of(scenario) for scenario in scenarios_of(source)]
            rows += corpus.rows("synthetic-edge-dev")
            taken += check_both_ways(encoder, rows)
    return taken


@corpus.needs_corpus
def test_a_published_template_has_the_same_outcome_both_ways() -> None:
    assert _published([CHATML], []) > 10


@corpus.needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_published_templates_have_the_same_outcome_both_ways(part: int) -> None:
    names = [CHATML, *corpus.template_names()[part * 4 :: 30]]
    assert _published(names, ["qwen3", "gpt2"]) > 0


@corpus.needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("name", corpus.tokenizer_names())
def test_tokenizers_have_the_same_outcome_both_ways(name: str) -> None:
    tokenizer, template = corpus.fitted(name, "chatml")
    encoder = ready(Encoder(tokenizer, chat_template=corpus.template_source(template)))
    rows = [row_of(scenario) for scenario in scenarios_of(encoder.chat_template())] * 2
    check_both_ways(encoder, rows)


def test_rows_keep_their_order_across_batches(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = ready(Encoder(tokenizer, fast=False))
    rows: list[dict[str, Any]] = [
        {"messages": [user(f"q{number}"), assistant(f"a{number}")]}
        if number % 7
        else {"messages": [user(f"q{number}")]}
        for number in range(BATCH_SIZE + 5)
    ]
    outcomes = encoder.encode_batch(iter(rows))
    assert len(outcomes) == len(rows)
    for number, outcome in enumerate(outcomes):
        if number % 7:
            assert outcome.examples[0].supervised_text == [f"a{number}<|im_end|>"]
        else:
            assert outcome.rejection is not None
            assert outcome.rejection.reason == "no_assistant"


def test_a_template_that_is_not_trusted_is_refused_both_ways(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distrust(*_: Any) -> None:
        raise ParityError("not to be trusted", reason="derivations_disagree")

    monkeypatch.setattr(pipeline, "prove_once", distrust)
    encoder = ready(Encoder(tokenizer, fast=False))
    assert check_both_ways(encoder, [ROW, ROW]) == 0
    for outcome in encoder.encode_batch([ROW, ROW]):
        assert outcome.rejection is not None
        assert outcome.rejection.reason == "derivations_disagree"


def test_no_rows_have_no_outcomes(tokenizer: PreTrainedTokenizerBase) -> None:
    assert Encoder(tokenizer).encode_batch([]) == []


@pytest.mark.parametrize(
    "other",
    [
        small_tokenizers.sentencepiece("▁ a"),
        small_tokenizers.unigram("▁a"),
        small_tokenizers.wordpiece("a"),
        small_tokenizers.clip_like(),
    ],
    ids=["sentencepiece", "unigram", "wordpiece", "clip"],
)
def test_tokenizers_that_look_beyond_added_tokens_go_the_whole_way(
    other: PreTrainedTokenizerBase,
) -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    encoder = ready(Encoder(other, chat_template=source))
    assert encoder.row_batches.lay_out(ROW) is None
    assert check_both_ways(encoder, [ROW, FIRST]) == 0
