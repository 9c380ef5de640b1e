"""Whatever rows: encoded many at a time they become what they become one by one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer

from lossmask import Encoder, Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.fit import Fit
from tests import small_tokenizers
from tests.both_ways import check_both_ways, ready
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.inspecting_templates import showing, writing
from tests.properties.conversations import (
    KEYS,
    UNICODE,
    WHITE_SPACE,
    WORDS,
    Strategies,
    malformed_rows,
    texts,
)

FEW = settings(
    max_examples=60,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
CONTROL = ("<|im_end|>", "<|im_start|>", "<|im_end", "|>", "<", "<|", "im_end|>", "<|im_")
MORE_KEYS = (*KEYS, "id", "metadata", "system", "weight", "train", "text", "prompt", "completion")
BORDERS = ("", "\n", "\n\n", " ", "  ", "\u0301", "é", "\u200d", "🙂", "'s", "1")


def _contents() -> st.SearchStrategy[str]:
    inner = texts(control_tokens=CONTROL)
    edge = st.sampled_from(BORDERS)
    return st.builds(lambda a, b, c: a + b + c, edge, inner, edge)


def _plain_contents() -> st.SearchStrategy[str]:
    pieces = st.sampled_from(WORDS + WHITE_SPACE + UNICODE)
    edge = st.sampled_from(BORDERS)
    return st.builds(lambda a, b, c: a + "".join(b) + c, edge, st.lists(pieces, max_size=4), edge)


ROLES = st.one_of(
    st.sampled_from(
        [("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant") * 3]
    ),
    st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=6),
)


@st.composite
def plain_rows(draw: st.DrawFn, contents: st.SearchStrategy[str]) -> dict[str, Any]:
    """Draw messages of role and content, at times with further keys beside them."""
    row: dict[str, Any] = {
        "messages": [{"role": role, "content": draw(contents)} for role in draw(ROLES)]
    }
    for key in draw(st.lists(st.sampled_from(MORE_KEYS), max_size=2)) if draw(_RARE) else ():
        if key != "messages":
            row[key] = draw(_VALUES)
    return row


_RARE = st.sampled_from([False] * 4 + [True])
_VALUES = st.sampled_from([None, 1, 0, "x", [], {}, ["x"], {"weight": 0}, True, "[]"])


def _sentencepiece_like_template() -> str:
    return (
        "{% for m in messages %}<|{{ m.role[0] }}|>\n\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|a|>\n\n{% endif %}"
    )


def _merging() -> Encoder:
    """Return an encoder whose tokens reach over every border."""
    added = [
        AddedToken(text, special=True, normalized=False) for text in ("<|u|>", "<|a|>", "<|s|>")
    ]
    added.append(AddedToken("\n ", normalized=False))
    tokenizer = small_tokenizers.byte_level(
        "Ċ Ċ", "ĊĊ a", "Ċ Ġ", "b Ġ", "Ã ©", "Ċ Ã", "Ġ Ġ", "a <", "Ã ĥ", added=added
    )
    return Encoder(tokenizer, chat_template=_sentencepiece_like_template(), fast=False)


LOOKING_AT_CONTENTS = {
    "asking": showing("'x' if 'a' in c or c.startswith('So') or c | length > 4 or c[:1] == '7'"),
    "answered before": showing("messages[-1].content[:1] == 'a'"),
    "taken apart": writing("(' [' + (c | trim) + ']') | trim"),
    "split": writing("c.split('one')[-1].lstrip('\n') if 'one' in c else c"),
    "rewritten": writing("('<t></t>' if loop.last and m.role == 'assistant' else '') ~ c"),
    "asked in the loop": writing("c").replace("{% endfor %}", "{{ '' if loop.last }}{% endfor %}"),
}


def _encoders() -> dict[str, Encoder]:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    source = FIXTURE_TEMPLATES["chatml with tools"]
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "last": {"policy": Policy(train_on="last_assistant")},
        "last turn": {"policy": Policy(train_on="last_turn")},
        "allow": {"policy": Policy(control_tokens="allow")},
        "escape": {"policy": Policy(control_tokens="escape")},
        "short": {"fit": Fit(max_length=32)},
        "cut": {"fit": Fit(max_length=32, truncation="keep_start")},
        "stop": {"stop_tokens": ["."]},
    }
    made = {
        name: Encoder(tokenizer, chat_template=source, fast=False, **each)
        for name, each in options.items()
    }
    made["merging"] = _merging()
    made["system kept"] = Encoder(
        tokenizer, chat_template=FIXTURE_TEMPLATES["system kept only while a user speaks last"]
    )
    made |= {
        name: Encoder(tokenizer, chat_template=source, fast=False)
        for name, source in LOOKING_AT_CONTENTS.items()
    }
    return {name: ready(encoder) for name, encoder in made.items()}


ENCODERS = _encoders()


def _without_nothing(row: Any) -> Any:
    """Return a row without tools that are null, so that it may be a plain one."""
    if not isinstance(row, dict) or row.get("tools", 0) is not None:
        return row
    return {key: value for key, value in row.items() if key != "tools"}


def _taken(name: str, rows: st.SearchStrategy[Any], amount: settings = FEW) -> Counter[str]:
    found: Counter[str] = Counter()

    @amount
    @given(st.lists(rows, min_size=1, max_size=4))
    def every_batch(batch: list[Any]) -> None:
        found["rows"] += len(batch)
        found["together"] += check_both_ways(ENCODERS[name], batch)

    every_batch()
    return found


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_plain_rows(name: str) -> None:
    found = _taken(name, plain_rows(_plain_contents()))
    assert found["together"] > (0 if name in LOOKING_AT_CONTENTS else found["rows"] / 20)


@pytest.mark.parametrize("name", ["default", "allow", "escape", "merging"])
def test_rows_with_pieces_of_control_tokens(name: str) -> None:
    found = _taken(name, plain_rows(_contents()))
    assert found["together"] > 10


@pytest.mark.parametrize("name", ["default", "merging"])
def test_rows_of_every_shape(name: str) -> None:
    rows = Strategies(texts()).rows.map(_without_nothing)
    assert _taken(name, rows)["together"] > 0


def test_malformed_rows() -> None:
    _taken("default", malformed_rows(Strategies(texts())).map(_without_nothing))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_many_plain_rows(name: str) -> None:
    many = settings(FEW, max_examples=1_000)
    least = 10 if name in LOOKING_AT_CONTENTS else 100
    assert _taken(name, plain_rows(_contents()), many)["together"] > least
    assert _taken(name, plain_rows(_plain_contents()), many)["together"] > least
