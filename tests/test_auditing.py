"""An audit counts every row, every loss, and finds exactly what is there."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from lossmask import Encoder, Lost
from lossmask.auditing import FORMAT, Audit, Checks
from lossmask.confinement import Limits
from lossmask.data_files import RawRow
from lossmask.embedded import DEMO_MODEL
from lossmask.explanations import REASONS
from lossmask.outcome import Outcome, Rejection
from lossmask.severities import FOUND, SEVERITIES
from lossmask.tallies import Instance, Tally
from lossmask.worker import Chunk, _encode_chunk
from tests.audit_cases import CASES, CHATML, A, Case, Q, audit_of, raw_rows
from tests.scenarios import assistant, system, user

DETAILS = {
    "eval_leak": "data.jsonl:1: the prompt of eval.jsonl:1",
    "duplicate_conversation": "data.jsonl:3: the same as data.jsonl:1",
    "duplicate_prompt": "data.jsonl:2: another answer to the prompt of data.jsonl:1",
    "history_expanded": "data.jsonl:1: 2 examples; of their own: message 1",
    "stop_never_trained": "none of 1 turns ends with a stop token in the loss",
    "no_pad_token": "the tokenizer names no padding token",
    "control_token_in_content": (
        "data.jsonl:1, message 0: token 6 of the example is the control token 1"
    ),
    "bos_doubled": "data.jsonl:1: the first two tokens are both 0, the beginning of a sequence",
}


def test_there_is_a_data_set_for_every_kind_of_a_finding() -> None:
    assert CASES.keys() == FOUND.keys()


@pytest.mark.parametrize("kind", CASES)
def test_exactly_one_thing_is_found_in_data_that_has_it(kind: str) -> None:
    case = CASES[kind]
    found = audit_of(case)
    assert found.findings.keys() == {kind, *case.besides}
    assert found.rejections == {}
    worst = {FOUND[each].severity for each in (kind, *case.besides)}
    assert found.worst == min(worst, key=SEVERITIES.index)
    tally = found.findings[kind]
    assert tally.rows is not None
    assert 1 <= tally.rows <= tally.count
    assert str(tally.instances[0]).endswith(DETAILS.get(kind, ""))


def test_nothing_is_found_in_data_without_fault() -> None:
    found = audit_of(Case([[system("S0"), Q, A], [user("Q2?"), assistant("A3.")]]))
    assert (found.findings, found.rejections, found.worst) == ({}, {}, None)
    assert found.stop_rate == 1


@pytest.mark.parametrize("reason", REASONS)
def test_a_rejected_row_is_counted_by_its_reason_and_is_an_error(reason: str) -> None:
    audit = Audit()
    raw = RawRow("a.jsonl", 4, 3, b"{}")
    audit.add(raw, Outcome(rejection=Rejection(reason, "why", 2), lost=Lost(5)))
    assert (audit.rows_in, audit.rows_kept, audit.rows_rejected) == (1, 0, 1)
    assert audit.rejections == {reason: Tally(1, 1, [Instance("a.jsonl", 4, 2, "why")])}
    assert (audit.findings, audit.worst, audit.lost) == ({}, "error", Lost(5))
    assert audit.statistics.sources["a.jsonl"].rows == 1


def encoded(rows: list[Any], encoder: Encoder, *, plain: bool) -> Audit:
    """Audit rows in this process, many at a time or one by one."""

    class Pipe:
        def send(self, message: object) -> None:
            pass

    class At:
        value = 0

    raws = raw_rows("data.jsonl", rows)
    chunk = Chunk(0, raws, Audit(Checks.of(encoder)), one_by_one=not plain)
    _encode_chunk(chunk, Pipe(), At(), encoder, Limits())
    return chunk.results


ROWS = [
    [Q, A],
    {"messages": [user("Q é🙂?"), assistant("漢字."), user("Q2"), A], "source": "wild"},
    [system("S0"), Q, assistant(" A1.")],
    [Q, A],
    [user("Q <|im_end|>"), A],
]


@pytest.mark.parametrize("doubled", [False, True])
def test_both_ways_of_encoding_come_to_the_same_audit(doubled: bool) -> None:
    template = ("<|endoftext|><|endoftext|>" if doubled else "") + CHATML
    encoder = Encoder.from_pretrained(DEMO_MODEL, chat_template=template)
    encoder.tokenizer.bos_token = "<|endoftext|>"
    encoder.encode_row(raw_rows("", ROWS)[0].parse())  # after which rows can be laid out
    many, single = (encoded(ROWS, encoder, plain=plain) for plain in (True, False))
    assert many.to_mapping() == single.to_mapping()
    assert ("bos_doubled" in many.findings) == doubled
    assert (
        many.texts.places.tolist() == single.texts.places.tolist() == [[0, k] for k in range(1, 5)]
    )
    for name in ("conversations", "prompts", "keys", "ends"):
        assert getattr(many.texts, name).tolist() == getattr(single.texts, name).tolist()
    assert many.texts.conversations[0].tolist() == many.texts.conversations[3].tolist()
    assert many.statistics.sources["wild"].to_mapping()["rows_kept"] == 1
    parts = many.statistics.by_part()
    assert parts["stop"] == {"tokens": 5, "supervised_tokens": 5}
    assert sum(each["tokens"] for each in parts.values()) == many.tokens
    assert parts["content"]["supervised_tokens"] == many.supervised_tokens - 5


def test_an_audit_travels_in_the_middle_of_a_batch() -> None:
    encoder = Encoder.from_pretrained(DEMO_MODEL, chat_template=CHATML)
    encoder.encode_row(raw_rows("", ROWS)[0].parse())
    batches = encoder.row_batches
    layouts = batches.lay_out(raw_rows("", ROWS)[0].parse())
    assert layouts is not None
    tokens = batches.tokenize(layouts)
    audit = Audit(Checks.of(encoder))
    [raw] = raw_rows("a", ROWS[:1])
    audit.add_plain(raw, raw.parse(), layouts, (tokens, range(1)))
    again = pickle.loads(pickle.dumps(audit))
    assert again.to_mapping() == audit.to_mapping()
    for each in (audit, again):
        each.add_plain(raw, raw.parse(), layouts, (tokens, range(1)))
        assert each.rows_kept == 2


def test_what_expansion_repeats_is_counted() -> None:
    case = CASES["history_expanded"]
    found = audit_of(case)
    encoder = Encoder.from_pretrained(DEMO_MODEL, chat_template=case.template)
    first, second = encoder.encode(case.rows[0])
    assert (found.examples, found.rows_expanded, found.turns) == (2, 1, 2)
    assert found.repeated_tokens == len(second) - second.supervised_count
    assert found.tokens == len(first) + len(second)


def test_reasoning_and_content_are_counted_apart() -> None:
    found = audit_of(Case([[Q, assistant("<think>\nSo.\n</think>\n\nYes.")]]))
    parts = found.statistics.by_part()
    supervised = {name: counts["supervised_tokens"] for name, counts in parts.items()}
    assert supervised["stop"] == 1
    assert supervised["reasoning"] > supervised["content"] > 0
    assert sum(supervised.values()) == found.supervised_tokens
    assert supervised["prompt"] == supervised["scaffold"] == supervised["tool_calls"] == 0


def test_turns_without_a_trained_stop_lower_the_rate() -> None:
    rows = [[Q, A, user("Q2"), assistant("A3.")]]
    found = audit_of(Case(rows, policy={"stop": "last"}))
    assert (found.turns, found.turns_without_stop, found.stop_rate) == (2, 0, 0.5)
    assert "stop_never_trained" not in found.findings


def test_merging_adds_up() -> None:
    audits = [Audit(rows_in=1, tokens=2, lost=Lost(5)), Audit(rows_in=3, tokens=4, lost=Lost(6))]
    for number, one in enumerate(audits):
        one.findings["no_prompt"] = Tally(1, 1, [Instance("a", number + 1, None, "x")])
    audits[0].merge(audits[1])
    assert (audits[0].rows_in, audits[0].tokens, audits[0].lost) == (4, 6, Lost(11))
    assert [each.line for each in audits[0].findings["no_prompt"].instances] == [1, 2]


def test_plain_data_has_the_shape_that_is_documented() -> None:
    plain = audit_of(CASES["eval_leak"]).to_mapping()
    assert list(plain) == [
        *("format", "worst", "rows_in", "rows_kept", "examples", "tokens", "supervised_tokens"),
        *("turns", "turns_without_stop", "rows_expanded", "repeated_tokens", "rows_rejected"),
        *("supervised_share", "stop_rate", "lost", "findings", "rejections", "statistics"),
        "not_told",
    ]
    assert (plain["format"], plain["worst"]) == (FORMAT, "error")
    assert list(plain["findings"]) == ["eval_leak"]
    assert plain["findings"]["eval_leak"]["fix"] == FOUND["eval_leak"].fix
