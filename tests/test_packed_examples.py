"""A data set of packs: training on it is training on its examples, in whatever they are packed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, Subset
from transformers import AutoModelForCausalLM

from lossmask.cli import main
from lossmask.errors import InputError, PolicyError
from lossmask.flat_batch import FlatBatch
from lossmask.packed_examples import pack_examples
from lossmask.padding_free import PaddingFreeCollator
from lossmask.prepared import load_prepared
from lossmask.training import TrainingResult, train
from tests.tiny_models import (
    Rows,
    assert_same,
    parameters,
    tiny_examples,
    tiny_model,
    write_prepared,
)

LENGTH = 32


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    examples = tiny_examples(20)
    return write_prepared(tmp_path / "prepared", [examples[:9], examples[9:]])


def run(data: Any, output: Path, **changes: Any) -> tuple[TrainingResult, dict[str, Any]]:
    """Make one full-batch step of plain gradient descent on a tiny Llama, unless told otherwise."""
    settings: dict[str, Any] = {
        "epochs": 1,
        "learning_rate": 0.1,
        "batch_size": 20,
        "training_arguments": {"use_cpu": True, "optim": "sgd", "max_grad_norm": 0},
        **changes,
    }
    model = settings.pop("model", None) or tiny_model("llama")
    result = train(data, model, output, **settings)
    return result, parameters(AutoModelForCausalLM.from_pretrained(output))


def test_an_item_is_the_examples_of_a_pack_and_a_batch_those_of_some(prepared: Path) -> None:
    data = load_prepared(prepared)
    packed = pack_examples(data, LENGTH, seed=1)
    assert len(packed) == len(packed.packs) < 8
    item = packed[2]
    assert isinstance(item, FlatBatch)
    assert item.numbers is not None
    assert item.numbers.tolist() == packed.packs[2].tolist()
    batch = packed.__getitems__([2, 0])
    assert isinstance(batch, FlatBatch)
    assert batch.numbers is not None
    assert batch.numbers.tolist() == [*packed.packs[2].tolist(), *packed.packs[0].tolist()]
    with pytest.raises(IndexError, match=f"pack {len(packed)} of"):
        packed[len(packed)]


def test_a_list_packs_as_a_prepared_folder_does(prepared: Path) -> None:
    collate = PaddingFreeCollator()
    batches = []
    for data in (load_prepared(prepared), tiny_examples(20), Rows(tiny_examples(20))):
        packed: Any = pack_examples(data, LENGTH)
        batches.append(list(DataLoader(packed, batch_size=2, collate_fn=collate)))
    for other in batches[1:]:
        for ours, theirs in zip(batches[0], other, strict=True):
            assert all(ours[name].equal(theirs[name]) for name in ours)


def test_an_example_longer_than_a_pack_is_named_as_it_is_in_its_data(prepared: Path) -> None:
    data = load_prepared(prepared)
    longest, most = int(data.lengths.argmax()), int(data.lengths.max())
    with pytest.raises(InputError, match=rf"prepared: example {longest} \(input row {longest}\)"):
        pack_examples(data, most - 1)
    part: Any = Subset(data, [3, longest])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"^example {longest} has {most} tokens"):
        pack_examples(part, most - 1)
    with pytest.raises(InputError, match=rf"^example {longest} has {most} tokens"):
        pack_examples(tiny_examples(20), most - 1)


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_an_update_on_packs_is_that_on_padded_batches(
    prepared: Path, tmp_path: Path, batch_size: int
) -> None:
    padded, weights = run(prepared, tmp_path / "padded", eval_folder=prepared)
    packed, same = run(
        prepared,
        tmp_path / "packed",
        packing=LENGTH,
        batch_size=batch_size,
        gradient_accumulation=20,
        eval_folder=prepared,
    )
    assert (packed.steps, packed.tokens) == (padded.steps, padded.tokens) == (1, padded.tokens)
    assert packed.supervised_tokens == padded.supervised_tokens
    assert_same(weights, same, atol=2e-6)
    assert packed.metrics["eval_loss"] == pytest.approx(padded.metrics["eval_loss"], abs=1e-6)
    assert padded.packing_efficiency is None
    packs = pack_examples(load_prepared(prepared), LENGTH).packs
    assert packed.packing_efficiency == packs.efficiency > 0.7


def test_by_default_a_step_is_one_pack(prepared: Path, tmp_path: Path) -> None:
    result, _ = run(prepared, tmp_path / "out", packing=LENGTH, batch_size=None, epochs=2)
    assert result.steps == 2 * len(pack_examples(load_prepared(prepared), LENGTH))
    padded, _ = run(prepared, tmp_path / "padded", batch_size=None)
    assert padded.steps == 3  # of 8 examples


def test_a_run_on_packs_is_resumed_as_if_it_had_not_ended(prepared: Path, tmp_path: Path) -> None:
    every = {"use_cpu": True, "save_steps": 2}
    options: dict[str, Any] = {"packing": LENGTH, "batch_size": 1, "epochs": 2, "seed": 3}
    _, whole = run(prepared, tmp_path / "whole", training_arguments=every, **options)
    out = tmp_path / "out"
    run(prepared, out, training_arguments=every, **options)
    for folder in sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[1:]:
        (folder / "trainer_state.json").unlink()
    result, resumed = run(prepared, out, training_arguments=every, resume=True, **options)
    assert result.resumed_from > 0
    assert_same(whole, resumed, atol=0)
    with pytest.raises(PolicyError, match=f"packing={LENGTH}, now it is {LENGTH + 1}"):
        run(
            prepared,
            out,
            training_arguments=every,
            resume=True,
            **{**options, "packing": LENGTH + 1},
        )


def test_held_out_examples_are_not_packed(prepared: Path, tmp_path: Path) -> None:
    result, _ = run(prepared, tmp_path / "out", packing=LENGTH, eval_share=0.25)
    data = load_prepared(prepared)
    kept = np.random.default_rng(0).permutation(20)[5:]
    assert result.tokens == int(data.lengths[kept].sum())


def test_the_command_trains_on_packs_and_says_how_full_they_are(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    arguments = ["train", str(prepared), "--model", str(tmp_path / "model")]
    options = ["--packing", str(LENGTH), "--epochs", "1", "--arg", "use_cpu=true"]
    with pytest.MonkeyPatch.context() as patch:
        output = ["-o", str(tmp_path / "out")]
        patch.setattr(sys, "argv", ["lossmask", *arguments, *output, *options])
        with pytest.raises(SystemExit) as info:
            main()
    assert info.value.code in (None, 0)
    printed = capsys.readouterr().out
    packs = pack_examples(load_prepared(prepared), LENGTH).packs
    assert f"packs {packs.efficiency:.2%} filled" in printed
    assert re.search(rf"^{len(packs)} steps", printed)
