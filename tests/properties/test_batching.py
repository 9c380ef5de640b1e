"""However examples are batched, each has the same labels and weights; and no fault goes unnamed."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lossmask.collate import PaddedCollator
from lossmask.errors import PreparedDataError
from lossmask.flat_batch import FlatBatch
from lossmask.ignoring import IgnoreTokens
from lossmask.padding_free import PaddingFreeCollator

FEW = settings(
    max_examples=150,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
PAD = 3
Example = dict[str, Any]
Row = dict[str, list[float]]


@st.composite
def examples(draw: st.DrawFn, least: int = 1) -> list[Example]:
    """Draw examples whose ids are often the pad token, and whose first token may be in the loss."""
    made = []
    for length in draw(st.lists(st.integers(1, 9), min_size=least, max_size=6)):
        ids = np.array(draw(st.lists(st.integers(0, 5), min_size=length, max_size=length)))
        weights = draw(st.lists(st.sampled_from([0, 0.5, 1, -2]), min_size=length, max_size=length))
        ignorable = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        made.append(
            {
                "input_ids": ids.astype(np.int32),
                "labels": np.where(np.array(weights) != 0, ids, -100).astype(np.int32),
                "loss_weights": np.array(weights, np.float32),
                "ignorable": np.array(ignorable),
                "index": draw(st.integers(0, 1000)),
            }
        )
    return made


def as_ranges(batch: list[Example], order: list[int]) -> FlatBatch:
    """Return a batch as ranges of columns in which the examples lie in another order."""
    names = ("input_ids", "labels", "loss_weights", "ignorable")
    columns = {name: np.concatenate([batch[k][name] for k in order]) for name in names}
    lengths = np.array([len(each["labels"]) for each in batch])
    begins = np.cumsum([0, *lengths[order][:-1]])
    starts = np.empty_like(lengths)
    starts[order] = begins
    return FlatBatch(columns, starts, lengths, np.array([each["index"] for each in batch]))


def expected(batch: list[Example], ignore: IgnoreTokens | None) -> list[Row]:
    """Return what every form has to hold, told example by example."""
    rows = []
    for example in batch:
        weights = example["loss_weights"]
        if ignore is not None:
            generator = np.random.default_rng([ignore.seed, ignore.epoch, example["index"]])
            drawn = generator.random(len(weights)) < ignore.probability
            weights = np.where(example["ignorable"] & drawn, np.float32(0), weights)
        labels = np.where(weights != 0, example["labels"], -100)
        ids = example["input_ids"]
        rows.append(
            {
                "input_ids": ids.tolist(),
                "labels": labels.tolist(),
                "loss_weights": weights.tolist(),
            }
        )
    return rows


def rows_of_padded(batch: dict[str, Any], side: str) -> list[Row]:
    """Take the padding off, and check that it is nothing but padding."""
    arrays: dict[str, npt.NDArray[Any]] = {name: np.asarray(batch[name]) for name in batch}
    assert {values.shape for values in arrays.values()} == {arrays["labels"].shape}
    rows = []
    for place, mask in enumerate(arrays["attention_mask"]):
        size = int(mask.sum())
        real = slice(len(mask) - size, None) if side == "left" else slice(size)
        assert mask[real].all()
        padding = mask == 0
        assert set(arrays["input_ids"][place][padding]) <= {PAD}
        assert set(arrays["labels"][place][padding]) <= {-100}
        assert set(arrays["loss_weights"][place][padding]) <= {0}
        if side == "left":
            assert arrays["position_ids"][place][real].tolist() == list(range(size))
        names = ("input_ids", "labels", "loss_weights")
        rows.append({name: arrays[name][place][real].tolist() for name in names})
    return rows


def rows_of_flat(batch: dict[str, Any]) -> list[Row]:
    borders = np.asarray(batch["cu_seq_lens_q"]).tolist()
    rows = []
    for begin, end in pairwise(borders):
        names = ("input_ids", "labels", "loss_weights")
        rows.append({name: np.asarray(batch[name])[0, begin:end].tolist() for name in names})
        assert np.asarray(batch["position_ids"])[0, begin:end].tolist() == [*range(end - begin)]
    return rows


def first_out(rows: list[Row]) -> list[Row]:
    """Return rows whose first token is out of the loss: nothing of its document predicts it."""
    return [
        {
            "input_ids": row["input_ids"],
            "labels": [-100, *row["labels"][1:]],
            "loss_weights": [0, *row["loss_weights"][1:]],
        }
        for row in rows
    ]


@FEW
@given(data=st.data(), batch=examples(), multiple=st.sampled_from([None, 1, 4, 7]))
def test_every_form_of_a_batch_gives_each_example_the_same_labels_and_weights(
    data: st.DataObject, batch: list[Example], multiple: int | None
) -> None:
    draws = data.draw(st.booleans())
    tensors: Literal["pt", "np"] = data.draw(st.sampled_from(["pt", "np"]))
    ignore = IgnoreTokens(0.5, seed=3) if draws else None
    order = data.draw(st.permutations(range(len(batch))))
    cut = data.draw(st.integers(0, len(batch)))
    forms: list[Any] = [
        batch,
        as_ranges(batch, order),
        list(as_ranges(batch, order)),
        [pack for pack in (batch[:cut], batch[cut:]) if pack],
        [{name: np.asarray(each[name]).tolist() for name in each} for each in batch],
        [{name: torch.tensor(each[name]) for name in each} for each in batch],
    ]
    for epoch in (0, 4):
        if ignore is not None:
            ignore.epoch = epoch
        rows = expected(batch, ignore)
        for form in forms:
            before = copy.deepcopy(form)
            for side in ("left", "right"):
                padded = PaddedCollator(
                    PAD,
                    multiple,
                    side,
                    ignore=ignore,
                    return_tensors=tensors,
                )
                padded.set_epoch(epoch)
                made = padded(form)
                assert rows_of_padded(made, side) == rows
                assert made["labels"].shape[1] % (multiple or 1) == 0
                kind = torch.Tensor if tensors == "pt" else np.ndarray
                assert all(isinstance(values, kind) for values in made.values())
            flat = PaddingFreeCollator(
                pad_to_multiple_of=multiple,
                pad_token_id=PAD,
                return_flash_attn_kwargs=True,
                ignore=ignore,
                return_tensors=tensors,
            )
            flat.set_epoch(epoch)
            documents = rows_of_flat(flat(form))
            assert documents[: len(rows)] == first_out(rows)
            for padding in documents[len(rows) :]:
                assert set(padding["labels"]) == {-100}
                assert set(padding["input_ids"]) == {PAD}
            assert len(documents) <= len(rows) + 1
            for one, same in zip(form, before, strict=True):  # a batch leaves its examples alone
                assert str(one) == str(same)


@FEW
@given(
    data=st.data(),
    batch=examples(least=2),
    fault=st.sampled_from(["absent", "short", "long", "nested", "text", "none"]),
)
def test_a_fault_of_one_example_is_named_by_every_collator(
    data: st.DataObject, batch: list[Example], fault: str
) -> None:
    place = data.draw(st.integers(0, len(batch) - 1))
    name = data.draw(st.sampled_from(["input_ids", "labels", "loss_weights", "ignorable"]))
    values = batch[place][name]
    broken: Any = {
        "short": values[:-1],
        "long": np.append(values, values[:1]),
        "nested": values[None],
        "text": ["a"] * len(values),
        "none": [None] * len(values),
    }
    if fault == "absent":
        name = data.draw(st.sampled_from(["input_ids", "labels", "ignorable", "index"]))
        del batch[place][name]
    else:
        batch[place][name] = broken[fault]
    for collate in (
        PaddedCollator(PAD, ignore=IgnoreTokens()),
        PaddingFreeCollator(ignore=IgnoreTokens()),
    ):
        with pytest.raises(PreparedDataError, match=rf"^example {place} of the batch.*{name}"):
            collate(batch)
        with pytest.raises(PreparedDataError, match=rf"^document {place} of pack 0.*{name}"):
            collate([batch])
