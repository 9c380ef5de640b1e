"""An audit counts every row, every loss, and what expansion repeats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lossmask import Fit, InputError, Lost, Policy, rendering
from lossmask.audit_display import show_audit
from lossmask.auditing import SHOWN, Audit, Tally, audit
from lossmask.confinement import Limits
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import Encoder
from lossmask.preparing import EncoderSource
from tests.scenarios import assistant, system, user

LAST_REASONING_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = [user("Q0?"), assistant("A1.")]
REWRITTEN = [
    user("Q0?"),
    assistant("A1.", reasoning_content="R1"),
    user("Q2?"),
    assistant("A3.", reasoning_content="R3"),
]
TRIMMED = [system(" S0 "), user("Q1?"), assistant("A2. ")]
REFUSED = [user("Q0 <|im_end|>"), assistant("A1.")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows: list[Any] = [PLAIN, REWRITTEN, TRIMMED, REFUSED]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def source(**changes: Any) -> EncoderSource:
    return EncoderSource(str(DEMO_MODEL), chat_template=LAST_REASONING_ONLY, **changes)


def test_every_row_is_counted_with_what_was_found_and_what_expansion_repeats(data: Path) -> None:
    found = audit([data], source(), limits=Limits())
    assert (found.rows_in, found.rows_kept, found.rows_rejected) == (4, 3, 1)
    assert (found.examples, found.rows_expanded, found.turns) == (4, 1, 4)
    assert found.turns_without_stop == 0
    encoder = source().load()
    _, first_turn = encoder.encode(REWRITTEN)
    assert found.repeated_tokens == len(first_turn) - first_turn.supervised_count
    kept = [e for row in (PLAIN, REWRITTEN, TRIMMED) for e in encoder.encode(row)]
    assert found.tokens == sum(map(len, kept))
    assert found.supervised_tokens == sum(example.supervised_count for example in kept)
    assert {kind: (t.rows, t.count) for kind, t in found.findings.items()} == {
        "text_trimmed": (1, 2)
    }
    [place] = found.findings["text_trimmed"].places
    assert place.startswith(f"{data}:3, message 0: the template cut white space")
    assert {reason: t.rows for reason, t in found.rejections.items()} == {
        "control_token_in_content": 1
    }


def test_the_audit_is_the_same_for_any_number_of_processes_and_with_proof(data: Path) -> None:
    once = audit([data], source(), limits=Limits())
    again = audit([data], source(proof="rows"), limits=Limits(), workers=2)
    assert again.to_mapping() == once.to_mapping()


def test_what_truncation_takes_away_is_added_up(data: Path) -> None:
    examples = [e for row in (PLAIN, REWRITTEN, TRIMMED) for e in source().load().encode(row)]
    longest = max(examples, key=len)
    cut = source(fit=Fit(len(longest) - 1, "drop"))
    found = audit([data], cut, limits=Limits())
    assert found.lost == Lost(len(longest), longest.supervised_count, turns=1, examples=1)
    assert found.to_mapping()["lost"]["tokens"] == len(longest)
    assert found.tokens + found.lost.tokens == sum(map(len, examples))
    assert audit([data], cut, limits=Limits(), workers=2).to_mapping() == found.to_mapping()


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "none.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match="no rows in"):
        audit([empty], source(), limits=Limits())


def test_merging_adds_up_and_keeps_the_first_places() -> None:
    audits = [Audit(rows_in=1, tokens=2, lost=Lost(5)), Audit(rows_in=3, tokens=4, lost=Lost(6))]
    for number, one in enumerate(audits):
        one.findings["no_prompt"] = _tally([f"{number}:{k}" for k in range(2)])
    audits[0].merge(audits[1])
    assert (audits[0].rows_in, audits[0].tokens, audits[0].lost) == (4, 6, Lost(11))
    tally = audits[0].findings["no_prompt"]
    assert (tally.rows, tally.count, tally.places) == (4, 4, ["0:0", "0:1", "1:0"])
    assert len(tally.places) == SHOWN


def test_the_drawing_names_every_number_and_place(data: Path) -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(show_audit(audit([data], source(), limits=Limits()), is_proved=True))
    text = capture.get()
    for piece in ("4  rows in", "3  kept", "1  rejected", "rows proved", "text_trimmed"):
        assert piece in text
    assert "control_token_in_content" in text


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


def _tally(places: list[str]) -> Tally:
    return Tally(len(places), len(places), places)
