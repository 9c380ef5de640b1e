"""Data files are audited by processes, with the same result for any number of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lossmask import Fit, InputError, Lost, Policy, audit_data, rendering
from lossmask.audit_data import audit
from lossmask.confinement import Limits
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import Encoder
from lossmask.errors import BackendDiffers
from lossmask.preparing import EncoderSource
from tests.audit_cases import LAST_REASONING_ONLY
from tests.scenarios import assistant, system, user

TRIMMING = LAST_REASONING_ONLY.replace("{{ m.content }}", "{{ m.content | trim }}")
PLAIN = [user("Q0?"), assistant("A1.")]
REWRITTEN = [
    user("Q0? Go."),
    assistant("A1.", reasoning_content="R1"),
    user("Q2?"),
    assistant("A3.", reasoning_content="R3"),
]
TRIMMED = [system(" S0 "), user("Q1?"), assistant("A2. ")]
REFUSED = [user("Q0 <|im_end|>"), assistant("A1.")]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "chats.jsonl", PLAIN, REWRITTEN, TRIMMED, REFUSED, PLAIN)


def source(**changes: Any) -> EncoderSource:
    return EncoderSource(str(DEMO_MODEL), chat_template=TRIMMING, **changes)


def test_every_row_is_counted_with_what_was_found(data: Path) -> None:
    found = audit([data], source(), limits=Limits())
    assert (found.rows_in, found.rows_kept, found.rows_rejected) == (5, 4, 1)
    encoder = source().load()
    kept = [e for row in (PLAIN, REWRITTEN, TRIMMED, PLAIN) for e in encoder.encode(row)]
    assert (found.examples, found.tokens) == (len(kept), sum(map(len, kept)))
    assert found.supervised_tokens == sum(example.supervised_count for example in kept)
    assert {kind: (t.rows, t.count) for kind, t in found.findings.items()} == {
        "text_trimmed": (1, 2),
        "history_expanded": (1, 1),
        "duplicate_conversation": (1, 1),
    }
    [place] = found.findings["text_trimmed"].instances
    assert str(place).startswith(f"{data}:3, message 0: the template cut white space")
    [place] = found.findings["duplicate_conversation"].instances
    assert str(place) == f"{data}:5: the same as {data}:1"
    assert {reason: t.rows for reason, t in found.rejections.items()} == {
        "control_token_in_content": 1
    }


def test_the_audit_is_the_same_for_any_number_of_processes_and_with_proof(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = audit([data], source(), limits=Limits(), eval_paths=[data])
    monkeypatch.setattr(audit_data, "ROWS_PER_CHUNK", 2)
    again = audit([data], source(proof="rows"), limits=Limits(), workers=2, eval_paths=[data])
    assert again.to_mapping() == once.to_mapping()
    assert once.findings["eval_leak"].rows == 4


def test_what_truncation_takes_away_is_added_up(data: Path) -> None:
    rows = (PLAIN, REWRITTEN, TRIMMED, PLAIN)
    examples = [e for row in rows for e in source().load().encode(row)]
    longest = max(examples, key=len)
    cut = source(fit=Fit(len(longest) - 1, "drop"))
    found = audit([data], cut, limits=Limits())
    assert found.lost == Lost(len(longest), longest.supervised_count, turns=1, examples=1)
    assert found.to_mapping()["lost"]["tokens"] == len(longest)
    assert found.tokens + found.lost.tokens == sum(map(len, examples))


def test_no_rows_is_an_error_of_data_and_of_evaluation_data(data: Path, tmp_path: Path) -> None:
    empty = tmp_path / "none.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match="no rows in"):
        audit([empty], source(), limits=Limits())
    with pytest.raises(InputError, match="no rows in"):
        audit([data], source(), limits=Limits(), eval_paths=[empty])


def test_evaluation_data_that_cannot_be_read_is_an_error(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "eval.jsonl"
    broken.write_text('{"messages": [{"role": "user", "content": "Q"}]}\nno\n')
    with pytest.raises(InputError, match=r"eval.jsonl:2 of the evaluation data cannot be read: "):
        audit([data], source(), limits=Limits(), eval_paths=[broken])


def test_a_backend_that_differs_is_not_used_again(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = audit_data._audit, []

    def once(paths: Any, source: EncoderSource, *rest: Any) -> Any:
        seen.append(source.fast)
        if source.fast:
            raise BackendDiffers("other ids")
        return real(paths, source, *rest)

    monkeypatch.setattr(audit_data, "_audit", once)
    assert audit([data], source(), limits=Limits()).rows_in == 5
    assert seen == [True, False]


def test_proving_rows_rejects_a_row_whose_derivations_disagree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = Encoder.from_pretrained(DEMO_MODEL, Policy(), proof="rows")
    assert encoder.encode_row({"messages": PLAIN}).rejection is None
    right = rendering.trace_messages

    def swapped(messages: Any) -> Any:
        traced, leaves = right(messages)
        return traced, tuple(reversed(leaves))

    monkeypatch.setattr(rendering, "trace_messages", swapped)
    outcome = encoder.encode_row({"messages": PLAIN})
    assert outcome.rejection is not None
