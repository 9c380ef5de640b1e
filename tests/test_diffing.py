"""Which rows and tokens differ, and that every row is accounted for."""

from __future__ import annotations

from typing import Any

import pytest

from lossmask import Example, Outcome, Rejection, Span
from lossmask.diffing import Change, Comparison, Diff, RowDiff, compare_examples
from lossmask.layout import Layout
from lossmask.raw_rows import RawRow, json_bytes
from tests.hand_made import made
from tests.scenarios import assistant, user

MESSAGES = [user("Hi"), assistant("Yo")]
OWNERS = [-1, 0, -1, 1, -1, -1]
SPANS = [Span(1, 4, 7, 3, 5, "E")]


def turn(trained: Any = (3, 4), tokens: str = "U|Hi|A|Yo|E|N", **more: Any) -> Example:
    """Return ``U Hi A Yo E N``: header, user, header, answer, stop, line feed."""
    return made(tokens, trained, **{"owners": OWNERS, "spans": SPANS, **more})


def compared(a: list[Example], b: list[Example], **more: Any) -> RowDiff:
    return compare_examples(a, b, MESSAGES, row=0, place="f:1", **more)


def changes(a: Example, b: Example, **more: Any) -> list[Change]:
    return list(compared([a], [b], **more).pairs[0].changes)


def test_the_same_examples_do_not_differ() -> None:
    found = compared([turn()], [turn()])
    assert (found.kinds, found.pairs[0].changes) == ((), ())


def test_runs_of_tokens_are_told_by_what_happens_to_them_and_what_they_are() -> None:
    assert changes(turn({3: 1, 4: 1}), turn({1: 1, 2: 1, 3: 0.5})) == [
        Change(1, 2, 1, 2, ("only_b",), "user message", {}, {"user message": 1}),
        Change(2, 3, 2, 3, ("only_b",), "template", {}, {"template": 1}),
        Change(3, 4, 3, 4, ("weight",), "answer", {}, {}, 1),
        Change(4, 5, 4, 5, ("only_a",), "stop token", {"stop token": 1}, {}),
    ]


def test_a_change_ends_where_a_token_in_between_does_not_differ() -> None:
    found = changes(made("a|b|c"), made("a|b|c", [0, 2]))
    assert [(each.a_start, each.a_end) for each in found] == [(0, 1), (2, 3)]


def test_other_text_loses_and_gains_its_own_labels() -> None:
    other = turn((2, 3), "U|Hi|A|No|E|N")
    assert changes(turn(), other) == [
        Change(2, 3, 2, 3, ("only_b",), "template", {}, {"template": 1}),
        Change(
            *(3, 4, 3, 4, ("text", "only_a", "only_b"), "answer"),
            {"answer of other text": 1},
            {"answer of other text": 1},
        ),
        Change(4, 5, 4, 5, ("only_a",), "stop token", {"stop token": 1}, {}),
    ]


def test_the_same_text_in_other_tokens_is_held_against_each_other_by_characters() -> None:
    a = made("Q|: |re|turns", {2: 1, 3: 1}, owners=[-1, -1, 0, 0])
    b = made("Q|:| re|turns", {2: 1, 3: 0.5}, owners=[-1, -1, 0, 0])
    assert changes(a, b) == [
        Change(1, 3, 1, 3, ("ids", "only_b"), "user message", {}, {"user message": 1}),
        Change(3, 4, 3, 4, ("weight",), "user message", {}, {}, 1),
    ]
    assert changes(b, a)[0].lost == {"user message": 1}
    both = changes(made("ab|c", {0: 1}), made("a|b|c", {0: 0.5, 1: 1}))
    assert [(each.kinds, each.reweighted) for each in both] == [(("ids", "weight"), 1)]


def test_what_another_tool_does_not_tell_is_told_by_a_where_the_text_is_the_same() -> None:
    known = turn()
    bare = made("U|Hi|A|Y|o|E|N|X", [0, 1, 3, 4, 7])
    found = compared([known], [bare], places_b=None).pairs[0]
    assert [(each.kinds, each.place, dict(each.added)) for each in found.changes] == [
        (("only_b",), "template", {"template": 1}),
        (("only_b",), "user message", {"user message": 1}),
        (("ids",), "answer", {}),
        (("only_a",), "stop token", {}),
        (("text", "only_b"), "other text", {"other text": 1}),
    ]
    assert found.b is not None
    assert found.b.message_index.tolist() == [-1, 0, -1, 1, 1, -1, -1, -1]
    split = compared([known], [made("U|Hi|A|Y|o|E|N", [3])], places_b=None).pairs[0]
    assert dict(split.changes[0].lost) == {"answer": 1}


