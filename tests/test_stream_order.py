"""Every shard is read by exactly one process per epoch, and windows fit the buffer."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from lossmask.errors import PolicyError
from lossmask.stream_order import StreamOrder

SIZES = (4, 7, 1, 5, 5, 9, 2)


def orders(world_size: int, workers: int, **settings: Any) -> list[StreamOrder]:
    settings = {"sizes": SIZES, "batch_size": 2, "last": "keep", **settings}
    return [
        StreamOrder(rank=rank, world_size=world_size, worker=worker, workers=workers, **settings)
        for rank in range(world_size)
        for worker in range(workers)
    ]


def test_in_order_each_shard_is_a_window_of_its_own() -> None:
    first, second = orders(2, 1)
    assert first.windows(0) == first.windows(3) == [[0], [2], [4], [6]]
    assert second.windows(0) == [[1], [3], [5]]
    assert first.mixed(0, 0, 4).tolist() == [0, 1, 2, 3]
    assert [first.batches(0), second.batches(0)] == [6, 11]


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (2, 1), (1, 3), (3, 2), (5, 2)])
@pytest.mark.parametrize("shuffle_buffer", [0, 1, 10, 100])
def test_every_shard_is_in_one_window_of_one_process(
    world_size: int, workers: int, shuffle_buffer: int
) -> None:
    for epoch in range(3):
        seen: Counter[int] = Counter()
        for order in orders(world_size, workers, shuffle_buffer=shuffle_buffer, seed=4):
            for window in order.windows(epoch):
                seen.update(window)
                held = sum(SIZES[shard] for shard in window)
                assert len(window) == 1 or held <= shuffle_buffer
        assert seen == Counter(range(len(SIZES)))


def test_windows_are_drawn_from_seed_and_epoch_and_as_large_as_the_buffer_allows() -> None:
    (order,) = orders(1, 1, shuffle_buffer=12)
    drawn = {str(orders(1, 1, shuffle_buffer=12, seed=seed)[0].windows(0)) for seed in range(5)}
    assert len(drawn) == 5
    assert order.windows(0) != order.windows(1)
    windows = order.windows(0)
    for window, following in pairwise(windows):
        assert sum(SIZES[shard] for shard in [*window, following[0]]) > 12
    assert sorted(order.mixed(0, 0, 50)) == list(range(50))
    mixed = [order.mixed(epoch, window, 50).tolist() for epoch in (0, 1) for window in (0, 1)]
    assert len({tuple(each) for each in mixed}) == 4


def test_drop_gives_ranks_the_same_number_of_whole_batches() -> None:
    for epoch in range(5):
        for workers in (1, 2):
            made = orders(3, workers, last="drop", shuffle_buffer=5, batch_size=1)
            counts = {order.worker: order.batches(epoch) for order in made}
            assert all(order.batches(epoch) == counts[order.worker] for order in made)
            for worker, count in counts.items():
                examples = [
                    sum(SIZES[shard] for window in order.windows(epoch) for shard in window)
                    for order in made
                    if order.worker == worker
                ]
                assert count == min(examples)


def test_drop_is_refused_where_it_would_drop_everything() -> None:
    first, *_, last = orders(4, 2, last="drop", batch_size=1)
    assert first.batches(0) == 1
    with pytest.raises(PolicyError, match="7 shards for 4 ranks of 2 workers leave one without"):
        last.batches(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"shuffle_buffer": -1}, "shuffle_buffer is -1"),
        ({"rank": 1}, "rank is 1 of world_size 1"),
        ({"worker": 2, "workers": 2}, "rank is 2 of world_size 2"),
        ({"last": "repeat"}, "last is 'repeat'"),
        ({"world_size": 2, "last": None}, "ranks would differ in their number of batches: give"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"sizes": SIZES, "batch_size": 1, "last": "keep", **changes}
    with pytest.raises(PolicyError, match=message):
        StreamOrder(**settings)
