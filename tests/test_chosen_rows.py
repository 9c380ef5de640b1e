"""Rows as one types them are exactly those rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossmask import InputError, PolicyError
from lossmask.chosen_rows import ChosenRows


def test_numbers_and_ranges_are_read() -> None:
    chosen = ChosenRows.parse([1], " 3, 7-9 ,100-")
    assert [row for row in range(120) if row in chosen] == [1, 3, 7, 8, 9, *range(100, 120)]
    assert chosen.end is None
    assert ChosenRows.parse([4], "2-3").end == 5
    assert ChosenRows.parse().end == 0


@pytest.mark.parametrize("listed", ["", "a", "3,", "-3", "1-2-3", "1.5"])
def test_what_is_no_list_of_rows_is_refused(listed: str) -> None:
    with pytest.raises(PolicyError, match="is no row; give numbers from 0 and ranges, as 3,7-9"):
        ChosenRows.parse([], listed)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(PolicyError, match="--rows '3,9-7': 9-7 ends before it begins"):
        ChosenRows.parse([], "3,9-7")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f'{{"n": {number}}}\n' for number in range(5)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("listed", "expected"), [("3,1,1", [1, 3]), ("2-", [2, 3, 4]), ("0-1,1-2", [0, 1, 2])]
)
def test_rows_come_once_each_in_the_order_of_the_file(
    listed: str, expected: list[int], file: Path
) -> None:
    assert [raw.row for raw in ChosenRows.parse([], listed).of([file])] == expected


@pytest.mark.parametrize("listed", ["1,5", "4-5", "7-"])
def test_rows_that_are_not_there_are_named_once_the_others_were_given(
    listed: str, file: Path
) -> None:
    last = listed.rstrip("-").split(",")[-1].split("-")[-1]
    rows = ChosenRows.parse([], listed)
    found = [row for row in range(5) if row in rows]
    given = rows.of([file])
    assert [next(given).row for _ in found] == found
    with pytest.raises(InputError, match=f"has 5 rows, numbered from 0: there is no row {last}"):
        next(given)
