"""Whatever conversation and template: what inference would have, or a refusal."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from transformers import AutoTokenizer

from lossmask import Encoder, Example
from lossmask.embedded import DEMO_MODEL
from tests import corpus
from tests.control_token_parity import Attack, Encoders, check_allowed, check_escaped, encoders
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.parity_details import check_closely
from tests.properties.conversations import (
    Row,
    Strategies,
    literals,
    malformed_rows,
    masked,
    texts,
)

CASES = 100_000  # of the slow run
SAMPLED = 60  # published templates, one per cluster of near-duplicates
TOGETHER = 5  # templates that see each drawn row: drawing one costs as much as checking it

FEW = settings(
    max_examples=40,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),  # rows are large on purpose
)
MANY = settings(FEW, max_examples=CASES // SAMPLED + 1, phases=[Phase.generate, Phase.shrink])
STRATEGIES = Strategies(texts())
CONTROL_TOKENS = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")  # of the embedded tokenizer


def _own() -> dict[str, Encoder]:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return {
        name: Encoder(tokenizer, chat_template=template)
        for name, template in FIXTURE_TEMPLATES.items()
    }


def _sampled() -> list[str]:
    """Return the first template of every n-th cluster."""
    first: dict[Any, str] = {}
    for name in corpus.template_names():
        first.setdefault(corpus.template_manifest()[name]["cluster"], name)
    names = [first[cluster] for cluster in sorted(first)]
    return [names[number * len(names) // SAMPLED] for number in range(SAMPLED)] if names else []


def _published(names: list[str]) -> dict[str, Encoder]:
    return {
        name: Encoder(corpus.tokenizer_for(name), chat_template=corpus.template_source(name))
        for name in names
    }


def _check(encoders: dict[str, Encoder], row: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, encoder in encoders.items():
        case = check_closely(encoder, row["messages"], row["tools"])
        assert case.status != "wrong", f"{name}: {case.detail}"
        found[case.status] += 1
        if case.status == "raises":  # transformers cannot render it: nor may we
            assert encoder.encode_row(row).rejection is not None, name
    return found


def _check_all(encoders: dict[str, Encoder], amount: settings, part: int = 0) -> Counter[str]:
    """Check drawn rows, in which there are literals of the templates; other rows for each part."""
    found: Counter[str] = Counter()

    @seed(part)
    @amount
    @given(Strategies(texts(_literals(encoders))).rows)
    def every_row(row: Any) -> None:
        found.update(_check(encoders, row))

    every_row()
    return found


def _literals(encoders: dict[str, Encoder]) -> list[str]:
    """Return what the templates write, but for what a tokenizer makes a control token of."""
    control = {
        str(token)
        for encoder in encoders.values()
        for token in encoder.tokenizer.added_tokens_decoder.values()
    }
    found = {text for encoder in encoders.values() for text in literals(encoder.chat_template())}
    return sorted(text for text in found if not any(token in text for token in control))


def test_own_templates() -> None:
    found = _check_all(_own(), FEW)
    assert sum(found.values()) >= 40 * len(FIXTURE_TEMPLATES)
    assert found["exact"] > found["refused"] + found["no completion"]


@corpus.needs_corpus
def test_a_few_published_templates() -> None:
    found = _check_all(_published(_sampled()[::12]), FEW)
    assert found["exact"] > found["refused"] + found["no completion"]


@pytest.mark.slow
@corpus.needs_corpus
@pytest.mark.parametrize("part", range(SAMPLED // TOGETHER))
def test_a_hundred_thousand_cases(part: int) -> None:
    names = _sampled()[part :: SAMPLED // TOGETHER]
    assert len(names) == TOGETHER
    found = _check_all(_published(names), MANY, part)
    assert sum(found.values()) * (SAMPLED // TOGETHER) >= CASES
    print(names, dict(found))


@settings(FEW, max_examples=150)
@given(malformed_rows(STRATEGIES))
def test_encode_row_never_raises(row: Any) -> None:
    outcomes = ENCODER.encode_batch([row, row])
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert bool(outcome.examples) != (outcome.rejection is not None)


@settings(FEW, max_examples=40)
@given(STRATEGIES.rows)
def test_a_row_is_encoded_alike_each_time(row: Row) -> None:
    first, second = ENCODER.encode_row(row), ENCODER.encode_row(row)
    assert first.rejection == second.rejection
    for one, other in zip(first.examples, second.examples, strict=True):
        assert _contents(one) == _contents(other)


@settings(FEW, max_examples=60)
@given(STRATEGIES.rows)
def test_escaping_changes_nothing_where_there_is_nothing_to_escape(row: Any) -> None:
    plain, escaped = ENCODER.encode_row(row), POLICIES.escape.encode_row(row)
    if plain.rejection is not None and plain.rejection.reason == "control_token_in_content":
        return
    assert (plain.rejection is None) == (escaped.rejection is None)
    for one, other in zip(plain.examples, escaped.examples, strict=True):
        assert _contents(one) == _contents(other)


@settings(FEW, max_examples=60)
@given(Strategies(texts(control_tokens=CONTROL_TOKENS)).rows)
def test_control_tokens_are_escaped_or_allowed(row: Row) -> None:
    messages, tools = row["messages"], row["tools"]
    everywhere = tuple(range(len(messages)))
    harmless = masked(messages, CONTROL_TOKENS)
    attack = Attack("drawn", messages, harmless, everywhere, masked(tools, CONTROL_TOKENS))
    assert check_escaped(POLICIES, attack).status != "wrong"
    assert check_allowed(POLICIES, attack).status != "wrong"


def _contents(example: Example) -> tuple[Any, ...]:
    arrays = (example.input_ids, example.offsets, example.loss_weights, example.message_index)
    lists = [array.tolist() for array in arrays]
    return (example.text, *lists, example.spans, example.findings)


ENCODER = Encoder.from_pretrained(DEMO_MODEL)
POLICIES: Encoders = encoders(ENCODER.tokenizer, ENCODER.chat_template())
