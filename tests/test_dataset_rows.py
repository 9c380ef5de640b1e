"""Rows of data sets in memory are those that their files would have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import pytest

from lossmask import InputError
from lossmask.data_files import rows_of

ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "é"}], "n": 1},
    {"messages": [{"role": "user", "content": "b", "name": "x"}]},
]


def parsed(dataset: Any) -> list[Any]:
    return [raw.parse() for raw in rows_of(dataset)]


def test_mappings_are_taken_as_they_are() -> None:
    rows: list[dict[str, Any]] = [{"a": None, "b": [{"c": None}], "half": "\ud800"}, {"t": (1, 2)}]
    assert parsed(iter(rows)) == [rows[0], {"t": [1, 2]}]
    assert [(raw.place, raw.row) for raw in rows_of(rows)] == [("dataset#1", 0), ("dataset#2", 1)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "expected a mapping with the key 'messages', got str"),
        ({"a": {1}}, "cannot be written as JSON: Object of type set"),
        ({"a": [{1: "b"}]}, "the key 1 is not a string"),
    ],
)
def test_what_json_cannot_hold_is_a_row_that_says_so(row: Any, message: str) -> None:
    broken, whole = rows_of([row, {"a": 1}])
    with pytest.raises(InputError, match=message) as info:
        broken.parse()
    assert info.value.reason == "broken_row"
    assert (whole.row, whole.parse()) == (1, {"a": 1})


def test_a_row_that_holds_itself_is_rejected() -> None:
    row: dict[str, Any] = {}
    row["row"] = row
    [raw] = rows_of([row])
    with pytest.raises(InputError, match="cannot be written as JSON"):
        raw.parse()


@pytest.mark.parametrize("as_stream", [False, True])
def test_filled_nulls_of_a_data_set_are_left_out(as_stream: bool) -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    assert dataset[0]["messages"][0] == {"role": "user", "content": "é", "name": None}
    assert parsed(dataset.to_iterable_dataset() if as_stream else dataset) == ROWS


@pytest.mark.parametrize("as_stream", [False, True])
def test_json_columns_keep_their_nulls(as_stream: bool) -> None:
    features = datasets.Features({"a": datasets.Json(), "b": datasets.Value("string")})
    rows = [{"a": {"x": None}, "b": None}, {"a": [None], "b": "c"}]
    dataset = datasets.Dataset.from_list(rows, features=features)
    expected = [{"a": {"x": None}}, {"a": [None], "b": "c"}]
    assert parsed(dataset.to_iterable_dataset() if as_stream else dataset) == expected


def test_rows_that_were_chosen_and_shuffled_come_in_that_order() -> None:
    dataset = datasets.Dataset.from_list([{"n": n} for n in range(600)]).select([5, 599, 0])
    assert parsed(dataset) == [{"n": 5}, {"n": 599}, {"n": 0}]
    assert parsed(dataset.with_format("numpy")) == [{"n": 5}, {"n": 599}, {"n": 0}]


def test_a_stream_without_known_columns_is_read_row_by_row() -> None:
    def generate() -> Iterator[dict[str, Any]]:
        yield {"messages": [{"role": "user", "content": "a", "name": None}], "x": None}
        yield {"messages": "of another type"}

    stream = datasets.IterableDataset.from_generator(generate)
    assert stream.features is None
    assert parsed(stream) == [
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": "of another type"},
    ]


def test_a_stream_that_was_mapped_is_read() -> None:
    stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset().map(lambda row: {"more": 7})
    assert parsed(stream) == [{**row, "more": 7} for row in ROWS]


def test_several_splits_are_refused() -> None:
    splits = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))
    with pytest.raises(InputError, match="got a mapping of train: name one of them"):
        parsed(splits)


@pytest.mark.parametrize("value", ["text", b"bytes", 7])
def test_what_is_no_iterable_of_mappings_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=f"an iterable of mappings, got {type(value).__name__}"):
        parsed(value)
