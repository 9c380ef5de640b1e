"""The parity matrix: nothing wrong anywhere, and how much of it is exact."""

from __future__ import annotations

from collections import Counter

import pytest
from transformers import AutoTokenizer

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import ParityError
from tests import corpus
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.mutations import TEXT_MUTANTS
from tests.parity import Case, Oracle, Wrong, check
from tests.scenarios import SCENARIOS, Scenario, assistant, call, user

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


HINT_AND_NO_LAST_STOP = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{{ ' (answer now)' if loop.last and m.role == 'user' }}"
    "{{ '\n' if loop.last and m.role == 'assistant' else '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("answer", ["", "\n", "a", "A1 b."])
def test_an_appended_stop_stands_where_history_has_it(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    encoder = Encoder(tokenizer, chat_template=HINT_AND_NO_LAST_STOP, proof="off")
    messages = [user("Q0 a?"), assistant(answer)]
    case = check(encoder, messages)
    assert case == Case("exact", findings=("context_differs", "stop_appended"))
    [stays] = [m for m in TEXT_MUTANTS if "that the appended one replaces stays" in m.name]
    stays.patch(monkeypatch)
    assert check(encoder, messages).status == "wrong"


@pytest.mark.parametrize("drops", [False, True])
def test_an_id_that_no_template_shows_is_no_lost_text(drops: bool) -> None:
    template = None if drops else FIXTURE_TEMPLATES["chatml with tools"]
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    asked = assistant("", tool_calls=[call("weather", {"city": "A1"})])
    oracle = Oracle(Encoder(tokenizer, chat_template=template), [user("Q0 a?"), asked], None)
    error = ParityError("", reason="content_dropped", message_index=1)
    assert oracle.finds_no_completion(error) == drops


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
