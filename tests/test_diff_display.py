"""A diff at a terminal: exact lines, aligned, in brackets without colour, nothing steers it."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len

from lossmask import Example, Rejection, Span
from lossmask.diff_display import show_diff, show_legend, show_row
from lossmask.diff_words import Sides
from lossmask.diffing import Diff, RowDiff, compare_examples
from tests.hand_made import made
from tests.test_terminal import drawn

MESSAGES = [{"role": "user"}, {"role": "assistant"}]
SPANS = [Span(1, 4, 7, 3, 5, "E")]


def turn(trained: Any = (3, 4), tokens: str = "U\n|Hi\n|A\n|Yo|E|\n") -> Example:
    owners = [-1, 0, -1, 1, -1, -1]
    return made(tokens, trained, owners=owners, spans=SPANS)


def row_of(a: list[Example], b: list[Example], **more: Any) -> RowDiff:
    return compare_examples(a, b, MESSAGES, row=0, place="f.jsonl:1", **more)


def lines(found: RowDiff, *, width: int = 60, **more: Any) -> list[str]:
    shown = drawn(show_row(found, colour=False, width=width, **more), width=width)
    assert all(cell_len(line) <= width for line in shown)
    return [line for line in shown if line]


def test_lines_that_differ_are_drawn_above_each_other_with_marks_below() -> None:
    found = row_of([turn()], [turn([2, 3])])
    assert lines(found) == [
        "f.jsonl:1 ".ljust(60, "─"),
        "in the loss of A only; in the loss of B only",
        "               ⋮ 1 line alike",
        "      0 user   │ Hi⏎",
        "             A │ ╌A⏎",
        "             B │ ⟦A⏎⟧",
        "               │  ++",
        " 1 assistant A │ ⟦Yo╌E⟧⏎",
        "             B │ ⟦Yo⟧E╌⏎",
        "               │     -",
        " A  B     what        text",
        " 2  2  +  template    A⏎",
        " 4  4  -  stop token  E",
    ]


def test_all_lines_are_drawn_of_one_row_that_is_asked_for() -> None:
    assert lines(row_of([turn()], [turn()]), most_lines=None) == [
        "f.jsonl:1 ".ljust(60, "─"),
        "no difference",
        "               │ U⏎",
        "      0 user   │ Hi⏎",
        "               │ A⏎",
        " 1 assistant   │ ⟦YoE⟧⏎",
    ]


def test_text_that_one_side_lacks_is_a_gap_and_columns_stay_aligned() -> None:
    a, b = made("U|Hi|.|E", [3]), made("U|<t>|Hi|!!!|E", [4])
    found = lines(row_of([a], [b]))
    assert found[2:5] == [
        "             A │ U╌╌╌Hi.╌╌⟦E⟧",
        "             B │ U<t>Hi!!!⟦E⟧",
        "               │  !!!  !!!",
    ]
    assert found[5:] == [
        " A  B     what      text",
        "    1  !  template  <t>",
        " 2  3  !  template  . → !!!",
    ]


def test_other_tokens_of_the_same_text_show_where_each_begins() -> None:
    a, b = made("Q: | |re|turns", [2, 3]), made("Q: | re|turns", [1, 2])
    assert lines(row_of([a], [b]))[2:7] == [
        "             A │ Q: ╌ ¦⟦returns⟧",
        "             B │ Q: ⟦ ╌╌returns⟧",
        "               │     +  ++",
        " A    B     what      weight    text",
        " 1-2  1  +  template  0, 1 → 1   re",
    ]


def test_part_of_a_character_that_is_not_trained_is_marked() -> None:
    a, b = made("x|🎉|🎉", [1, 2], shared=[2]), made("x|🎉|🎉", [1], shared=[2])
    assert lines(row_of([a], [b]))[2:5] == [
        "             A │ x⟦🎉⟧",
        "             B │ x⟦🎉⟧",
        "               │   --",
    ]


def test_other_weights_are_told_in_numbers() -> None:
    found = lines(row_of([turn()], [turn({3: 0.5, 4: 1})]))
    assert found[3:] == [
        "               │ A⏎",
        " 1 assistant A │ ⟦YoE⟧⏎",
        "             B │ ⟦YoE⟧⏎",
        "               │  ~~",
        " A  B     what    weight   text",
        " 3  3  ~  answer  1 → 0.5  Yo",
    ]


def test_an_example_that_only_one_side_has_is_drawn_alone() -> None:
    found = lines(row_of([turn()], [turn(), turn([3], "U\n|Ha\n|A\n|Yo|E|\n")]))
    assert found[1:] == [
        "another number of examples; in the loss of B only",
        "example 1 of 2",
        "               ⋮ 4 lines alike",
        "example 2 of 2: B only, 1 token in the loss",
        "             B │ U⏎",
        "      0 user B │ Ha⏎",
        "             B │ A⏎",
        " 1 assistant B │ ⟦Yo⟧E⏎",
    ]


def test_long_lines_are_broken_in_both_at_once_and_long_rows_cut() -> None:
    words = "|".join(["word"] * 40)
    found = lines(row_of([made(words)], [made(words, range(40))]), width=40, most_lines=3)
    assert found[2:5] == [
        "             A │ ╌wordwordwordword",
        "             B │ ⟦wordwordwordword⟧",
        "               │  ++++++++++++++++",
    ]
    assert found[11] == "               ⋮ 7 lines not shown"
    long = "a" * 300
    assert len(lines(row_of([made(long)], [made(long, [0])]), width=40)) > 30


def test_nothing_that_stands_in_the_data_steers_the_terminal() -> None:
    hostile = made("[red]x[/]|\x1b[2J|\u202e", [0])
    found = compare_examples(
        [hostile], [made("[red]x[/]|\x1b[2J|\u202e")], (), row=0, place="[b]\x1b:1"
    )
    shown = lines(found)
    assert shown[0].startswith("[b]␛:1 ─")
    assert shown[2].endswith("│ ⟦[red]x[/]⟧␛[2J\\u202e")
    assert "\x1b" not in "".join(shown)


def test_colour_marks_what_is_trained_and_stops_of_either_side() -> None:
    bare = turn([3, 4])
    bare = Example(
        bare.text, bare.input_ids, bare.offsets, bare.loss_weights, bare.message_index, ()
    )
    found = row_of([turn([3])], [bare])
    shown = drawn(show_row(found, colour=True, width=60), colour=True, width=60)
    stop = "\x1b[1;38;2;255;255;255;48;2;194;48;74mE"
    assert [k for k, line in enumerate(shown) if stop in line] == [5]
    assert stop not in shown[4]  # the stop token of A is not in its loss


def test_the_account_names_both_sides_and_every_row() -> None:
    diff = Diff()
    diff.add_compared(row_of([turn()], [turn([3])]), 1)
    diff.add_same(6, 2)
    diff.add_rejected("f.jsonl:3", None, Rejection("trl_raises", "[b]bad[/]\x1b", 1))
    diff.add_rejected("f.jsonl:4", Rejection("bad", "no", None), None)
    diff.add_rejected("f.jsonl:5", Rejection("bad", "no", None), Rejection("bad", "no", None))
    sides = Sides("A", "TRL", "tokenizer t", "SFTTrainer")
    assert drawn(show_diff(diff, sides), width=70) == [
        "A  tokenizer t",
        "B  TRL: SFTTrainer",
        "",
        "5  rows",
        "1  the same on both sides",
        "1  differ",
        "1  rejected by TRL only",
        "1    trl_raises, first: f.jsonl:3: message 1: [b]bad[/]␛",
        "1    bad, first: f.jsonl:5: no",
        "1  rejected by A only",
        "2    bad, first: f.jsonl:4: no",
        "1  rejected by both",
        "4  of 12 tokens in the loss of A (33.3%)",
        "3  of 12 tokens in the loss of B (25.0%)",
        "",
        "  difference                 rows    tokens",
        "  - in the loss of A only       1         1",
        "",
        "• A rejects 2 of 5 rows (bad)",
        "• TRL rejects 1 of 5 rows (trl_raises)",
        "• TRL rejects 1 of 5 rows (bad)",
        "• TRL does not train 1 stop token, in 1 row: those turns do not teach",
        "  when to stop",
        "",
    ]


def test_the_legend_explains_every_mark() -> None:
    text = "".join(drawn(show_legend()))
    assert all(mark in text for mark in "-+±~≈!╌¦")
