"""A share or a number of rejected rows is read exactly and checked exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossmask import PolicyError, PreparedDataError
from lossmask.max_rejected import MaxRejected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", MaxRejected(rows=0)),
        ("20", MaxRejected(rows=20)),
        ("1%", MaxRejected(share=0.01)),
        (" 0.5% ", MaxRejected(share=0.005)),
        ("100%", MaxRejected(share=1)),
    ],
)
def test_numbers_and_shares_are_read(text: str, expected: MaxRejected) -> None:
    assert MaxRejected.parse(text) == expected


@pytest.mark.parametrize("text", ["", "%", "-1", "1.5", "101%", "nan%", "1%%", "1% of all", "few"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="expected a number of rows such as 20, or a share"):
        MaxRejected.parse(text)


@pytest.mark.parametrize(
    ("text", "rejected", "passes"),
    [("2", 2, True), ("2", 3, False), ("1%", 10, True), ("1%", 11, False), ("0", 1, False)],
)
def test_so_many_may_be_rejected_and_no_more(text: str, rejected: int, passes: bool) -> None:
    most = MaxRejected.parse(text)
    if passes:
        most.check(rejected, 1000, Path("out/rejected.jsonl"))
        return
    share = f"{rejected / 10:.2f}%"
    with pytest.raises(PreparedDataError, match=rf"{rejected} of 1,000 rows \({share}"):
        most.check(rejected, 1000, Path("out/rejected.jsonl"))


def test_the_error_names_the_limit_and_the_file() -> None:
    told = "more than --max-rejected 1%: see out/rejected"
    with pytest.raises(PreparedDataError, match=told) as caught:
        MaxRejected.parse("1%").check(2, 100, Path("out/rejected.jsonl"))
    assert caught.value.reason == "too_many_rejected"
