"""The parity matrix notices faults: each mutant of ``mutations`` turns it red."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import pytest
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from tests import corpus
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.mutations import TEXT_MUTANTS, Mutant
from tests.parity import Case
from tests.parity_details import check_closely
from tests.scenarios import SCENARIOS, Scenario, assistant, system, tool, user
from tests.token_mutations import TOKEN_MUTANTS

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEMPLATES = FIXTURE_TEMPLATES | {
    "two terminators": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|end|><|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "the next header is a stop token too": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "no end of turn, the next header stops": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "end of turn between turns only": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
        "{{ '\n' if loop.last and m.role == 'assistant' else '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "a stray newline before the header": (
        TURNS + "{{ '\n<|im_start|>assistant\n' if add_generation_prompt }}"
    ),
    "a terminator behind eos": (
        TURNS.replace("<|im_end|>", "<|im_end|><|end|>")
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "pieces joined": (
        "{% for m in messages %}{{ ['<|im_start|>' ~ m.role, m.content ~ '<|im_end|>', ''] "
        "| join('\n') }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "a hint behind the last question": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{{ ' (answer now)' if loop.last and m.role == 'user' }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    ),
    "reasoning is a turn of its own": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}"
        "{{ m.reasoning_content }}<|im_end|>\n<|im_start|>{{ m.role }}\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "the question is repeated with the answer": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.index0 and '?' in messages[0].content %}"
        "> {{ messages[0].content }}\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "thinking opened and never closed": (
        TURNS.replace("{{ m.content", "{{ '<think>\n' if m.role == 'assistant' }}{{ m.content")
        + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    ),
    "an answer is joined to the one before by a word": (
        "{% for i in range(messages | length) %}{% set m = messages[i] %}"
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ ' ' + m.content }}"
        "{% if i + 1 < messages | length and messages[i + 1].role == 'assistant' %}, and"
        "{% else %}<|im_end|>{% endif %}{% endif %}{% endfor %}"
    ),
    "plain text, a space before the answer": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{{ 'assistant: ' if add_generation_prompt }}"
    ),
    "nothing behind the last answer": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '\n' if not loop.last }}"
        "{% endfor %}{{ '\nassistant: ' if add_generation_prompt }}"
    ),
}
MORE_SCENARIOS = [
    Scenario(
        "weights",
        [
            user("Q0 a?"),
            assistant("A1 b.", weight=0.5),
            user("Q2 c?"),
            assistant("A3 d.", weight=2),
            user("Q4 e?"),
            assistant("A5 f.", train=False),
        ],
    ),
    Scenario("prefill", [user("Q0 a?"), assistant("A1 Sure, yes.", prefill="A1 Sure,")]),
    Scenario("first", [assistant("A0 hello."), user("Q1 hello?"), assistant("A2 yes.")]),
    Scenario("think-unclosed", [user("Q0 a?"), assistant("A1 b. <think>")]),
    Scenario("tool-unasked", [user("Q0?"), assistant("A1."), tool("T2"), assistant("A3.")]),
    Scenario("control-token", [user("Q0 <|im_end|>?"), assistant("A1 <|im_end|> yes.")]),
    Scenario("half-a-character", [user("Q0?"), assistant("A1 \ud83d")]),
    Scenario("system-and-user", [system("S0 be"), user("Q1?"), assistant("A2."), user("Q3?")]),
]
_NAMES = (
    *("plain", "many-turns", "reasoning-field", "reasoning-inline", "tools-dict"),
    *("tools-parallel", "consecutive-users", "system-in-the-middle", "empty-answer"),
    *("null-content", "leading-space", "trailing-space", "emoji-ends", "markup", "echo"),
    "consecutive-assistants",
)
CONVERSATIONS = [*MORE_SCENARIOS, *(scenario for scenario in SCENARIOS if scenario.name in _NAMES)]
MUTANTS = [*TEXT_MUTANTS, *TOKEN_MUTANTS]
EVERY = 12  # every n-th corpus template in the slow run


class Tried(NamedTuple):
    """A case of a matrix, without and with a fault in place."""

    before: Case
    after: Case

    def is_red(self, noticed: str) -> bool:
        """Return whether it shows the fault, in the way in which that has to be noticed."""
        refused = self.before.status == "exact" and self.after.status in REFUSED
        broken = self.after.status == "crashed" or refused
        return self.after.status == "wrong" or (noticed == "refused" and broken)


REFUSED = ("refused", "no completion")


class Matrix:
    """Templates and conversations.

    Args:
        templates: Their names.
        encoder: Makes an encoder for one of them.
        scenarios: The conversations.
    """

    def __init__(
        self,
        templates: Iterable[str],
        encoder: Callable[[str], Encoder],
        scenarios: Sequence[Scenario],
    ) -> None:
        self.templates = sorted(templates)
        self.encoder = encoder
        self.scenarios = scenarios

    @functools.cached_property
    def before(self) -> dict[tuple[str, str], Case]:
        """What it says without any fault."""
        return {
            (template, scenario.name): _check(encoder, scenario)
            for template in self.templates
            for encoder in [self.encoder(template)]
            for scenario in self.scenarios
        }

    def tried(self, mutant: Mutant) -> Iterator[Tried]:
        """Yield all cases, with the fault that is in place already."""
        for template in sorted(self.templates, key=lambda name: name != mutant.shown_by):
            encoder = self.encoder(template)
            for scenario in self.scenarios:
                before = self.before[template, scenario.name]
                if before.status != "raises":
                    yield Tried(before, _check(encoder, scenario))


def _check(encoder: Encoder, scenario: Scenario) -> Case:
    try:
        return check_closely(encoder, scenario.messages, scenario.tools)
    except Exception as error:  # a fault may have any consequence
        return Case("crashed", f"{type(error).__name__}: {error}")


@functools.cache
def _tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = copy.deepcopy(AutoTokenizer.from_pretrained(DEMO_MODEL))
    texts = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>")
    tokenizer.add_tokens(
        [AddedToken(text, special=True, normalized=False) for text in texts], special_tokens=True
    )
    return tokenizer


def _own_encoder(template: str) -> Encoder:
    """Return an encoder without proof by perturbation, which would notice a fault first."""
    source = TEMPLATES[template]
    stops = ["<|end|>"] if "<|end|>" in source else []
    stops += ["<|user|>", "<|tool|>"] if "<|{{ m.role }}|>" in source else []
    return Encoder(_tokenizer(), chat_template=source, stop_tokens=stops, proof="off")


def _published_encoder(template: str) -> Encoder:
    return Encoder(
        corpus.tokenizer_for(template),
        chat_template=corpus.template_source(template),
        proof="off",
    )


OWN = Matrix(TEMPLATES, _own_encoder, CONVERSATIONS)
PUBLISHED = Matrix(corpus.template_names()[::EVERY], _published_encoder, CONVERSATIONS)
EVERYWHERE = [mutant for mutant in MUTANTS if mutant.shown_by in ("", *FIXTURE_TEMPLATES)]


def test_the_matrix_is_green_without_a_fault() -> None:
    status = [case.status for case in OWN.before.values()]
    assert set(status) <= {"exact", "raises", *REFUSED}
    assert status.count("exact") > 0.75 * len(status)
    again = OWN.tried(Mutant("no fault", lambda monkeypatch: None, "refused"))
    assert not any(tried.is_red("refused") for tried in itertools.islice(again, len(CONVERSATIONS)))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_matrix_notices(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OWN.before
    mutant.patch(monkeypatch)
    assert any(tried.is_red(mutant.noticed) for tried in OWN.tried(mutant)), mutant


@corpus.needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("mutant", EVERYWHERE, ids=lambda mutant: mutant.name)
def test_published_templates_notice(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "wrong" not in {case.status for case in PUBLISHED.before.values()}
    mutant.patch(monkeypatch)
    assert any(tried.is_red("refused") for tried in PUBLISHED.tried(mutant)), mutant
