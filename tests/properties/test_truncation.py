"""Whatever conversation and length: examples fit, losses add up, what is trained is at parity."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lossmask import Encoder, Example, Fit, Outcome
from lossmask.embedded import DEMO_MODEL
from lossmask.truncating import replies_of
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.parity import Oracle
from tests.properties.conversations import Row, Strategies, texts

FEW = settings(
    max_examples=60,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),  # rows are large on purpose
)
ROWS = Strategies(texts()).rows
SHARES = st.floats(0.05, 0.99)
TOKENIZER = AutoTokenizer.from_pretrained(DEMO_MODEL)
TEMPLATES = [
    FIXTURE_TEMPLATES[name]
    for name in (
        "chatml with tools",
        "reasoning kept after the last user turn only",
        "instruction brackets, system in the first user turn",
        "system kept only while a user speaks last",
    )
]
PLAIN = [Encoder(TOKENIZER, chat_template=template) for template in TEMPLATES]


def shares(encoder: Encoder, row: Row, share: float) -> tuple[tuple[Example, ...], int]:
    """Return the untruncated examples and a length that is too short for the longest of them."""
    examples = encoder.encode_row(row).examples
    return examples, max(2, int(share * max(map(len, examples), default=0)))


def fitted(encoder: Encoder, row: Row, fit: Fit) -> Outcome:
    template = encoder.chat_template()
    return Encoder(TOKENIZER, chat_template=template, fit=fit).encode_row(row)


def check_account(before: tuple[Example, ...], outcome: Outcome, length: int) -> None:
    """Require that everything fits, teaches something, and adds up with what is lost."""
    kept, lost = outcome.examples, outcome.lost
    assert all(2 <= len(example) <= length for example in kept)
    assert all(example.loss_weights[1:].any() for example in kept)
    assert sum(map(len, kept)) + lost.tokens == sum(map(len, before))
    supervised = [sum(e.supervised_count for e in some) for some in (kept, before)]
    assert supervised[0] + lost.supervised_tokens == supervised[1]
    trained = [span.message_index for example in kept for span in example.spans]
    assert len(set(trained)) == len(trained)
    turns = [sum(len(replies_of(e)) for e in some) for some in (kept, before)]
    assert turns[0] + lost.turns == turns[1]


@FEW
@given(ROWS, SHARES, st.sampled_from(PLAIN), st.sampled_from(["error", "drop"]))
def test_what_is_too_long_is_left_out(row: Row, share: float, encoder: Encoder, how: Any) -> None:
    before, length = shares(encoder, row, share)
    outcome = fitted(encoder, row, Fit(length, how))
    if before:
        check_account(before, outcome, length)
        kept = [len(example) for example in before if len(example) <= length]
        if how == "error":
            kept = [] if len(kept) < len(before) else kept
        assert [len(example) for example in outcome.examples] == kept


@FEW
@given(
    ROWS,
    SHARES,
    st.sampled_from(PLAIN),
    st.sampled_from(["keep_start", "keep_end"]),
    st.sampled_from(["mask", "drop", "train"]),
)
def test_a_cut_example_is_a_part_of_the_whole(
    row: Row, share: float, encoder: Encoder, how: Any, cut_reply: Any
) -> None:
    before, length = shares(encoder, row, share)
    outcome = fitted(encoder, row, Fit(length, how, cut_reply))
    if not before:
        return
    check_account(before, outcome, length)
    for kept in outcome.examples:
        source = next(s for s in before if is_part(kept, s, how))
        first = 0 if how == "keep_start" else len(source) - len(kept)
        weights = source.loss_weights[first : first + len(kept)]
        assert length - 8 <= len(kept) or len(source) <= length
        if cut_reply == "train":
            assert kept.loss_weights.tolist() == weights.tolist()
        is_masked = kept.loss_weights != weights
        assert not kept.loss_weights[is_masked].any()
        for reply in replies_of(source):  # wholly in the loss, or not at all
            span = slice(max(0, reply[0].token_start - first), reply[-1].token_end - first)
            if span.stop > 0:
                assert is_masked[span].sum() in (0, (weights[span] != 0).sum())


def is_part(kept: Example, source: Example, how: str) -> bool:
    """Return whether ids and text of a cut example are the beginning or end of another's."""
    n = len(kept)
    if how == "keep_start":
        ids, is_text = source.input_ids[:n], source.text.startswith(kept.text)
    else:
        ids, is_text = source.input_ids[-n:], source.text.endswith(kept.text)
    return is_text and ids.tolist() == kept.input_ids.tolist()


def test_everything_trained_without_oldest_turns_is_at_parity() -> None:
    seen: Counter[str] = Counter()

    @settings(FEW, max_examples=120)
    @given(ROWS, ROWS, st.floats(0.3, 0.99), st.sampled_from(PLAIN))
    def every_row(beginning: Row, row: Any, share: float, encoder: Encoder) -> None:
        row = row | {"messages": [*beginning["messages"], *row["messages"]]}
        before, length = shares(encoder, row, share)
        outcome = fitted(encoder, row, Fit(length, "drop_turns"))
        if not before:
            return
        check_account(before, outcome, length)
        seen["rejected" if outcome.rejection else "kept"] += 1
        for kept in outcome.examples:
            if dropped := re.search(r"\(messages (\d+) to (\d+),", details(kept)):
                seen["shortened"] += 1
                check_parity(encoder, row, kept, int(dropped[1]), int(dropped[2]) + 1)

    every_row()
    assert min(seen["rejected"], seen["shortened"]) >= 10


def details(example: Example) -> str:
    return "".join(f.detail for f in example.findings if f.kind == "turns_dropped")


def check_parity(encoder: Encoder, row: Any, kept: Example, first: int, end: int) -> None:
    """Hold an example against inference on the conversation without messages ``first:end``."""
    messages = row["messages"]
    left = [*range(first), *range(end, len(messages))]
    number_of = {index: number for number, index in enumerate(left)}
    shortened = replace(
        kept,
        spans=tuple(replace(s, message_index=number_of[s.message_index]) for s in kept.spans),
        findings=tuple(
            replace(f, message_index=number_of.get(f.message_index, -1)) for f in kept.findings
        ),
    )
    oracle = Oracle(encoder, [messages[index] for index in left], row["tools"])
    oracle.check_example(shortened, oracle.render(len(left), prompt=False))
