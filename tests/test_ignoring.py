"""The draw of the tokens to ignore: by seed, epoch and example, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from lossmask import Policy, PolicyError
from lossmask.collate import PaddedCollator
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import PreparedDataError
from lossmask.ignoring import IgnoreTokens
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.preparing import EncoderSource, prepare
from lossmask.training import train
from tests.scenarios import assistant, user

WEIGHTS = np.linspace(0.5, 2, 2000, dtype=np.float32)
IGNORABLE = np.arange(2000) % 2 == 0


def drawn(seed: int = 0, epoch: int = 0, example: int = 0, probability: float = 0.8) -> set[int]:
    weights = IgnoreTokens(probability, seed, epoch).weights(WEIGHTS, IGNORABLE, example=example)
    assert weights.dtype == np.float32
    assert (weights[weights != 0] == WEIGHTS[weights != 0]).all()
    return set(np.flatnonzero(weights == 0).tolist())


def test_only_tokens_that_may_be_ignored_are_and_about_as_many_as_asked_for() -> None:
    assert all(position % 2 == 0 for position in drawn())
    assert 760 <= len(drawn()) <= 840  # 800 of 1,000 expected; six standard deviations are 76
    assert len(drawn(probability=0)) == 0
    assert len(drawn(probability=1)) == 1000


def test_the_draw_is_the_same_again_and_differs_by_seed_epoch_and_example() -> None:
    assert drawn(3, 4, 5) == drawn(3, 4, 5)
    different = [drawn(3, 4, 5), drawn(2, 4, 5), drawn(3, 5, 5), drawn(3, 4, 6), drawn(4, 3, 5)]
    assert len({frozenset(each) for each in different}) == len(different)


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_a_probability_is_a_number_from_0_to_1(probability: float) -> None:
    with pytest.raises(PolicyError, match="give a number from 0 to 1"):
        IgnoreTokens(probability)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("ignoring")
    data = folder / "data.jsonl"
    rows = [{"messages": [user(f"Q{n}"), assistant("yes, no")]} for n in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = EncoderSource(str(DEMO_MODEL), Policy(ignore=("no", "<|im_end|>")))
    prepare([data], source, folder / "out")
    return load_prepared(folder / "out")


def test_prepared_data_says_which_tokens_may_be_ignored(prepared: PreparedDataset) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    item = prepared[4]
    assert item["index"] == 4
    assert item["ignorable"].dtype == np.bool_
    ignorable = item["input_ids"][item["ignorable"] & (item["labels"] != -100)].tolist()
    assert tokenizer.decode(ignorable) == " no<|im_end|>"
    assert (item["loss_weights"] == 1).sum() == (item["labels"] != -100).sum()  # undrawn


def test_a_batch_leaves_them_out_anew_in_each_epoch(prepared: PreparedDataset) -> None:
    collate = PaddedCollator(pad_token_id=0, ignore=IgnoreTokens(0.5, seed=1))
    items = [prepared[index] for index in range(6)]
    counts = []
    for epoch in range(3):
        collate.set_epoch(epoch)
        batch = collate(items)
        assert torch.equal(batch["labels"] != -100, batch["loss_weights"] != 0)
        alone = [collate([item]) for item in items]  # whatever the batch, the draw is the same
        for place, one in enumerate(alone):
            length = one["labels"].shape[1]
            assert torch.equal(one["labels"][0], batch["labels"][place, :length])
        counts.append(batch["labels"].tolist())
    assert counts[0] != counts[1] != counts[2]
    undrawn = PaddedCollator(pad_token_id=0)(items)
    assert int((undrawn["labels"] != -100).sum()) == sum(
        int((item["labels"] != -100).sum()) for item in items
    )


def test_an_example_that_does_not_say_is_refused() -> None:
    collate = PaddedCollator(pad_token_id=0, ignore=IgnoreTokens())
    with pytest.raises(PreparedDataError, match="example 0 of the batch has no 'ignorable'"):
        collate([{"input_ids": [1, 2], "labels": [-100, 2]}])


def test_training_draws_by_epoch_and_evaluates_on_all(
    prepared: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    weights = IgnoreTokens.weights

    def recorded(self: IgnoreTokens, *arguments: Any, example: int) -> Any:
        drawn.append((self.epoch, example, self.seed, self.probability))
        return weights(self, *arguments, example=example)

    monkeypatch.setattr(IgnoreTokens, "weights", recorded)
    result = train(
        prepared,
        DEMO_MODEL,
        tmp_path / "run",
        eval_folder=prepared,
        epochs=2,
        seed=7,
        training_arguments={"use_cpu": True},
    )
    expected = [(epoch, example, 7, 0.8) for epoch in range(2) for example in range(6)]
    assert sorted(drawn) == expected
    per_epoch = sum(int((prepared[k]["labels"] != -100).sum()) for k in range(6))
    assert result.supervised_tokens < 2 * per_epoch
    assert result.metrics["eval_supervised_tokens"] == per_epoch
