"""Attack strings against every policy, told by the oracle for control tokens."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from lossmask import LossmaskError
from lossmask.embedded import DEMO_MODEL
from tests import corpus
from tests.attack_strings import attacks
from tests.control_token_parity import (
    Attack,
    Encoders,
    check_allowed,
    check_escaped,
    check_refused,
    encoders,
)
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.parity import Case, check
from tests.scenarios import SCENARIOS, Message, assistant, user
from tests.test_escaping import CHATML

PUBLISHED = [
    "llamacpp__google-gemma-2-2b-it.jinja",  # SentencePiece
    "minimind__model.jinja",  # stop tokens in the vocabulary of the model
    "mistralrs__llama2.jinja",  # SentencePiece with a dummy space
    "ollama__qwen3-coder-30b.jinja",
    "trl__phi3.jinja",  # control tokens that swallow white space
]


@pytest.fixture(scope="module")
def demo() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def cases(policies: Encoders, every: int, first: int) -> list[tuple[str, Case]]:
    """Try every n-th attack with each policy."""
    chosen = list(attacks(policies.error))[first % every :: every]
    return [
        (f"{attack.name}: {check.__name__}", check(policies, attack))
        for attack in chosen
        for check in (check_escaped, check_refused, check_allowed)
    ]


def assert_none_wrong(tried: list[tuple[str, Case]], *, exact: float) -> None:
    wrong = {name: case.detail for name, case in tried if case.status == "wrong"}
    assert not wrong
    escaped = [case for name, case in tried if name.endswith("check_escaped")]
    share = Counter((case.status, case.detail) for case in escaped)["exact", "every id"]
    assert share >= exact * len(escaped), Counter(escaped)


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_attacks_on_own_templates(name: str, demo: PreTrainedTokenizerBase) -> None:
    policies = encoders(demo, FIXTURE_TEMPLATES[name])
    assert_none_wrong(cases(policies, 37, sorted(FIXTURE_TEMPLATES).index(name)), exact=0.9)


@corpus.needs_corpus
@pytest.mark.parametrize("template", PUBLISHED)
def test_attacks_on_published_templates(template: str) -> None:
    policies = encoders(corpus.tokenizer_for(template), corpus.template_source(template))
    assert_none_wrong(cases(policies, 43, PUBLISHED.index(template)), exact=0.5)


@corpus.needs_corpus
@pytest.mark.slow
def test_attacks_on_all_published_templates() -> None:
    tried = []
    for number, name in enumerate(corpus.template_names()):
        policies = encoders(corpus.tokenizer_for(name), corpus.template_source(name))
        tried += [(f"{name}: {case}", result) for case, result in cases(policies, 29, number)]
    assert_none_wrong(tried, exact=0.8)


FRAGMENTS = (
    *("<|im_end|>", "<|im_start|>", "<|im_", "end|>", "<|", "|>", "<", "assistant\n"),
    *(" ", "\n", "a", "b c", "\\", '"', "e\u0301", "\u0338", "龘", "😀", "\u200b"),
    *("\ue000", "\U0010e001", "\U0010fffd"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8).map("".join)


@pytest.fixture(scope="module")
def policies(demo: PreTrainedTokenizerBase) -> dict[str, Encoders]:
    return {name: encoders(demo, template) for name, template in FIXTURE_TEMPLATES.items()}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asked=TEXTS, answer=TEXTS, name=st.sampled_from(sorted(FIXTURE_TEMPLATES)))
def test_any_text_escapes_exactly(
    policies: dict[str, Encoders], asked: str, answer: str, name: str
) -> None:
    kept = frozenset(' \n"\\\u0338\u0301')
    masked = ("".join(c if c in kept else "z" for c in text) for text in (asked, answer))
    messages, harmless = (
        [user("Q0 " + a), assistant("A1 " + b), user("Q2?"), assistant("A3.")]
        for a, b in ((asked, answer), masked)
    )
    attack = Attack("drawn", messages, harmless, (0, 1))
    tried = [(f.__name__, f(policies[name], attack)) for f in (check_escaped, check_refused)]
    assert_none_wrong([*tried, ("check_allowed", check_allowed(policies[name], attack))], exact=0)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(max_size=30), min_size=2, max_size=2),
    name=st.sampled_from(sorted(FIXTURE_TEMPLATES)),
)
def test_clean_conversations_are_the_same_as_without_escaping(
    policies: dict[str, Encoders], texts: list[str], name: str
) -> None:
    asked, answer = texts
    assert_same(policies[name], [user(asked), assistant(answer), user("c"), assistant("d")])


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_clean_scenarios_are_the_same_as_without_escaping(
    policies: dict[str, Encoders], name: str
) -> None:
    for scenario in SCENARIOS:
        assert_same(policies[name], scenario.messages, scenario.tools)


def assert_same(policies: Encoders, messages: list[Message], tools: Any = None) -> None:
    outcomes = []
    for encoder in (policies.error, policies.escape):
        try:
            examples = encoder.encode(messages, tools)
        except LossmaskError as error:
            outcomes.append(str(error))
            continue
        outcomes.append(
            repr([(e.input_ids.tolist(), e.labels.tolist(), e.spans, e.findings) for e in examples])
        )
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("typed", ["\u1112\u1161\u11ab<|im_end|>", "<|im_end|> >\u0338", "e\u0301"])
def test_the_oracle_knows_what_a_normaliser_composes(
    demo: PreTrainedTokenizerBase, typed: str
) -> None:
    composing, lower = copy.deepcopy(demo), copy.deepcopy(demo)
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    policies = encoders(composing, CHATML)
    attack = Attack(
        "one", [user("Q0 " + typed), assistant("A1.")],
        [user("Q0 " + "z" * len(typed)), assistant("A1.")], (0,),
    )  # fmt: skip
    assert check_escaped(policies, attack) == Case("exact", "every id")
    case = check_escaped(policies._replace(escape=encoders(lower, CHATML).escape), attack)
    assert case.status == "wrong"
    assert "spell" in case.detail


def test_the_oracle_notices_a_control_token_that_was_not_escaped(
    demo: PreTrainedTokenizerBase,
) -> None:
    policies = encoders(demo, CHATML)
    unescaped = policies._replace(escape=policies.allow, error=policies.allow)
    attack = Attack(
        "one", [user("Q0 <|im_end|>"), assistant("A1.")],
        [user("Q0 zzzzzzzzzz"), assistant("A1.")], (0,),
    )  # fmt: skip
    assert check(policies.error, attack.harmless).status == "exact"
    assert check_escaped(policies, attack) == Case("exact", "every id")
    assert check_escaped(unescaped, attack).status == "wrong"
    assert check_refused(policies, attack).status == "exact"
    assert check_refused(unescaped, attack).status == "wrong"
