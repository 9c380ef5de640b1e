"""An audit is drawn the worst first, in any width, and text of the data steers nothing."""

from __future__ import annotations

import pytest
from rich.console import Console

from lossmask import Encoder
from lossmask.audit_display import show_audit
from lossmask.auditing import Audit
from lossmask.diagnosis import Diagnosis, Fact
from lossmask.embedded import DEMO_MODEL
from lossmask.outcome import Lost, Outcome, Rejection
from lossmask.severities import FOUND, REJECTED
from lossmask.tallies import Instance, Tally
from tests.audit_cases import CASES, A, Case, Q, audit_of, raw_rows
from tests.scenarios import assistant, user


def drawn(audit: Audit, *, width: int = 80, colour: bool = False, **options: object) -> str:
    console = Console(
        width=width, force_terminal=colour, color_system="truecolor" if colour else None
    )
    with console.capture() as capture:
        console.print(show_audit(audit, **options))  # type: ignore[arg-type]
    return capture.get()


def full() -> Audit:
    """Return an audit of errors, warnings and notes."""
    audit = audit_of(CASES["eval_leak"])
    for kind in ("duplicate_prompt", "system_dropped"):
        audit.findings[kind] = Tally(2, 1, [Instance("a.jsonl", 3, 0, f"[bold]\x1b[31m{kind}")])
    rejection = Rejection("too_long", "it has 9 tokens", None)
    for raw in raw_rows("b.jsonl", [[Q, A]]):
        audit.add(raw, Outcome(rejection=rejection, lost=Lost(9, 4, 1, 1)))
    return audit


@pytest.mark.parametrize("width", [80, 120])
def test_the_worst_comes_first_with_effect_fix_and_place(width: int) -> None:
    text = drawn(full(), width=width)
    order = ["audit: 2 errors, 1 warning, 1 note", "too_long", "eval_leak", "system_dropped"]
    places = [text.index(piece) for piece in [*order, "duplicate_prompt", "statistics"]]
    assert places == sorted(places)
    flat = " ".join(text.split())
    for advice in (REJECTED["too_long"], FOUND["eval_leak"], FOUND["duplicate_prompt"]):
        assert f"effect {advice.effect}" in flat
        assert f"fix {advice.fix}" in flat
    assert "where data.jsonl:1: the prompt of eval.jsonl:1" in flat
    assert "1 rejected row (50.0%)" in flat
    assert "1 row (50.0%), 2 times" in flat
    assert max(map(len, text.splitlines())) <= width


def test_text_of_the_data_is_no_markup_and_steers_no_terminal() -> None:
    text = drawn(full())
    assert "[bold]␛[31msystem_dropped" in text
    assert "\x1b" not in text
    assert "\x1b" in drawn(full(), colour=True)


def test_nothing_found_says_so() -> None:
    assert "audit: nothing found" in drawn(audit_of(Case([[Q, A]])))


def test_statistics_show_parts_and_sources() -> None:
    rows = [{"messages": [Q, A], "source": name} for name in ("wiki", "[red]web", "web2")]
    audit = audit_of(Case([*rows, [user("Q2"), assistant("A3.")]]))
    text = drawn(audit)
    for piece in ("content", "stop", "prompt", "scaffold", "[red]web", "wiki", "data.jsonl"):
        assert piece in text
    assert "100.0% of supervised turns train their stop token" in text
    assert "█" in text
    assert "reasoning" not in text  # there is none


def test_many_sources_are_cut_short() -> None:
    rows = [{"messages": [user(f"Q{k}?"), A], "source": f"s{k}"} for k in range(11)]
    text = drawn(audit_of(Case(rows)))
    assert "3 more: --json" in text


def test_proof_and_what_cannot_be_told_are_said() -> None:
    audit = audit_of(Case([[Q, A]]))
    audit.not_told = ("Reasoning.",)
    audit.findings["text_trimmed"] = Tally(7, None)
    text = drawn(audit, is_proved=True)
    assert "1  rows proved: perturbation agrees with every origin" in text
    assert "text_trimmed  note  7 times" in text
    assert text.rstrip().endswith("Reasoning.")


def test_traits_of_the_template_that_need_care_are_listed() -> None:
    facts = tuple(
        Fact("stops", f"kind{k}", "error" if k == 7 else "warning", f"Trait {k}.") for k in range(8)
    )
    found = Diagnosis((*facts, Fact("stops", "fine", "ok", "Fine.")), "tokenizer", False, 1)
    text = drawn(audit_of(Case([[Q, A]])), template=found)
    assert "template: 8 of its traits need care" in text
    assert text.index("Trait 7.") < text.index("Trait 0.")
    assert "Fine." not in text
    assert "2 more; all of it: lossmask doctor" in text
    assert "template" not in drawn(audit_of(Case([[Q, A]])), template=None)


def test_an_audit_of_rejected_rows_alone_can_be_drawn() -> None:
    encoder = Encoder.from_pretrained(DEMO_MODEL)
    audit = Audit()
    for raw in raw_rows("a", [[Q]]):
        audit.add(raw, encoder.encode_row(raw.parse()))
    text = drawn(audit)
    assert "no_assistant" in text
    assert "statistics" not in text
