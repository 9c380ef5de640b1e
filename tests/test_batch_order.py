"""Every example once per epoch, whoever shares it; and what is left over is never left unsaid."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from lossmask.batch_order import BatchOrder, LastBatch
from lossmask.errors import PolicyError, PreparedDataError


def batches(epoch: int = 0, start: int = 0, **settings: Any) -> list[list[int]]:
    return [batch.tolist() for batch in BatchOrder(**settings).batches(epoch, start)]


def by_rank(world_size: int, **settings: Any) -> list[list[list[int]]]:
    return [batches(rank=rank, world_size=world_size, **settings) for rank in range(world_size)]


def test_ranks_share_each_global_batch_and_the_last_one_as_evenly_as_can_be() -> None:
    assert by_rank(2, examples=11, batch_size=2, shuffle=False) == [
        [[0, 1], [4, 5], [8, 9]],
        [[2, 3], [6, 7], [10]],
    ]
    assert by_rank(2, examples=11, batch_size=2, shuffle=False, last="drop") == [
        [[0, 1], [4, 5]],
        [[2, 3], [6, 7]],
    ]
    assert by_rank(2, examples=11, batch_size=2, shuffle=False, last="repeat") == [
        [[0, 1], [4, 5], [8, 9]],
        [[2, 3], [6, 7], [10, 0]],
    ]
    assert by_rank(2, examples=1, batch_size=2, last="repeat") == [[[0, 0]], [[0, 0]]]


@pytest.mark.parametrize("examples", [1, 23, 24, 25, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("last", ["keep", "drop", "repeat"])
def test_all_ranks_together_see_what_last_says(
    examples: int, world_size: int, last: LastBatch
) -> None:
    settings: dict[str, Any] = {"examples": examples, "batch_size": 12 // world_size, "last": last}
    left = examples % 12
    if (last == "keep" and 0 < left < world_size) or (last == "drop" and examples < 12):
        with pytest.raises(PolicyError, match=r"rank|do not fill one global batch"):
            BatchOrder(**settings, world_size=world_size)
        return
    ranks = by_rank(world_size, seed=3, epoch=5, **settings)
    assert {len(rank) for rank in ranks} == {len(BatchOrder(**settings, world_size=world_size))}
    seen = Counter(number for rank in ranks for batch in rank for number in batch)
    if last == "keep":
        assert seen == Counter(range(examples))
    elif last == "drop":
        assert set(seen.values()) == {1}
        assert len(seen) == examples - left
    else:
        assert set(seen) == set(range(examples))
        assert seen.total() == -(-examples // 12) * 12


def test_a_global_batch_holds_the_same_examples_for_any_number_of_ranks() -> None:
    expected = batches(examples=47, batch_size=12, seed=1, epoch=2)
    for world_size in (2, 3, 4, 6):
        ranks = by_rank(world_size, examples=47, batch_size=12 // world_size, seed=1, epoch=2)
        together = [[n for part in step for n in part] for step in zip(*ranks, strict=True)]
        assert together == expected


def test_the_order_is_drawn_from_seed_and_epoch_alone() -> None:
    settings = {"examples": 50, "batch_size": 50}
    orders = [batches(epoch, seed=seed, **settings)[0] for epoch in (0, 1) for seed in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert batches(1, seed=1, **settings)[0] == orders[3]
    assert [sorted(order) for order in orders] == [list(range(50))] * 4
    order = BatchOrder(examples=50, batch_size=1)
    assert order.checksum(0) == BatchOrder(examples=50, batch_size=7).checksum(0)
    assert order.checksum(0) != order.checksum(1)


def test_batches_from_a_place_on_are_the_rest() -> None:
    settings = {"examples": 23, "batch_size": 5}
    whole = batches(**settings)
    assert len(whole) == 5
    for start in range(6):
        assert batches(start=start, **settings) == whole[start:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of world_size 2"),
        ({"rank": -1}, "rank is -1"),
        ({"world_size": 0}, "world_size 0"),
        ({"last": "pad"}, "last is 'pad'"),
        ({"world_size": 4}, r"leave 2 for the last one, and some of 4 ranks would have none"),
        ({"batch_size": 11, "last": "drop"}, "10 examples do not fill one global batch of 11"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"examples": 10, "batch_size": 1, **changes}
    with pytest.raises(PolicyError, match=message):
        BatchOrder(**settings)


def test_no_example_is_an_error() -> None:
    with pytest.raises(PreparedDataError, match="no example to batch"):
        BatchOrder(examples=0, batch_size=1)
