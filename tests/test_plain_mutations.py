"""Both ways of encoding, held against each other and their proofs, notice every fault."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.fit import Fit
from lossmask.rendering import ChatTemplate
from tests.both_ways import check_both_ways, ready
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.inspecting_templates import showing, writing
from tests.looking_templates import LOOKING, PLAIN
from tests.mutations import Mutant
from tests.plain_mutations import PLAIN_MUTANTS
from tests.scenarios import assistant, system, user
from tests.test_look_ahead import CONVERSATIONS, check_proven
from tests.test_plain_tokens import ABC, SOURCE, byte_level, looking_ahead

CHATML = FIXTURE_TEMPLATES["chatml with tools"]
ANSWERED = [user("Hi there"), assistant("b"), user("b <|"), assistant("Well. é")]
ROWS: list[Any] = [
    {"messages": ANSWERED[:2]},
    {"messages": ANSWERED},
    {"messages": [system("x"), user("q é"), assistant(" i 世界"), user(""), assistant("x")]},
    {"messages": [user("x"), assistant("x"), assistant("hi"), system("e\u0301")]},
    {"messages": [user("u"), user("b"), assistant("y"), user("z"), assistant("b.")]},
    {"messages": [assistant("a"), user("b"), assistant("c")]},
    {"messages": ANSWERED[:2], "prompt": "a", "completion": "b"},
    {"messages": ANSWERED[:2], "weight": 0.5},
    {"messages": ANSWERED[:2], "id": 1},
    {"messages": [user("<!"), assistant("a")]},
    {"messages": [user("q"), assistant("r"), user("s"), assistant("t")]},
    {"messages": [user("Q"), assistant("R"), user("S"), assistant("T.")]},
    {"messages": [user("Q"), assistant("<think>é\n</think>\n\nR"), user("S"), assistant("T")]},
    {"messages": [user("Q"), assistant("é  <think> </think>, a<think>b</think> c"), user("")]},
    {"messages": [user("x"), assistant("<t></t>r"), user(" s"), assistant("long text")]},
    {"messages": [user("x "), assistant("<"), user("s"), assistant("t ")]},
    {"messages": [user("a"), assistant("b. ")]},
    None,
]


def _special(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)


@cache
def _demo() -> PreTrainedTokenizerBase:
    tokenizer = copy.deepcopy(AutoTokenizer.from_pretrained(DEMO_MODEL))
    tokenizer.add_tokens([_special("<|e|>")], special_tokens=True)
    return tokenizer


def _chatml(source: str = CHATML, **options: Any) -> Callable[[], Encoder]:
    return lambda: Encoder(_demo(), chat_template=source, fast=False, **options)


def _small(
    source: str, *merges: str, tokenizer: Callable[..., Any] = byte_level, **options: Any
) -> Callable[[], Encoder]:
    stops = options.pop("stop_tokens", ())
    return lambda: Encoder(
        tokenizer(*merges, **options), chat_template=source, stop_tokens=stops, fast=False
    )


_JOINED = SOURCE.replace("<|end|>{% endfor %}", "{{ '<|end|>' if m.role[0] == 'a' }}{% endfor %}")
_DOCUMENT = {"template_variables": {"documents": [{"text": "D"}]}}
ENCODERS = {
    "chatml": _chatml(),
    "last": _chatml(policy=Policy(train_on="last_assistant")),
    "no stop": _chatml(policy=Policy(stop="never")),
    "short": _chatml(fit=Fit(max_length=20)),
    "documents": _chatml("{{ documents[0].text }}" + CHATML, **_DOCUMENT),
    "trimmed": _chatml(CHATML.replace("m.content or ''", "m.content | trim")),
    "no system": _chatml(
        CHATML.replace("{{ m.content or '' }}", "{{ m.content if m.role != 'system' }}")
    ),
    "text before": _chatml(CHATML.replace("{{ m.content", "{{ m.role[:1] }}{{ m.content")),
    "two stops": _chatml(CHATML.replace("<|im_end|>", "<|e|><|im_end|>"), stop_tokens=["<|e|>"]),
    "unproven": _chatml(CHATML.replace("m.role }}", "m.role | string }}")),
    "asked twice": _small(SOURCE.replace("|>{{ m", "|>{{ '<|a|>' if m.role[0] == 'a' }}{{ m")),
    "thinking": _chatml(
        CHATML.replace(
            "\n{{ m.content", "\n{{ '<think>' if m.role == 'assistant' }}{{ m.content"
        ).replace("assistant\n{% endif", "assistant\n<think>{% endif")
    ),
    "merging": _small(
        SOURCE.replace("|>{{ m", "|>\n{{ m").replace("<|a|>{% endif", "<|a|>\n{% endif"),
        "Ċ x",
        "Ċ Ġ",
        "é <",
    ),
    "merging behind": _small(SOURCE.replace("<|end|>", ".\n"), "b .", ". Ċ", stop_tokens=["."]),
    "merging the end": _small(SOURCE.replace("<|end|>", "<|end|>\n"), stop_tokens=["."]),
    "joined": _small(
        _JOINED.replace("<|{{ m.role[0] }}|>", "{{ '<|a|>' if m.role[0] == 'a' }}"), "u b"
    ),
    "cut otherwise": _small(ABC, tokenizer=looking_ahead),
    "normalised": _small(SOURCE, normalizer=normalizers.NFC()),
    "control tokens": _small(
        SOURCE.replace("content }}", "content }}!>"), added=[_special("<!!>")]
    ),
}
ENCODERS |= {
    "asking": _chatml(showing("'x' if 'x' in c or c | length > 4")),
    "taken apart": _chatml(writing("(' [' + c) | trim")),
    "in capitals": _chatml(showing("c | upper")),
    "stripped": _chatml(CHATML.replace("m.content or ''", "(m.content + ' ').strip()")),
    "rewritten": _chatml(writing("('<t></t>' if loop.last and m.role == 'assistant' else '') ~ c")),
    "another prompt": _chatml(
        "{{ 'a' if add_generation_prompt and messages | length > 1 else 'b' }}" + writing("c")
    ),
    "a stop too many": _chatml(
        showing("'' if not loop.last").replace(
            "{{ c }}", "{{ '<|im_end|>' if m.role == 'assistant' }}{{ c }}"
        )
    ),
}
PROVEN = [name for name in LOOKING if not name.startswith("first: ")]


def _proofs() -> list[int]:
    """Require that all that is claimed holds; return how much that is."""
    tokenizer = _demo()
    sources = [LOOKING[name] for name in PROVEN] + list(PLAIN.values())
    return [
        sum(check_proven(ChatTemplate(tokenizer, source), each) for each in CONVERSATIONS[:3])
        for source in sources
    ]


def _both_ways() -> dict[str, int]:
    return {name: check_both_ways(ready(make()), ROWS) for name, make in ENCODERS.items()}


@cache
def _before() -> tuple[list[int], dict[str, int]]:
    return _proofs(), _both_ways()


def test_both_ways_agree_without_a_fault() -> None:
    proven, together = _before()
    assert sum(proven) > 100
    assert together["chatml"] >= 5
    assert together["joined"] > 0


@pytest.mark.parametrize("mutant", PLAIN_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _before()
    mutant.patch(monkeypatch)
    try:
        is_red = (
            _proofs() if mutant.name.startswith("proof") else before[0],
            _both_ways(),
        ) != before
    except Exception:  # a fault may have any consequence
        is_red = True
    assert is_red, mutant
