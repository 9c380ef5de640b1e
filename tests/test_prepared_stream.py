"""A stream is the data set that `load_prepared` opens, batch by batch, and no batch twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lossmask.prepared_stream
from lossmask.errors import PolicyError, PreparedDataError
from lossmask.flat_batch import FlatBatch
from lossmask.prepared import load_prepared
from lossmask.prepared_shards import read_parts
from lossmask.prepared_stream import PreparedStream, stream_prepared
from tests.tiny_models import tiny_examples, write_prepared

EXAMPLES = 23
SIZES = [8, 0, 4, 1, 10]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("data"))


def written(folder: Path) -> Path:
    examples = iter(tiny_examples(EXAMPLES))
    return write_prepared(folder, [list(islice(examples, size)) for size in SIZES])


@pytest.fixture(params=["path", "memory"])
def source(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if request.param == "path":
        yield str(folder)
        return
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/bucket/prepared", recursive=True)
    yield "memory://bucket/prepared"
    store.rm("/bucket", recursive=True)


def numbers(batches: Any) -> list[list[int]]:
    return [batch.numbers.tolist() for batch in batches]


@pytest.mark.parametrize("shuffle_buffer", [0, 1, 12, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 30])
def test_batches_are_those_of_the_loaded_data(
    source: str, folder: Path, batch_size: int, shuffle_buffer: int
) -> None:
    data = load_prepared(folder)
    stream = stream_prepared(source, batch_size=batch_size, shuffle_buffer=shuffle_buffer)
    for epoch in range(2):
        assert stream.epoch == epoch
        batches = list(stream)
        assert len(batches) == stream.order.batches(epoch) == -(-EXAMPLES // batch_size)
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        seen = [number for batch in numbers(batches) for number in batch]
        assert sorted(seen) == list(range(EXAMPLES))
        assert shuffle_buffer or seen == sorted(seen)
        for batch in batches:
            assert isinstance(batch, FlatBatch)
            assert batch.numbers is not None
            same = data.__getitems__(batch.numbers)
            assert list(batch.columns) == list(same.columns)
            for name in batch.columns:
                np.testing.assert_array_equal(batch.joined(name), same.joined(name))
                assert batch.joined(name).dtype == same.joined(name).dtype


def test_the_order_is_drawn_anew_in_each_epoch_and_by_the_seed(folder: Path) -> None:
    def passes(seed: int) -> list[list[list[int]]]:
        stream = stream_prepared(folder, batch_size=30, shuffle_buffer=12, seed=seed)
        return [numbers(stream), numbers(stream)]

    orders = [str(order) for seed in (0, 1) for order in passes(seed)]
    assert len(set(orders)) == 4
    assert passes(1) == passes(1)
    stream = stream_prepared(folder, batch_size=30, shuffle_buffer=12)
    stream.set_epoch(1)
    assert numbers(stream) == passes(0)[1]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("workers", [1, 2])
def test_all_ranks_and_workers_together_see_every_example_once(
    folder: Path, world_size: int, workers: int
) -> None:
    for epoch in range(2):
        seen: Counter[int] = Counter()
        for rank in range(world_size):
            stream = stream_prepared(
                folder,
                batch_size=3,
                shuffle_buffer=9,
                rank=rank,
                world_size=world_size,
                last="keep",
            )
            stream.set_epoch(epoch)
            for worker in range(workers):
                for batch in numbers(stream.of_worker(worker, workers)):
                    seen.update(batch)
        assert seen == Counter(range(EXAMPLES))


def test_with_drop_ranks_have_as_many_batches_and_no_example_twice(folder: Path) -> None:
    ranks = [
        stream_prepared(folder, batch_size=1, rank=rank, world_size=2, last="drop")
        for rank in range(2)
    ]
    # Shards of 8, 0, 4, 1 and 10: rank 0 has those of 8, 4 and 10, rank 1 has one example.
    assert [len(stream) for stream in ranks] == [1, 1]
    assert [numbers(stream) for stream in ranks] == [[[0]], [[12]]]
    state = ranks[0].state_dict() | {"epoch": 0, "position": 1}
    ranks[0].load_state_dict(state)
    assert numbers(ranks[0]) == []


@pytest.mark.parametrize("shuffle_buffer", [0, 12])
def test_a_resumed_pass_has_exactly_the_batches_that_were_left(
    folder: Path, shuffle_buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def recorded(where: Any, file: str, examples: int) -> Any:
        read.append(file)
        return read_parts(where, file, examples)

    def made() -> PreparedStream:
        return stream_prepared(folder, batch_size=3, shuffle_buffer=shuffle_buffer)

    monkeypatch.setattr(lossmask.prepared_stream, "read_parts", recorded)
    whole = made()
    epochs = [numbers(whole) for _ in range(3)]
    for stop in range(len(epochs[1]) + 1):
        stopped = made()
        stopped.set_epoch(1)
        assert numbers(islice(iter(stopped), stop)) == epochs[1][:stop]
        resumed = made()
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        read.clear()
        assert numbers(resumed) == epochs[1][stop:]
        behind = 0
        needed = []
        for window in resumed.order.windows(1):
            size = sum(SIZES[shard] for shard in window)
            behind += size
            if size and behind > stop * 3:
                needed += window
        assert [int(file[5:10]) for file in read] == needed  # shards before it are not read
        assert numbers(resumed) == epochs[2]


def test_shards_are_read_when_their_examples_are_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def recorded(where: Any, file: str, examples: int) -> Any:
        read.append(file)
        return read_parts(where, file, examples)

    monkeypatch.setattr(lossmask.prepared_stream, "read_parts", recorded)
    stream = iter(stream_prepared(folder, batch_size=4))
    assert read == []
    next(stream)
    assert read == ["part-00000.parquet"]
    next(stream)
    next(stream)
    assert read == ["part-00000.parquet", "part-00002.parquet"]


def test_what_is_left_of_a_shard_does_not_hold_it_in_memory(tmp_path: Path) -> None:
    write_prepared(tmp_path, [tiny_examples(10)], row_group_size=100)
    batch = list(stream_prepared(tmp_path, batch_size=4))[-1]
    assert numbers([batch]) == [[8, 9]]
    assert all(len(values) == batch.lengths.sum() for values in batch.columns.values())


def test_a_pass_that_is_broken_off_does_not_end_the_epoch(folder: Path) -> None:
    stream = stream_prepared(folder, batch_size=4, shuffle_buffer=12)
    first = numbers([next(iter(stream))])
    assert numbers([next(iter(stream))]) == first
    assert stream.epoch == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "has seed 0, and here it is 1"),
        ({"batch_size": 5}, "has batch_size 4, and here it is 5"),
        ({"shuffle_buffer": 9}, "has shuffle_buffer 5, and here it is 9"),
        ({"last": "keep"}, "has last None, and here it is 'keep'"),
    ],
)
def test_a_state_of_another_stream_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "shuffle_buffer": 5}
    state = stream_prepared(folder, **settings).state_dict()
    with pytest.raises(PolicyError, match=message):
        stream_prepared(folder, **{**settings, **changes}).load_state_dict(state)


def test_a_state_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    stream = stream_prepared(folder, batch_size=4)
    state = stream.state_dict()
    with pytest.raises(PolicyError, match="has no 'batch_size'"):
        stream.load_state_dict({"epoch": 0})
    for position in (-1, 7):
        with pytest.raises(PolicyError, match=f"at batch {position} of 6"):
            stream.load_state_dict(state | {"position": position})
    other = write_prepared(tmp_path, [tiny_examples(10), tiny_examples(13)])
    with pytest.raises(
        PolicyError, match="the order of epoch 0 is not that which the state was saved with"
    ):
        stream_prepared(other, batch_size=4).load_state_dict(state)


@pytest.mark.parametrize("name", ["tokens", "supervised_tokens"])
def test_counts_that_are_not_true_are_found_at_the_end_of_a_pass(tmp_path: Path, name: str) -> None:
    change_manifest(written(tmp_path), **{name: 5})
    stream = iter(stream_prepared(tmp_path, batch_size=EXAMPLES))
    with pytest.raises(PreparedDataError, match=f"{name} is 5, but the shards hold"):
        list(stream)
    halves = stream_prepared(tmp_path, batch_size=4, rank=1, world_size=2, last="keep")
    list(halves)  # who reads a part cannot tell


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_manifest_that_disagrees_with_itself_is_refused(tmp_path: Path) -> None:
    change_manifest(written(tmp_path), examples=5)
    with pytest.raises(PreparedDataError, match="examples is 5, but the shards hold 23"):
        stream_prepared(tmp_path, batch_size=1)
    with pytest.raises(PreparedDataError, match="no prepared folder at"):
        stream_prepared(tmp_path / "absent", batch_size=1)


def test_a_broken_example_is_named_when_it_is_reached(tmp_path: Path) -> None:
    examples = tiny_examples(6)
    examples[4]["loss_weights"] = examples[4]["loss_weights"] * np.float32(np.nan)
    write_prepared(tmp_path, [examples[:3], examples[3:]])
    stream = iter(stream_prepared(tmp_path, batch_size=3))
    next(stream)
    with pytest.raises(PreparedDataError, match=r"part-00001\.parquet, example 1 .*loss_weights"):
        next(stream)


def test_shards_differ_in_no_column(tmp_path: Path) -> None:
    path = written(tmp_path) / "part-00002.parquet"
    table = pq.read_table(path)
    lengths = [len(each) for each in table["labels"]]
    ignorable = pa.array([[True] * length for length in lengths], pa.list_(pa.bool_()))
    pq.write_table(table.append_column("ignorable", ignorable), path)
    with pytest.raises(PreparedDataError, match=r"some shards have 'ignorable'.*part-00002"):
        list(stream_prepared(tmp_path, batch_size=3))
