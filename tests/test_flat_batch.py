"""A flat batch is its examples, wherever in whatever columns they lie."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from lossmask.collate import PaddedCollator
from lossmask.errors import PreparedDataError
from lossmask.flat_batch import FlatBatch, flat_batch
from lossmask.ignoring import IgnoreTokens

COLUMNS: dict[str, Any] = {
    "input_ids": np.array([7, 8, 2, 9, 2, 5, 6, 2], np.int32),
    "labels": np.array([-100, 8, 2, -100, 2, -100, 6, 2], np.int32),
    "loss_weights": np.array([0, 0.5, 1, 0, 2, 0, 1, 1], np.float32),
}
THIRD_AND_FIRST = FlatBatch(COLUMNS, np.array([5, 0]), np.array([3, 3]), np.array([2, 0]))


def test_its_items_are_views_of_the_columns_in_its_own_order() -> None:
    assert [item["input_ids"].tolist() for item in THIRD_AND_FIRST] == [[5, 6, 2], [7, 8, 2]]
    assert THIRD_AND_FIRST[1]["loss_weights"].tolist() == [0, 0.5, 1]
    assert np.shares_memory(THIRD_AND_FIRST[0]["labels"], COLUMNS["labels"])
    assert len(THIRD_AND_FIRST) == 2
    with pytest.raises(IndexError):
        THIRD_AND_FIRST[2]


def test_a_column_end_to_end_is_a_copy_of_the_type_asked_for() -> None:
    ids = THIRD_AND_FIRST.joined("input_ids", np.int64)
    assert ids.tolist() == [5, 6, 2, 7, 8, 2]
    assert ids.dtype == np.int64
    assert THIRD_AND_FIRST.joined("labels").dtype == np.int32
    assert THIRD_AND_FIRST[:0].joined("labels").tolist() == []


def test_a_slice_is_the_batch_of_those_examples() -> None:
    part = THIRD_AND_FIRST[1:]
    assert [item["input_ids"].tolist() for item in part] == [[7, 8, 2]]
    assert part.numbers is not None
    assert part.numbers.tolist() == [0]


def test_a_pickle_holds_the_examples_and_not_the_data_set_around_them() -> None:
    many = {name: np.tile(values, 100_000) for name, values in COLUMNS.items()}
    batch = FlatBatch(many, np.array([5, 0]), np.array([3, 3]), np.array([2, 0]))
    data = pickle.dumps(batch)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert [item["input_ids"].tolist() for item in again] == [[5, 6, 2], [7, 8, 2]]
    assert again.numbers.tolist() == [2, 0]
    assert again[1]["loss_weights"].tolist() == [0, 0.5, 1]


def test_mappings_and_packs_of_them_are_brought_into_the_flat_form() -> None:
    one = {"input_ids": [7, 8], "labels": [-100, 8]}
    two = {"input_ids": [5], "labels": [-100], "loss_weights": [0], "message_index": [3]}
    for examples in ([one, two, one], [[one], [two, one]], [one, [two], flat_batch([one])]):
        batch = flat_batch(examples)
        assert batch.joined("input_ids").tolist() == [7, 8, 5, 7, 8]
        assert batch.joined("labels").tolist() == [-100, 8, -100, -100, 8]
        assert batch.joined("loss_weights").tolist() == [0, 1, 0, 0, 1]
        assert batch.starts.tolist() == [0, 2, 3]
        assert batch.lengths.tolist() == [2, 1, 2]
        assert sorted(batch.columns) == ["input_ids", "labels", "loss_weights"]
    assert flat_batch(THIRD_AND_FIRST) is THIRD_AND_FIRST


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([[{"input_ids": [1], "labels": [1]}], [{"labels": [1]}]], "document 0 of pack 1 .*has no"),
        ([[{"input_ids": [1], "labels": [1]}, 5]], "document 1 of pack 0 of the batch is int"),
        (["text"], "example 0 of the batch is str"),
        ([[]], "at least one example"),
        (THIRD_AND_FIRST[:0], "at least one example"),
    ],
)
def test_what_is_no_example_is_named(examples: Any, message: str) -> None:
    with pytest.raises(PreparedDataError, match=message):
        flat_batch(examples)


def test_a_draw_needs_the_tokens_to_ignore_and_the_numbers_of_the_examples() -> None:
    collate = PaddedCollator(pad_token_id=0, ignore=IgnoreTokens())
    with pytest.raises(PreparedDataError, match="example 0 of the batch has no 'ignorable'"):
        collate(THIRD_AND_FIRST)
    columns = {**COLUMNS, "ignorable": COLUMNS["labels"] == 2}
    unnumbered = FlatBatch(columns, np.array([0]), np.array([3]))
    with pytest.raises(PreparedDataError, match="example 0 of the batch has no 'index'"):
        collate(unnumbered)
    with pytest.raises(PreparedDataError, match="example 0 of the batch has no 'index'"):
        collate(list(unnumbered))
    example = {"input_ids": [1, 2], "labels": [1, 2], "ignorable": [True], "index": 4}
    with pytest.raises(PreparedDataError, match=r"example 0 .*ignorable \(1,\)"):
        collate([example])
