"""In worker processes of torch a stream is read once, in the epoch that was set."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from lossmask.prepared_stream import PreparedStream, stream_prepared
from lossmask.torch_stream import TorchStream
from tests.tiny_models import tiny_examples, write_prepared

EXAMPLES = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    examples = tiny_examples(EXAMPLES)
    shards = [examples[:8], examples[8:9], examples[9:13], examples[13:]]
    return write_prepared(tmp_path_factory.mktemp("data"), shards)


def stream(folder: Path) -> PreparedStream:
    return stream_prepared(folder, batch_size=3, shuffle_buffer=9)


def numbers(batch: Any) -> list[int]:
    return list(batch.numbers.tolist())


@pytest.mark.parametrize("workers", [0, 2, 5])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_each_epoch_is_every_example_once_in_its_own_order(
    folder: Path, workers: int, persistent: bool
) -> None:
    data: TorchStream = stream(folder).for_torch()
    loader = DataLoader(
        data,
        batch_size=None,
        collate_fn=numbers,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
    )
    passes = []
    for epoch in (0, 1, 1):
        data.set_epoch(epoch)
        passes.append(list(loader))
        assert Counter(n for batch in passes[-1] for n in batch) == Counter(range(EXAMPLES))
    assert passes[0] != passes[1] == passes[2]
    if not workers:
        assert passes[:2] == [[numbers(b) for b in each] for each in [stream(folder)] * 2]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 does
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 8])
def test_the_stateful_loader_of_torchdata_resumes_it(folder: Path, workers: int, stop: int) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def made() -> tuple[TorchStream, Any]:
        data = stream(folder).for_torch()
        loader = torchdata.StatefulDataLoader(
            data, batch_size=None, collate_fn=numbers, num_workers=workers
        )
        return data, loader

    data, loader = made()
    epochs = []
    for epoch in range(3):
        data.set_epoch(epoch)
        epochs.append(list(loader))
    data, loader = made()
    data.set_epoch(1)
    assert list(islice(iter(loader), stop)) == epochs[1][:stop]
    resumed_data, resumed = made()
    resumed.load_state_dict(loader.state_dict())
    assert list(resumed) == epochs[1][stop:]
    resumed_data.set_epoch(2)
    assert list(resumed) == epochs[2]
