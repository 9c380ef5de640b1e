"""One row of documents: positions, labels and borders are exactly these, and so is the loss."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithFlattening

from lossmask.collate import PaddedCollator
from lossmask.errors import PolicyError, PreparedDataError
from lossmask.padding_free import PaddingFreeCollator
from lossmask.supervised_loss import supervised_loss
from tests.tiny_models import tiny_examples, tiny_model

EXAMPLES: list[dict[str, Any]] = [
    {
        "input_ids": np.array([7, 8, 2], np.int32),
        "labels": np.array([7, 8, 2], np.int32),
        "loss_weights": np.array([1, 0.5, 1], np.float32),
    },
    {"input_ids": [9, 2], "labels": [-100, 2]},
]


def test_documents_stand_end_to_end_and_the_first_label_of_each_is_out_of_the_loss() -> None:
    batch = PaddingFreeCollator()(EXAMPLES)
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[7, 8, 2, 9, 2]],
        "labels": [[-100, 8, 2, -100, 2]],
        "loss_weights": [[0, 0.5, 1, 0, 1]],
        "position_ids": [[0, 1, 2, 0, 1]],
    }
    kinds = {name: values.dtype for name, values in batch.items()}
    assert kinds.pop("loss_weights") == torch.float32
    assert set(kinds.values()) == {torch.int64}
    assert EXAMPLES[0]["labels"].tolist() == [7, 8, 2]  # the data is left as it is


@pytest.mark.parametrize("tensors", ["pt", "np"])
def test_it_is_the_batch_of_transformers_with_weights(tensors: Any) -> None:
    examples = tiny_examples(9)
    theirs = DataCollatorWithFlattening(
        return_flash_attn_kwargs=True, return_seq_idx=True, return_tensors=tensors
    )([{name: example[name] for name in ("input_ids", "labels")} for example in examples])
    collate = PaddingFreeCollator(
        return_flash_attn_kwargs=True, return_seq_idx=True, return_tensors=tensors
    )
    ours = collate(examples)
    weights = ours.pop("loss_weights")
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        if isinstance(values, int):
            assert ours[name] == values
            continue
        assert type(ours[name]) is type(values)
        assert ours[name].dtype == values.dtype
        np.testing.assert_array_equal(ours[name], values)
    expected = np.concatenate([example["loss_weights"] for example in examples])
    np.testing.assert_array_equal(weights[0], expected)


def test_padding_is_one_more_document_out_of_the_loss() -> None:
    collate = PaddingFreeCollator(
        pad_to_multiple_of=8, pad_token_id=3, return_flash_attn_kwargs=True, return_seq_idx=True
    )
    batch = collate(EXAMPLES)
    assert batch["input_ids"].tolist() == [[7, 8, 2, 9, 2, 3, 3, 3]]
    assert batch["labels"].tolist() == [[-100, 8, 2, -100, 2, -100, -100, -100]]
    assert batch["loss_weights"].tolist() == [[0, 0.5, 1, 0, 1, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch["seq_idx"].tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert batch["cu_seq_lens_k"].tolist() == [0, 3, 5, 8]
    whole = PaddingFreeCollator(pad_to_multiple_of=5, pad_token_id=3)(EXAMPLES)
    assert whole["input_ids"].tolist() == [[7, 8, 2, 9, 2]]


def test_packs_are_their_documents_one_after_the_other() -> None:
    collate = PaddingFreeCollator(return_flash_attn_kwargs=True)
    flat = collate([*EXAMPLES, *EXAMPLES])
    packed = collate([EXAMPLES[:1], [EXAMPLES[1], *EXAMPLES]])
    assert flat.keys() == packed.keys()
    for name, values in flat.items():
        assert values == packed[name] if isinstance(values, int) else values.equal(packed[name])


def test_the_loss_is_that_of_the_padded_batch() -> None:
    examples = tiny_examples(7)
    model = tiny_model("llama")
    padded = supervised_loss(model, PaddedCollator(pad_token_id=0)(examples))
    flat = supervised_loss(model, PaddingFreeCollator()(examples))
    torch.testing.assert_close(flat, padded, rtol=0, atol=2e-6)


def test_without_weights_a_weight_that_would_be_lost_is_refused() -> None:
    collate = PaddingFreeCollator(keeps_weights=False)
    assert sorted(collate(EXAMPLES[1:])) == ["input_ids", "labels", "position_ids"]
    with pytest.raises(PreparedDataError, match=r"a token has the loss weight 0\.5"):
        collate(EXAMPLES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"pad_to_multiple_of": 8}, "pad_to_multiple_of is 8 and pad_token_id None"),
        ({"pad_to_multiple_of": 8, "pad_token_id": -1}, "pad_token_id -1"),
        ({"return_tensors": "tf"}, "return_tensors is 'tf'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        PaddingFreeCollator(**settings)


def test_numpy_batches_need_no_torch() -> None:
    code = (
        "import sys; from lossmask.padding_free import PaddingFreeCollator\n"
        "PaddingFreeCollator(return_tensors='np')([{'input_ids': [7], 'labels': [7]}])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
