"""What is counted keeps the first places at which it was found."""

from __future__ import annotations

from lossmask.data_files import RawRow
from lossmask.severities import FOUND
from lossmask.tallies import SHOWN, Instance, Tally, worst_first


def raw(line: int, *, is_record: bool = False) -> RawRow:
    return RawRow("a.jsonl", line, line - 1, b"{}", is_record)


def test_a_row_counts_once_however_often_it_holds_a_thing() -> None:
    tally = Tally()
    tally.add(raw(7), [(2, "odd"), (3, "odd too")])
    tally.add(raw(8, is_record=True), [(-1, "odd again")])
    assert (tally.rows, tally.count) == (2, 3)
    assert [str(each) for each in tally.instances] == [
        "a.jsonl:7, message 2: odd",
        "a.jsonl#8: odd again",
    ]


def test_merging_adds_up_and_keeps_the_first_places() -> None:
    one, other = Tally(), Tally()
    for number in range(SHOWN - 1):
        one.add(raw(number + 1), [(None, "x")])
        other.add(raw(number + 9), [(None, "x")])
    one.merge(other)
    assert (one.rows, one.count) == (4, 4)
    assert [each.line for each in one.instances] == [1, 2, 9]
    one.merge(Tally(5, None))
    assert (one.rows, one.count) == (None, 9)


def test_plain_data_says_where_how_often_and_what_to_do() -> None:
    tally = Tally(3, 2, [Instance("a#b", -4, 1, "odd"), Instance("", 0, None, "all of it")])
    advice = FOUND["eval_leak"]
    assert tally.to_mapping(advice, 8) == {
        "severity": "error",
        "count": 3,
        "rows": 2,
        "share": 0.25,
        "meaning": advice.meaning,
        "effect": advice.effect,
        "fix": advice.fix,
        "examples": [
            {"place": "a#b#4, message 1", "file": "a#b", "line": 4, "message": 1, "detail": "odd"},
            {"place": None, "file": None, "line": None, "message": None, "detail": "all of it"},
        ],
    }
    assert Tally(3, None).to_mapping(advice, 8)["share"] is None


def test_the_worst_comes_first_and_then_what_most_rows_have() -> None:
    tallies = {
        "text_trimmed": Tally(9, 9),
        "system_dropped": Tally(1, 1),
        "eval_leak": Tally(1, 1),
        "end_cut": Tally(7, 7),
    }
    assert [kind for kind, _ in worst_first(tallies, FOUND)] == [
        *("eval_leak", "end_cut", "system_dropped", "text_trimmed")
    ]
