"""The parity matrix: nothing wrong anywhere, and how much of it is exact."""

from __future__ import annotations

from collections import Counter

import pytest
from transformers import AutoTokenizer

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from tests import corpus
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.parity import Case, Oracle, Wrong, check
from tests.scenarios import SCENARIOS, Scenario, assistant, user

EVERY = 12  # every n-th corpus template; benchmarks/parity.py takes all


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_own_templates_are_exact_or_refused(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    encoder = Encoder(tokenizer, chat_template=FIXTURE_TEMPLATES[name])
    cases = {s.name: check(encoder, s.messages, s.tools) for s in SCENARIOS}
    assert not _wrong(cases)
    status = Counter(case.status for case in cases.values())
    assert status["exact"] >= 0.75 * (len(cases) - status["raises"]), cases


@corpus.needs_corpus
@pytest.mark.parametrize("template", corpus.template_names()[::EVERY])
def test_published_templates_are_exact_or_refused(template: str) -> None:
    assert not _wrong(_cases(template))


@corpus.needs_corpus
@pytest.mark.parametrize("name", corpus.dataset_names())
def test_real_conversations_are_exact(name: str) -> None:
    template = "minimind__model.jinja"
    encoder = Encoder(
        corpus.tokenizer_for(template), chat_template=corpus.template_source(template)
    )
    cases = {
        row["id"]: check(encoder, row["messages"], row.get("tools"))
        for row in corpus.rows(name, limit=5)
    }
    assert not _wrong(cases)


def test_the_oracle_notices_a_mask_that_is_one_token_off() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    encoder = Encoder(tokenizer)
    messages = [user("Q0 a?"), assistant("A1 b.")]
    [example] = encoder.encode(messages)
    oracle = Oracle(encoder, messages, None)
    oracle.check_examples([example], oracle.render(2, prompt=False))
    span = example.spans[0]
    example.loss_weights[span.token_end] = 1.0
    with pytest.raises(Wrong, match="the mask is not the spans"):
        oracle.check_examples([example], example.text)


def _cases(template: str) -> dict[str, Case]:
    encoder = Encoder(
        corpus.tokenizer_for(template), chat_template=corpus.template_source(template)
    )
    edge = [
        Scenario("edge/" + row["id"], row["messages"], row.get("tools"))
        for row in corpus.rows("synthetic-edge-dev")
    ]
    return {s.name: check(encoder, s.messages, s.tools) for s in [*SCENARIOS, *edge]}


def _wrong(cases: dict[str, Case] | dict[tuple[str, str], Case]) -> dict[str, str]:
    return {str(name): case.detail for name, case in cases.items() if case.status == "wrong"}