def test_a_token_of_b_is_what_the_token_of_a_is_that_its_text_begins_in() -> None:
    known = made("ab|cd|e", owners=[0, 1, -1])
    found = compared([known], [made("abc|d|e", [0, 1])], places_b=None).pairs[0]
    assert found.b is not None
    assert found.b.message_index.tolist() == [0, 1, -1]
    assert dict(found.changes[0].added) == {"user message": 1, "assistant message": 1}


def test_an_example_that_only_one_side_has_is_a_change_as_a_whole() -> None:
    found = compared([turn(), turn((3,), "U|Ha|A|Yo|E|N")], [turn()])
    assert found.kinds == ("examples", "only_a")
    assert found.pairs[1].b is None
    assert found.pairs[1].changes == (
        Change(0, 6, 0, 0, ("examples", "only_a"), "template", {"further example": 1}, {}),
    )
    other = compared([turn()], [turn(), turn((3,), "U|Ha|A|Yo|E|N")], places_b=None)
    assert dict(other.pairs[1].changes[0].added) == {"further example": 1}


def raw(number: int) -> RawRow:
    return RawRow("f.jsonl", number + 1, number, json_bytes({"messages": MESSAGES}))


REFUSED = Outcome(rejection=Rejection("bad", "no such role", 1))


def account(diff: Diff) -> dict[str, Any]:
    names = ("rows", "same", "differing", "only_a", "only_b", "neither")
    return {name: getattr(diff, name) for name in names}


def test_every_row_is_accounted_for_and_the_first_that_differ_are_kept() -> None:
    same, other = Outcome((turn(),)), Outcome((turn((3,)),))
    mine = [same, same, REFUSED, REFUSED, same, same]
    theirs = [same, other, same, REFUSED, REFUSED, other]
    found = Comparison(mine, Layout(), 1)
    for number, outcome in enumerate(theirs):
        found.add(raw(number), outcome)
    found.close()
    diff = found.diff
    assert found.ours == ()
    assert account(diff) == {
        "rows": 6,
        "same": 1,
        "differing": 2,
        "only_a": 1,
        "only_b": 1,
        "neither": 1,
    }
    assert (diff.tokens, diff.supervised) == ((18, 18), (6, 4))
    assert dict(diff.lost) == {"stop token": 2}
    assert dict(diff.lost_rows) == {"stop token": 2}
    assert diff.rejected_a["bad"].rows == 2
    assert diff.rejected_a["bad"].first == "f.jsonl:3: message 1: no such role"
    assert diff.rejected_b["bad"].first == "f.jsonl:4: message 1: no such role"
    assert [(each.row, each.messages) for each in diff.shown] == [(1, tuple(MESSAGES))]
    assert not diff.is_same


def test_a_row_that_does_not_differ_is_kept_where_that_is_asked_for() -> None:
    found = Comparison([Outcome((turn(),))], Layout(), 0, keeps_same=True)
    found.add(raw(0), Outcome((turn(),)))
    assert [each.kinds for each in found.diff.shown] == [()]
    assert found.diff.is_same


def test_ids_without_text_are_drawn_with_the_text_of_a() -> None:
    bare = turn((3,))
    bare = Example("?", bare.input_ids, bare.offsets, bare.loss_weights, bare.message_index, ())
    found = Comparison([Outcome((turn(),))], Layout(), 1, knows_b=False)
    found.add(raw(0), Outcome((bare,)))
    [shown] = found.diff.shown
    assert shown.kinds == ("only_a",)
    assert shown.pairs[0].b is not None
    assert shown.pairs[0].b.text == "UHiAYoEN"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_diffs_of_parts_add_up_in_any_order(order: tuple[int, int]) -> None:
    parts = []
    for number in range(2):
        part = Comparison([Outcome((turn(),)), REFUSED], Layout(), 5)
        part.add(raw(2 * number), Outcome((turn((3, number)),)))
        part.add(raw(2 * number + 1), Outcome((turn(),)))
        parts.append(part.diff)
    whole = Diff()
    for number in order:
        whole.merge(parts[number], 5)
    assert account(whole) == {
        "rows": 4,
        "same": 0,
        "differing": 2,
        "only_a": 0,
        "only_b": 2,
        "neither": 0,
    }
    assert dict(whole.lost) == {"stop token": 2}
    assert dict(whole.added) == {"template": 1, "user message": 1}
    assert whole.rows_by_kind["only_b"] == 2
    assert whole.tokens_by_kind["only_b"] == 2
    assert [each.row for each in whole.shown] == [0, 2]
    assert whole.rejected_a["bad"].rows == 2
    whole.merge(Diff(), 1)
    assert [each.row for each in whole.shown] == [0]
