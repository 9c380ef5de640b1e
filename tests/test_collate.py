"""Batches are exactly these tensors; labels are padded by position, never by pad id."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import Any, Literal

import numpy as np
import pytest
import torch

from lossmask.collate import PaddedCollator
from lossmask.errors import PolicyError, PreparedDataError

EOS = 2
EXAMPLES: list[dict[str, Any]] = [
    {
        "input_ids": np.array([7, 8, EOS, 9, EOS], np.int32),
        "labels": np.array([-100, 8, EOS, -100, EOS], np.int32),
        "loss_weights": np.array([0, 0.5, 1, 0, 1], np.float32),
        "message_index": np.array([-1, 1, 1, -1, 3], np.int32),
    },
    {
        "input_ids": np.array([5, EOS], np.int32),
        "labels": np.array([-100, EOS], np.int32),
        "loss_weights": np.array([0, 2], np.float32),
        "message_index": np.array([-1, 1], np.int32),
    },
]


def assert_batch(batch: dict[str, torch.Tensor], expected: dict[str, list[list[float]]]) -> None:
    assert list(batch) == list(expected)
    for name, values in expected.items():
        kind = torch.float32 if name == "loss_weights" else torch.int64
        torch.testing.assert_close(batch[name], torch.tensor(values, dtype=kind), rtol=0, atol=0)


def test_right_padding_keeps_the_eos_label_where_pad_is_eos() -> None:
    assert_batch(
        PaddedCollator(pad_token_id=EOS)(EXAMPLES),
        {
            "input_ids": [[7, 8, 2, 9, 2], [5, 2, 2, 2, 2]],
            "labels": [[-100, 8, 2, -100, 2], [-100, 2, -100, -100, -100]],
            "loss_weights": [[0, 0.5, 1, 0, 1], [0, 2, 0, 0, 0]],
            "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]],
        },
    )


def test_left_padding_restarts_positions_at_the_first_token() -> None:
    assert_batch(
        PaddedCollator(pad_token_id=EOS, padding_side="left")(EXAMPLES),
        {
            "input_ids": [[7, 8, 2, 9, 2], [2, 2, 2, 5, 2]],
            "labels": [[-100, 8, 2, -100, 2], [-100, -100, -100, -100, 2]],
            "loss_weights": [[0, 0.5, 1, 0, 1], [0, 0, 0, 0, 2]],
            "attention_mask": [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]],
            "position_ids": [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]],
        },
    )


@pytest.mark.parametrize(("multiple", "length"), [(1, 5), (5, 5), (4, 8), (64, 64)])
def test_length_is_rounded_up_to_the_multiple(multiple: int, length: int) -> None:
    batch = PaddedCollator(pad_token_id=0, pad_to_multiple_of=multiple)(EXAMPLES)
    for values in batch.values():
        assert values.shape == (2, length)
    assert int(batch["attention_mask"].sum()) == 7
    assert int((batch["labels"] != -100).sum()) == 4


def test_weights_default_to_one_per_supervised_token() -> None:
    batch = PaddedCollator(pad_token_id=0)([{"input_ids": [7, 8, 2], "labels": [-100, 8, 2]}])
    assert batch["loss_weights"].tolist() == [[0.0, 1.0, 1.0]]


def test_torch_tensors_and_lists_give_the_same_batch() -> None:
    collate = PaddedCollator(pad_token_id=0)
    expected = collate(EXAMPLES)
    as_lists = [{key: values.tolist() for key, values in example.items()} for example in EXAMPLES]
    as_tensors = [
        {key: torch.tensor(values) for key, values in example.items()} for example in as_lists
    ]
    for variant in (as_lists, as_tensors):
        for name, values in collate(variant).items():
            assert torch.equal(values, expected[name])


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "at least one example"),
        ([EXAMPLES[0], {"input_ids": [1]}], r"example 1 of the batch has no 'labels'"),
        ([{"input_ids": [1, 2], "labels": [1]}], r"example 0.*input_ids \(2,\), labels \(1,\)"),
        ([{**EXAMPLES[1], "loss_weights": [1.0]}], r"loss_weights \(1,\)"),
        ([{"input_ids": [], "labels": []}], "not empty"),
        ([{"input_ids": [[1]], "labels": [[1]]}], r"of one shape \(tokens,\)"),
        ([{"input_ids": [1.5], "labels": [1]}], "example 0 .*: input_ids is of type float64"),
        ([{"input_ids": [1], "labels": [True]}], "example 0 .*: labels is of type bool"),
        ([EXAMPLES[0], 7], "example 1 of the batch is int; give a mapping"),
    ],
)
def test_examples_that_cannot_be_stacked_are_refused(examples: list[Any], message: str) -> None:
    with pytest.raises(PreparedDataError, match=message):
        PaddedCollator(pad_token_id=0)(examples)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pad_token_id": -1}, "pad_token_id is -1"),
        ({"pad_token_id": 0, "pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"pad_token_id": 0, "padding_side": "both"}, "padding_side is 'both'"),
        ({"pad_token_id": 0, "return_tensors": "tf"}, "return_tensors is 'tf'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        PaddedCollator(**settings)


def test_without_weights_a_weight_that_would_be_lost_is_refused() -> None:
    collate = PaddedCollator(pad_token_id=0, keeps_weights=False)
    example = {"input_ids": [7, 8, 2], "labels": [-100, 8, 2]}
    assert sorted(collate([example])) == ["attention_mask", "input_ids", "labels"]
    with pytest.raises(PreparedDataError, match=r"a token has the loss weight 0\.5"):
        collate([example | {"loss_weights": [0, 1, 0.5]}])


def test_numpy_batches_need_no_torch_and_are_what_the_tensors_hold() -> None:
    code = (
        "import sys; from lossmask.collate import PaddedCollator\n"
        "example = {'input_ids': [7, 8, 2], 'labels': [-100, 8, 2]}\n"
        "batch = PaddedCollator(0, return_tensors='np')([example])\n"
        "print({name: str(values.dtype) for name, values in batch.items()})\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ast.literal_eval(done.stdout) == {
        "input_ids": "int64",
        "labels": "int64",
        "loss_weights": "float32",
        "attention_mask": "int64",
    }
    sides: tuple[Literal["left", "right"], ...] = ("left", "right")
    for side in sides:
        arrays = PaddedCollator(EOS, 4, side, return_tensors="np")(EXAMPLES)
        tensors = PaddedCollator(EOS, 4, side)(EXAMPLES)
        assert list(arrays) == list(tensors)
        for name, values in arrays.items():
            assert isinstance(values, np.ndarray)
            assert torch.equal(torch.from_numpy(values), tensors[name])


def test_the_documents_of_packs_become_rows_of_their_own() -> None:
    packs = [EXAMPLES[:1], [EXAMPLES[1], EXAMPLES[0]]]
    flat = PaddedCollator(0)([EXAMPLES[0], EXAMPLES[1], EXAMPLES[0]])
    for name, values in PaddedCollator(0)(packs).items():
        assert torch.equal(values, flat[name])
