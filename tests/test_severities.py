"""One table says of every kind how bad it is, what it does and how to fix it."""

from __future__ import annotations

import inspect
import re

import pytest

from lossmask import severities
from lossmask.explanations import FINDINGS, REASONS
from lossmask.severities import AUDITED, FOUND, REJECTED, SEVERITIES, Advice


def test_every_kind_of_finding_and_every_reason_is_in_the_table() -> None:
    assert FOUND.keys() == FINDINGS.keys() | AUDITED.keys()
    assert not FINDINGS.keys() & AUDITED.keys()
    assert REJECTED.keys() == REASONS.keys()


def test_every_kind_and_every_reason_stands_in_the_table_once() -> None:
    source = inspect.getsource(severities)
    kinds = re.findall(r'_(?:error|warning|note)\(\s*"(\w+)"', source)
    assert sorted(kinds) == sorted(FOUND)
    assert sorted(re.findall(r'_row\(\s*"(\w+)"', source)) == sorted(REJECTED)


@pytest.mark.parametrize("advice", [*FOUND.values(), *REJECTED.values()])
def test_effect_and_fix_are_a_sentence_each(advice: Advice) -> None:
    assert advice.severity in SEVERITIES
    for text in (advice.effect, advice.fix):
        assert re.fullmatch(r"[A-Z].*\.", text)
        assert ". " not in text
    assert advice.meaning == advice.meaning.strip() != ""


def test_a_rejected_row_is_an_error() -> None:
    assert {advice.severity for advice in REJECTED.values()} == {"error"}
