"""What differs, in sentences that a person can act on, and as plain data."""

from __future__ import annotations

import json
from collections import Counter

from lossmask import Rejection, Span
from lossmask.diff_words import Sides, diff_mapping, sentences
from lossmask.diffing import Diff, compare_examples
from tests.hand_made import made

SIDES = Sides("lossmask", "TRL 1.16", "its template", "SFTTrainer")


def diff_of(*rows: tuple[list[int], list[int]], limit: int = 1) -> Diff:
    """Compare rows of ``U Hi A Yo E``, each with what is trained of A and of B."""
    diff = Diff()
    spans = [Span(1, 4, 7, 3, 5, "E")]
    for number, (mine, theirs) in enumerate(rows):
        a, b = (
            made("U|Hi|A|Yo|E", each, owners=[-1, 0, -1, 1, -1], spans=spans)
            for each in (mine, theirs)
        )
        messages = [{"role": "user"}, {"role": "assistant"}]
        found = compare_examples([a], [b], messages, row=number, place=f"f:{number + 1}")
        diff.add_compared(found, limit)
    return diff


def test_sentences_say_who_trains_what_of_how_many_rows() -> None:
    diff = diff_of(([3, 4], [0, 1, 3]), ([3, 4], [2, 3]), ([3, 4], [3, 4]))
    diff.add_rejected("f:4", None, Rejection("trl_raises", "no", None))
    assert sentences(diff, SIDES) == [
        "TRL 1.16 rejects 1 of 4 rows (trl_raises)",
        "TRL 1.16 trains 2 tokens that no model generates: text of the template, such as headers, "
        "in 2 rows",
        "TRL 1.16 trains 1 token of user messages, in 1 row",
        "TRL 1.16 does not train 2 stop tokens, in 2 rows: those turns do not teach when to stop",
    ]


def test_stop_tokens_that_only_b_trains_are_nothing_to_warn_of() -> None:
    assert sentences(diff_of(([3], [3, 4])), SIDES) == ["TRL 1.16 trains 1 stop token"]


def test_a_side_that_trains_nothing_or_everything_is_told_first() -> None:
    nothing = sentences(diff_of(([3, 4], [])), SIDES)
    assert nothing[0] == "TRL 1.16 trains nothing: not one of 5 tokens is in its loss"
    everything = sentences(diff_of(([3, 4], [0, 1, 2, 3, 4])), SIDES)
    assert everything[0] == "TRL 1.16 trains every one of its 5 tokens"


def test_text_weights_tokens_and_numbers_of_examples_are_told() -> None:
    found = Diff(rows=2, differing=2, tokens=(9, 9), supervised=(4, 4))
    found.rows_by_kind = Counter({"text": 2, "ids": 1, "weight": 1, "examples": 1})
    found.tokens_by_kind = Counter({"weight": 3})
    assert sentences(found, SIDES) == [
        "3 tokens, in 1 row: in the loss of both, with other weights",
        "the text differs in all 2 rows",
        "the same text is other tokens in 1 of 2 rows",
        "lossmask and TRL 1.16 make different numbers of examples of 1 of 2 rows",
    ]


def test_tokens_that_only_one_side_has_are_not_told_as_left_out_of_the_loss() -> None:
    found = Diff(rows=1, differing=1, tokens=(9, 9), supervised=(4, 4))
    found.lost = Counter({"further example": 5, "stop token of other text": 1})
    found.added = Counter({"answer of other text": 3, "other text": 2})
    assert sentences(found, SIDES) == [
        "TRL 1.16 trains 3 tokens of answers, in text that lossmask does not have",
        "TRL 1.16 trains 2 tokens of text that the other side does not have",
        "lossmask trains 5 tokens in further examples, which TRL 1.16 does not make",
        "lossmask trains 1 stop token, in text that TRL 1.16 does not have",
    ]


def test_nothing_is_said_of_what_does_not_differ() -> None:
    assert sentences(diff_of(([3, 4], [3, 4])), SIDES) == []


def test_the_mapping_accounts_for_rows_and_lists_every_change() -> None:
    diff = diff_of(([3, 4], [0, 3]), ([3, 4], [3, 4]))
    diff.add_rejected("f:3", Rejection("bad", "no", 1), None)
    written = json.loads(json.dumps(diff_mapping(diff, SIDES)))
    assert written.pop("summary") == sentences(diff, SIDES)
    assert written == {
        "a": {"name": "lossmask", "about": "its template"},
        "b": {"name": "TRL 1.16", "about": "SFTTrainer"},
        "rows": 3,
        "same": 1,
        "differing": 1,
        "only_a": 0,
        "only_b": 1,
        "neither": 0,
        "tokens": [10, 10],
        "supervised_tokens": [4, 4],
        "kinds": {"only_a": {"rows": 1, "tokens": 1}, "only_b": {"rows": 1, "tokens": 1}},
        "only_in_loss_of_a": {"stop token": {"tokens": 1, "rows": 1}},
        "only_in_loss_of_b": {"template": {"tokens": 1, "rows": 1}},
        "rejected_a": {"bad": {"rows": 1, "first": "f:3: message 1: no"}},
        "rejected_b": {},
        "shown": [
            {
                "row": 0,
                "place": "f:1",
                "kinds": ["only_a", "only_b"],
                "examples": [
                    {
                        "tokens": [5, 5],
                        "changes": [
                            {
                                "kinds": ["only_b"],
                                "what": "template",
                                "tokens_a": [0, 1],
                                "tokens_b": [0, 1],
                                "text_a": "U",
                                "text_b": "U",
                                "weights_a": [0.0],
                                "weights_b": [1.0],
                            },
                            {
                                "kinds": ["only_a"],
                                "what": "stop token",
                                "tokens_a": [4, 5],
                                "tokens_b": [4, 5],
                                "text_a": "E",
                                "text_b": "E",
                                "weights_a": [1.0],
                                "weights_b": [0.0],
                            },
                        ],
                    }
                ],
            }
        ],
    }
