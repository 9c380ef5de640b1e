"""Rows that repeat others are found whatever chunk they are in."""

from __future__ import annotations

from typing import Any

import pytest

from lossmask.repeated_rows import Repeated, Repeats, RowTable, RowTexts, identity_of
from tests.scenarios import WEATHER, assistant, system, user

LONG = "Which of the two ships sailed around the cape of good hope first, and when was that?"


def row(*messages: Any, **keys: Any) -> dict[str, Any]:
    return {"messages": list(messages), **keys}


def closed(rows: list[dict[str, Any]], *, first: int = 1, file: str = "a") -> RowTexts:
    texts = RowTexts()
    for number, each in enumerate(rows, start=first):
        texts.add(file, number, identity_of(each))
    texts.close()
    return texts


def table_of(repeats: Repeats, *chunks: list[dict[str, Any]], file: str = "a") -> RowTable:
    numbered, line = [], 1
    for chunk in chunks:
        numbered.append(closed(chunk, first=line, file=file))
        line += len(chunk)
    for number in reversed(range(len(chunks))):  # chunks come in any order
        repeats.add(number, numbered[number])
    return repeats.table()


def test_a_prompt_is_what_precedes_the_last_answer_system_messages_aside() -> None:
    one = identity_of(row(user("Q0"), assistant("A1"), user("Q2"), assistant("A3")))
    other = identity_of(row(system("S"), user("Q0"), assistant("A1"), user("Q2"), assistant("B")))
    assert one.prompt == other.prompt
    assert one.conversation != other.conversation
    assert one.text == other.text == "q0 a1 q2"


def test_where_one_message_ends_and_another_begins_makes_a_difference() -> None:
    one = identity_of(row(user("a"), user("bc"), assistant("d")))
    other = identity_of(row(user("ab"), user("c"), assistant("d")))
    assert one.prompt != other.prompt


@pytest.mark.parametrize(
    "other",
    [
        row(user("Q"), assistant("A", reasoning_content="R")),
        row(user("Q"), assistant("A"), tools=[WEATHER]),
        row(user("Q"), assistant("a")),
    ],
)
def test_conversations_are_the_same_only_if_all_of_them_is(other: dict[str, Any]) -> None:
    one = identity_of(row(user("Q"), assistant("A")))
    assert one.conversation != identity_of(other).conversation
    assert one.prompt == identity_of(other).prompt
    filled = row({**user("Q"), "name": None}, assistant("A"))
    assert identity_of(filled).conversation != b""


def test_rows_of_text_and_of_ids_have_a_prompt_too() -> None:
    text = {"text": "Q: A", "weights": [{"start": 2, "end": 4, "weight": 1}]}
    other = {"text": "Q: B", "weights": [{"start": 2, "end": 4, "weight": 1}]}
    assert identity_of(text).prompt == identity_of(other).prompt
    assert identity_of(text).text == "q:"
    ids = {"input_ids": [5, 6, 7, 8], "loss_weights": [0, 0, 1, 1]}
    others = {"input_ids": [5, 6, 9], "loss_weights": [0, 0, 1]}
    assert identity_of(ids).prompt == identity_of(others).prompt
    assert identity_of(ids).conversation != identity_of(others).conversation


def test_repeated_rows_are_found_over_chunks_and_named_after_the_first() -> None:
    first = [row(user("Q"), assistant("A")), row(user("R"), assistant("A"))]
    second = [row(user("Q"), assistant("B")), row(user("Q"), assistant("A"))]
    with Repeats() as repeats:
        table = table_of(repeats, first, second)
        assert table.same_conversations() == [Repeated("a", 4, "a:1")]
        assert table.same_prompts() == [Repeated("a", 3, "a:1")]
        assert table.near_prompts() == []


def test_nearly_the_same_prompts_are_found_case_and_white_space_aside() -> None:
    rows = [row(user(LONG), assistant("A")), row(user(f" {LONG.upper()}\n"), assistant("B"))]
    with Repeats() as repeats:
        [found] = table_of(repeats, rows[:1], rows[1:]).near_prompts()
    assert found == Repeated("a", 2, "a:1", 1.0)


def test_short_prompts_are_not_nearly_the_same() -> None:
    rows = [row(user("What is 1+1?"), assistant("A")), row(user("what is 1+1?"), assistant("B"))]
    with Repeats() as repeats:
        assert table_of(repeats, rows).near_prompts() == []


def test_what_is_evaluated_on_is_found_exactly_and_nearly() -> None:
    rows = [
        row(user("Q"), assistant("A")),
        row(user(LONG), assistant("A")),
        row(user(f"{LONG} Say."), assistant("A")),
        row(assistant("A")),
    ]
    evaluated = [row(user("Z"), assistant("A")), row(user(LONG), assistant("B")), rows[3]]
    with Repeats() as repeats, Repeats() as others:
        table, other = table_of(repeats, rows), table_of(others, evaluated, file="b")
        assert table.prompts_of(other) == [Repeated("a", 2, "b:2")]  # row 4 has no prompt
        [near] = table.near_prompts_of(other)
    assert (near.line, near.other) == (3, "b:2")
    assert 0.8 <= near.similarity < 1


def test_records_are_named_by_number_and_no_rows_are_no_repeats() -> None:
    texts = RowTexts()
    for number in (1, 2):
        texts.add("b.parquet", -number, identity_of(row(user("Q"), assistant("A"))))
    texts.close()
    with Repeats() as repeats, Repeats() as nothing:
        repeats.add(0, texts)
        assert repeats.table().same_conversations() == [
            Repeated("b.parquet", -2, "b.parquet#1")
        ]
        empty = nothing.table()
        assert (empty.same_conversations(), empty.near_prompts()) == ([], [])
        assert repeats.table().prompts_of(empty) == []
        assert repeats.table().near_prompts_of(empty) == []


def test_half_a_character_is_compared_too() -> None:
    rows = [row(user(LONG + "\ud800"), assistant("A")), row(user(LONG + "\ud801"), assistant("A"))]
    with Repeats() as repeats:
        table = table_of(repeats, rows)
        assert table.same_prompts() == []
        assert len(table.near_prompts()) == 1
