"""A resumed pass has exactly the batches that were left, wherever it was stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lossmask.batch_order import BatchOrder
from lossmask.collate import PaddedCollator
from lossmask.errors import PolicyError
from lossmask.flat_batch import FlatBatch
from lossmask.ignoring import IgnoreTokens
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.resumable_loader import ResumableBatches, ResumableLoader
from tests.tiny_models import tiny_examples, write_prepared

EXAMPLES = 23
BATCHES = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("data")
    examples = tiny_examples(EXAMPLES)
    return load_prepared(write_prepared(folder, [examples[:9], examples[9:]]))


def numbers(batch: Any) -> list[int]:
    assert isinstance(batch, FlatBatch)
    assert batch.numbers is not None
    return list(batch.numbers.tolist())


def together(steps: Sequence[Sequence[list[int]]]) -> list[list[int]]:
    """Return the global batches of what each rank has."""
    return [list(chain(*step)) for step in zip(*steps, strict=True)]


def loader(data: PreparedDataset, **options: Any) -> ResumableLoader:
    settings = {name: options.pop(name) for name in list(options) if name != "workers"}
    order = BatchOrder(examples=len(data), **{"batch_size": 4, **settings})
    return ResumableLoader(data, order, numbers, **options)


def test_epochs_follow_each_other_each_in_its_own_order(data: PreparedDataset) -> None:
    ours = loader(data, seed=1)
    assert len(ours) == BATCHES
    order = BatchOrder(examples=EXAMPLES, batch_size=4, seed=1)
    for epoch in range(3):
        assert ours.epoch == epoch
        assert list(ours) == [batch.tolist() for batch in order.batches(epoch)]
    ours.set_epoch(1)
    assert list(ours) == [batch.tolist() for batch in order.batches(1)]


@pytest.mark.parametrize("stop", range(BATCHES + 1))
def test_a_resumed_pass_has_exactly_the_batches_that_were_left(
    data: PreparedDataset, stop: int
) -> None:
    whole = loader(data)
    epochs = [list(whole) for _ in range(3)]
    stopped = loader(data)
    list(stopped)
    assert list(islice(iter(stopped), stop)) == epochs[1][:stop]
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = loader(data)
    resumed.load_state_dict(state)
    assert resumed.epoch == 1
    assert list(resumed) == epochs[1][stop:]
    assert list(resumed) == epochs[2]


def test_a_resumed_pass_may_have_another_number_of_workers(data: PreparedDataset) -> None:
    expected = list(loader(data))
    states = []
    for workers in (0, 2):
        stopped = loader(data, workers=workers)
        assert list(islice(iter(stopped), 2)) == expected[:2]
        states.append(stopped.state_dict())
    assert states[0] == states[1]  # batches that workers made ahead are not counted
    for workers in (0, 1, 2):
        resumed = loader(data, workers=workers)
        resumed.load_state_dict(states[0])
        assert list(resumed) == expected[2:]


def test_a_resumed_pass_may_have_another_number_of_ranks(data: PreparedDataset) -> None:
    expected = list(loader(data, batch_size=6))
    stopped = [loader(data, batch_size=3, rank=rank, world_size=2) for rank in range(2)]
    firsts = [list(islice(iter(each), 2)) for each in stopped]
    assert together(firsts) == expected[:2]
    assert stopped[0].state_dict() == stopped[1].state_dict()
    resumed = [loader(data, batch_size=2, rank=rank, world_size=3) for rank in range(3)]
    for each in resumed:
        each.load_state_dict(stopped[0].state_dict())
    rest = [list(each) for each in resumed]
    assert together(rest) == expected[2:]


def test_a_pass_that_is_broken_off_does_not_end_the_epoch(data: PreparedDataset) -> None:
    ours = loader(data)
    first = next(iter(ours))
    assert next(iter(ours)) == first
    assert ours.epoch == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "has seed 0, and here it is 1"),
        ({"batch_size": 5}, "has global_batch 4, and here it is 5"),
        ({"shuffle": False}, "has shuffle True, and here it is False"),
        ({"last": "drop"}, "has last 'keep', and here it is 'drop'"),
    ],
)
def test_a_state_of_other_batches_is_refused(
    data: PreparedDataset, changes: dict[str, Any], message: str
) -> None:
    state = loader(data).state_dict()
    with pytest.raises(PolicyError, match=message):
        loader(data, **changes).load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": 24}, "has examples 24, and here it is 23"),
        ({"position": 7}, "at batch 7 of 6"),
        ({"position": -1}, "at batch -1 of 6"),
        ({"order": 1}, "draws another order of epoch 0 here"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    data: PreparedDataset, changes: dict[str, Any], message: str
) -> None:
    ours = loader(data)
    with pytest.raises(PolicyError, match=message):
        ours.load_state_dict(ours.state_dict() | changes)
    with pytest.raises(PolicyError, match=r"has no 'epoch'; it has \['step'\]"):
        ours.load_state_dict({"step": 3})


def test_the_tokens_to_ignore_are_drawn_by_epoch_and_resumed_with_it(tmp_path: Path) -> None:
    examples = [
        {**each, "ignorable": each["labels"] != -100, "index": place}
        for place, each in enumerate(tiny_examples(6))
    ]
    columns = {
        name: np.concatenate([each[name] for each in examples])
        for name in ("input_ids", "labels", "loss_weights", "ignorable")
    }
    starts = np.cumsum([0, *(len(each["labels"]) for each in examples)])
    data = PreparedDataset("memory", {}, columns, starts, np.arange(6))

    def made(workers: int) -> ResumableLoader:
        collate = PaddedCollator(0, ignore=IgnoreTokens(0.5), return_tensors="np")
        order = BatchOrder(examples=6, batch_size=2)
        return ResumableLoader(data, order, collate, workers=workers)

    whole = made(0)
    epochs = [[batch["labels"].tolist() for batch in whole] for _ in range(2)]
    order = BatchOrder(examples=6, batch_size=2)
    for epoch in range(2):
        collate = PaddedCollator(0, ignore=IgnoreTokens(0.5, epoch=epoch), return_tensors="np")
        expected = [collate([examples[k] for k in batch]) for batch in order.batches(epoch)]
        assert epochs[epoch] == [batch["labels"].tolist() for batch in expected]
    stopped = made(2)
    list(stopped)
    next(iter(stopped))
    for workers in (0, 1):
        resumed = made(workers)
        resumed.load_state_dict(stopped.state_dict())
        assert [batch["labels"].tolist() for batch in resumed] == epochs[1][1:]


def test_worker_processes_draw_nothing_from_the_generator_of_torch(data: PreparedDataset) -> None:
    before = torch.get_rng_state()
    list(loader(data, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loader_of_torch_takes_the_batches_as_a_sampler(data: PreparedDataset) -> None:
    sampler: Any = ResumableBatches(BatchOrder(examples=EXAMPLES, batch_size=4))
    dataset: Any = data
    theirs = DataLoader(dataset, batch_sampler=sampler, collate_fn=numbers)
    expected = loader(data)
    assert len(theirs) == BATCHES
    assert [list(theirs), list(theirs)] == [list(expected), list(expected)]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 does
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, BATCHES])
def test_the_stateful_loader_of_torchdata_resumes_them(
    data: PreparedDataset, workers: int, stop: int
) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def made() -> Any:
        sampler = ResumableBatches(BatchOrder(examples=EXAMPLES, batch_size=4))
        return torchdata.StatefulDataLoader(
            data, batch_sampler=sampler, collate_fn=numbers, num_workers=workers
        )

    ours = loader(data)
    expected = [list(ours), list(ours)]
    stopped = made()
    assert list(islice(iter(stopped), stop)) == expected[0][:stop]
    resumed = made()
    resumed.load_state_dict(stopped.state_dict())
    assert list(resumed) == expected[0][stop:]
    assert list(resumed) == expected[1]


def test_the_order_has_to_be_that_of_the_data(data: PreparedDataset) -> None:
    with pytest.raises(PolicyError, match="the order is of 9 examples, and the data holds 23"):
        ResumableLoader(data, BatchOrder(examples=9, batch_size=1), numbers)
    with pytest.raises(PolicyError, match="workers is -1"):
        loader(data, workers=-1)


def test_without_workers_no_torch_is_imported() -> None:
    code = "import sys, lossmask.resumable_loader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
